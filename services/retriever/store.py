"""The port behind which passages are kept, in the product's own types; `engines` implements it."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from services.chassis.validation import split_version
from services.late.codes import Codes
from services.retriever.documents import Passage, Vector
from services.retriever.fields import ALL, Filter, Scalar, Schema
from services.retriever.layout import Layout
from services.retriever.lexical import SparseVector

PointId = str
"""Id of a passage within a version: the same in every version, and the order of `PassageStore.scroll`."""

Deadline = float | None
"""A moment on the monotonic clock; None where there is none."""
Notes = Mapping[str, Any]
Query = Vector | SparseVector
Revisions = Mapping[PointId, str]

ANSWER_BYTES = 4 * 2**20
"""Bytes of passages in one answer, where more than one is in it: messages have a limit."""
_FIRST_ROWS, _MOST_ROWS = 16, 256
_MOST_VERSIONS = 1000

# Never change this: it would orphan everything that is stored.
_POINT_IDS = uuid.UUID("5b0f3d5e-3c1c-4f5a-9d0e-6c3f0f6a7b11")


def point_id(passage_id: str) -> PointId:
    """Return the point of a passage."""
    return str(uuid.uuid5(_POINT_IDS, passage_id))


def number_of(collection: str, version: str) -> int:
    """Return the number in a version's name; 0 where it is not the name of a version of this collection."""
    owner, number = split_version(version)
    return number if owner == collection else 0


class Catalogue(NamedTuple):
    """Names of all versions, and the version behind each alias."""

    versions: Sequence[str]
    aliases: Mapping[str, str]


class Description(NamedTuple):
    """A version, as it is found behind a name."""

    version: str
    notes: Notes
    passage_count: int


class Row(NamedTuple):
    """A passage as it is kept. `revision` identifies the write that made it; "0" where none was recorded."""

    id: PointId
    passage: Passage
    revision: str
    words: SparseVector = SparseVector([], [])
    """Its terms: words, and keys of its relations. Read back with `Parts.VECTOR` and `Parts.WORDS`."""


Hit = tuple[PointId, float]
"""A passage that a search found, and its score: plain, as there are some hundred in a search."""


class Parts(enum.Enum):
    """The parts of a passage that are read."""

    KEYS = "keys"
    """Id, chunk and revision."""
    DENSE = "dense"
    """Id, chunk, revision and vector; neither texts nor words nor token vectors."""
    PASSAGE = "passage"
    """Everything but what is searched with: vector, words and token vectors."""
    WORDS = "words"
    """Id, chunk, revision, texts and words; no vector."""
    TOKENS = "tokens"
    """Id, chunk, revision and token vectors; of a version that has some."""
    VECTOR = "vector"
    """Everything."""


PLAIN = Layout()
"""The layout of versions that say nothing of it."""


class PassageStore(Protocol):
    """Keeps versions of collections and their passages.

    Calls raise the errors of `services.chassis.errors`: NotFound and AlreadyExists about a version, Unavailable and
    ResourceExhausted about the engine. All bear being repeated.

    What `create`, `note`, `drop` and `point` have changed, and the version that made `create` raise AlreadyExists, are
    seen by all later calls, also of other retrievers and through other nodes of a cluster.
    """

    async def check(self, deadline: Deadline) -> None:
        """Raise what keeps the engine from answering."""

    async def close(self) -> None:
        """Free connections and files; calls under way fail."""

    async def catalogue(self, deadline: Deadline) -> Catalogue:
        """Return all versions and aliases."""

    async def describe(self, name: str, deadline: Deadline) -> Description:
        """Describe the version of this name, or behind this alias."""

    async def create(
        self,
        version: str,
        dimension: int,
        layout: Layout,
        notes: Notes,
        deadline: Deadline,
        token_dimension: int = 0,
    ) -> None:
        """Create an empty version for vectors of this dimension, and of this one for tokens; 0 where it has none."""

    async def tune(self, version: str, layout: Layout, deadline: Deadline) -> None:
        """Change the layout of a version as far as the engine can; it may take effect in the background.

        FailedPrecondition (LAYOUT_FIXED) names what it cannot change; nothing is changed then.
        """

    async def note(self, version: str, notes: Notes, deadline: Deadline) -> None:
        """Merge notes into those of a version, by key."""

    async def drop(self, version: str, deadline: Deadline) -> None:
        """Delete a version and its aliases."""

    async def point(self, alias: str, version: str, deadline: Deadline) -> None:
        """Create an alias, or move it in one step."""

    async def declare(self, version: str, schema: Schema, deadline: Deadline, tenant: str = "") -> None:
        """Prepare fields for being filtered on; of a field that has another type by now, rebuild what there is.

        What has the same value in the field `tenant` is kept together.
        """

    async def write(
        self, version: str, rows: Sequence[Row], deadline: Deadline, still: Revisions | None = None
    ) -> None:
        """Write passages durably, each only if it still has its revision in `still`; "" if it is still absent."""

    async def replace_words(
        self, version: str, words: Mapping[PointId, SparseVector], still: Revisions, deadline: Deadline
    ) -> None:
        """Replace the words of passages, each only if it still has its revision in `still`; nothing else changes."""

    async def remove(
        self, version: str, ids: Sequence[PointId], deadline: Deadline, still: Revisions | None = None
    ) -> None:
        """Remove passages, each only if it still has its revision in `still`, where that is given."""

    async def search(
        self,
        version: str,
        searches: Sequence[Query],
        limit: int,
        condition: Filter,
        deadline: Deadline,
        layout: Layout = PLAIN,
    ) -> Sequence[Sequence[Hit]]:
        """Return the best passages of each search by dot product, best first.

        Of sparse vectors each product is multiplied by the term's IDF in the version.
        """

    async def holders(
        self,
        version: str,
        terms: Sequence[int],
        limit: int,
        condition: Filter,
        deadline: Deadline,
        among: Sequence[PointId] = (),
    ) -> Sequence[Sequence[PointId]]:
        """Return passages that have each term, in no order, of all or of those in `among`, at most `limit` of each."""

    async def compare(
        self, version: str, tokens: Codes, points: Sequence[PointId], deadline: Deadline
    ) -> Mapping[PointId, float]:
        """Compare passages with a query by token vectors: the sum over the query's of the best dot product (MaxSim).

        Passages that are gone, or have no token vectors, are left out.
        """

    async def read(
        self,
        version: str,
        ids: Sequence[PointId],
        parts: Parts,
        deadline: Deadline,
        keys: Sequence[PointId] = (),
    ) -> Sequence[Row]:
        """Return the passages that exist, in no order; of those in `keys`, only their keys."""

    async def scroll(
        self, version: str, start: PointId | None, limit: int, parts: Parts, deadline: Deadline, condition: Filter = ALL
    ) -> tuple[Sequence[Row], PointId | None]:
        """Return matching passages from `start` on in the order of their points, and the start of the next ones."""

    async def count(self, version: str, deadline: Deadline, condition: Filter = ALL) -> int:
        """Count matching passages exactly."""

    async def facet(
        self, version: str, field: str, limit: int, condition: Filter, deadline: Deadline
    ) -> Sequence[tuple[Scalar, int]]:
        """Return the most frequent values of a declared field among matching passages, each with their exact number."""


class Read(NamedTuple):
    """Outcome of reading passages."""

    whole: dict[PointId, Row]
    """Those that exist and had room, in order."""
    end: int
    """Number of the points that they were looked for at."""
    others: dict[PointId, Row]
    """Keys of further ones, and perhaps more."""


class Reader:
    """Reads passages whole, as many as an answer has room for: in one trip once their usual size is known."""

    def __init__(self, store: PassageStore) -> None:
        self._store = store
        self._sizes: dict[str, float] = {}
        """Mean bytes of a passage, by version."""

    async def read(
        self,
        version: str,
        points: Sequence[PointId],
        deadline: Deadline,
        *,
        least: int = 1,
        keys: Sequence[PointId] | None = None,
    ) -> Read:
        """Read passages in order until an answer is full; at least the first `least` of them.

        If `keys` are given, return those of these points and of all that had no room.
        """
        read: dict[PointId, Row] = {}
        found: dict[PointId, Row] = {}
        end = asked = size = sized = 0
        step, full = self._step(version), False
        while end < len(points) and not full:
            some = points[end : end + step]
            further = (keys or ()) if asked == 0 else ()
            asked += len(some)
            rows = await self._store.read(version, some, Parts.PASSAGE, deadline, further)
            read |= {row.id: row for row in rows}
            for point in some:
                if (row := read.get(point)) is not None:
                    size, sized = size + row.passage.size, sized + 1
                    if full := size > ANSWER_BYTES and end >= least:
                        break
                    found[point] = row
                end += 1
            # As many as have room if the others are like these.
            step = max(1, min(_MOST_ROWS, int(end * (ANSWER_BYTES / (size or 1) - 1))))
        if asked:
            self._learn(version, size / max(1, sized))
        if keys is not None and (left := [*points[asked:], *(() if asked else keys)]):
            read |= {row.id: row for row in await self._store.read(version, left, Parts.KEYS, deadline)}
        return Read(found, end, {point: row for point, row in read.items() if point not in found})

    def _step(self, version: str) -> int:
        size = self._sizes.get(version)
        return _FIRST_ROWS if size is None else max(1, min(_MOST_ROWS, int(ANSWER_BYTES / max(1.0, size))))

    def _learn(self, version: str, size: float) -> None:
        if len(self._sizes) >= _MOST_VERSIONS:
            self._sizes.clear()
        self._sizes[version] = (self._sizes.get(version, size) + size) / 2
