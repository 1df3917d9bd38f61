"""Building a version: comparing it with the live one, and copying the differences.

Why the two agree in the end. Each write gives its passages a revision, never used again, which their copies keep. To
make passages follow is to repeat, until nothing differs: read the revisions in the version being built; see that it is
still being built; read the live version; write what differs, each passage only if its revision is still the one that
was read. So what is copied was read from the live version after the revision that it replaces, and an older text never
replaces a newer one: between the two stands the revision of the newer. A writer makes its passages follow after it has
written, and before it answers; the copying goes through all passages of both sides. A writer that has not seen the
note of the building had written before the note was made, and the copying, begun later, finds what it wrote. A passage
that a copy brings back while it is being deleted is found by the copying's own repetition. In a cluster, whose nodes
learn of a note or a switch at different moments, all of them do before anything follows from it: see `versions`.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.chassis.errors import InvalidArgument
from services.retriever.collections.catalogue import Collections
from services.retriever.collections.versions import Versions
from services.retriever.documents import Passage
from services.retriever.rows import MAX_BATCH, check_ids, rows_for
from services.retriever.store import Deadline, Parts, PassageStore, PointId, Reader, Row, point_id


class Side(enum.Enum):
    """The version whose passages a comparison goes through."""

    LIVE = "live"
    BUILDING = "building"


@dataclass(frozen=True, slots=True)
class Difference:
    """A passage that a version being built does not have as the live one has it."""

    id: str
    passage: Passage | None
    """As it is in the live version; None where it is not there."""
    revision: str
    """The write that made it there; empty where it is not there."""
    building_revision: str
    """The same of the version being built."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The differences among the passages compared, and where to go on."""

    differences: Sequence[Difference]
    compared: int
    next_cursor: str


class Building:
    """Fills versions."""

    def __init__(self, store: PassageStore, collections: Collections, versions: Versions) -> None:
        self._store = store
        self._reader = Reader(store)
        self._collections = collections
        self._versions = versions

    async def compare(
        self,
        collection: str,
        version: str,
        *,
        ids: Sequence[str] = (),
        side: Side = Side.LIVE,
        cursor: str = "",
        limit: int = MAX_BATCH,
        deadline: Deadline = None,
    ) -> Comparison:
        """Return the differences among passages of these ids, or else among the next ones of a side.

        Raises FailedPrecondition (NOT_BUILDING) unless `version` is being built from the live version.
        """
        live = await self._versions.building_from(collection, version, deadline)
        next_cursor = ""
        if ids:
            check_ids(ids, "ids")
            points = [point_id(passage_id) for passage_id in dict.fromkeys(ids)]
        else:
            points, next_cursor = await self._next(live if side is Side.LIVE else version, cursor, limit, deadline)
        if not points:
            return Comparison((), 0, next_cursor)
        built = await self._keys(version, points, deadline)
        # Only now: after the switch the version is written directly, and such a revision must not be taken for old.
        live = await self._versions.building_from(collection, version, deadline)
        current = await self._keys(live, points, deadline)
        differing = [point for point in points if _revision(built, point) != _revision(current, point)]
        whole, left_out = await self._whole(live, differing, deadline)
        if left_out:
            # The rest does not fit into an answer. Pages go in the order of points, so the next one begins here.
            next_cursor, points = (next_cursor if ids else left_out), points[: points.index(left_out)]
            differing = differing[: differing.index(left_out)]
        differences = []
        for point in differing:
            new, old = whole.get(point), built.get(point)
            if row := new or old:
                revision, building_revision = new.revision if new else "", old.revision if old else ""
                differences.append(Difference(row.passage.id, new and new.passage, revision, building_revision))
        return Comparison(differences, len(points), next_cursor)

    async def copy(
        self,
        version: str,
        wanted: Sequence[Difference],
        *,
        model_fingerprint: str,
        token_model_fingerprint: str = "",
        deadline: Deadline = None,
    ) -> None:
        """Write passages to a version being built, with their vectors, and remove those that are None.

        Each is written or removed only if the version still has `building_revision` of it, or none.
        """
        copies = [one for one in wanted if one.passage]
        removals = {point_id(one.id): one.building_revision for one in wanted if not one.passage}
        if len(copies) > MAX_BATCH or len(removals) > MAX_BATCH:
            raise InvalidArgument("passages", f"has more than {MAX_BATCH} entries")
        revised = [(one.passage, one.revision) for one in copies if one.passage]
        with self._collections.writing(version, [passage for passage, _ in revised]):
            info = await self._collections.get(version, deadline)
            info.check_model(model_fingerprint)
            if copies:
                info.check_token_model(token_model_fingerprint)
            rows = await rows_for(self._collections, info, revised, deadline)
            before = {row.id: one.building_revision for row, one in zip(rows, copies, strict=True)}
            await self._store.write(version, rows, deadline, before)
            # A version that is to have keys since wants them of these passages, too.
            after = await self._collections.get(version, deadline)
            if after.relations != info.relations:
                rows = await rows_for(self._collections, after, revised, deadline)
                await self._store.write(version, rows, deadline, {row.id: row.revision for row in rows})
        if removals:
            await self._collections.uncount(await self._collections.get(version, deadline), deadline)
            await self._store.remove(version, list(removals), deadline, removals)

    async def _next(self, version: str, cursor: str, limit: int, deadline: Deadline) -> tuple[list[PointId], str]:
        """Return the next points of a version, and the cursor after them."""
        if not 1 <= limit <= MAX_BATCH:
            raise InvalidArgument("limit", f"is {limit}; send 1 to {MAX_BATCH}")
        try:
            start = str(uuid.UUID(cursor)) if cursor else None
        except ValueError:
            raise InvalidArgument("cursor", "is not one that an answer gave") from None
        rows, following = await self._store.scroll(version, start, limit, Parts.KEYS, deadline)
        return [row.id for row in rows], following or ""

    async def _keys(self, version: str, points: Sequence[PointId], deadline: Deadline) -> dict[PointId, Row]:
        """Return the ids and revisions of the passages that exist, by their points."""
        return {row.id: row for row in await self._store.read(version, points, Parts.KEYS, deadline)}

    async def _whole(
        self, live: str, points: Sequence[PointId], deadline: Deadline
    ) -> tuple[dict[PointId, Row], PointId]:
        """Return passages by their points, and the first point for which an answer has no room."""
        found, end, _ = await self._reader.read(live, points, deadline)
        return found, points[end] if end < len(points) else ""


def _revision(rows: Mapping[PointId, Row], point: PointId) -> str:
    return rows[point].revision if point in rows else ""
