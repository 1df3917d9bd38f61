"""Enrichment: giving the passages of a version, in place, the keys of their relations.

The version's notes say first that its passages have keys, and that they are being given them (`enriching`): from then
on every writer gives keys to what it writes, and hops are refused. A writer that had read the notes before reads them
once more after it has written, and writes again. So what is gone through afterwards, in the order of the points, is all
that may lack keys. The notes keep the place, so that a run that is broken off can be taken up again.

Words are replaced only where the passage still has the revision that was read: what was written since has its keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from services.chassis.errors import FailedPrecondition
from services.retriever.collections.catalogue import Collections
from services.retriever.collections.descriptions import FIRST_POINT, CollectionInfo
from services.retriever.lexical import SparseVector
from services.retriever.relations.hops import RULES
from services.retriever.relations.keys import KEYS, Keys, keys_of, with_keys
from services.retriever.relations.report import KeyCounts, Report
from services.retriever.store import ANSWER_BYTES, Deadline, Parts, PassageStore, PointId, Row
from sluice.type.v1 import relation_pb2

PASSAGES_A_NOTE = 4096
"""Passages between notes of the place."""
MOST_ROWS = 512
_FIRST_ROWS = 32
# Bytes of a row beside its text, about.
_ROW_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Step:
    """Progress of an enrichment."""

    version: str
    done: int
    """Passages gone through, with those of earlier runs, about."""
    total: int
    """Passages to go through, about."""
    changed: int
    """Passages that were given keys by this run."""
    report: Report | None = None
    """In the last step, where it was asked for."""

    def to_proto(self) -> relation_pb2.EnrichmentProgress:
        """Write the progress."""
        return relation_pb2.EnrichmentProgress(
            done_count=min(self.done, self.total), total_count=self.total, changed_count=self.changed
        )


class Enriching:
    """Gives keys to passages."""

    def __init__(
        self,
        store: PassageStore,
        collections: Collections,
        *,
        passages_a_note: int = PASSAGES_A_NOTE,
        most_rows: int = MOST_ROWS,
    ) -> None:
        """Note the place after so many passages, and read at most `most_rows` at once."""
        self._store = store
        self._collections = collections
        self._passages_a_note = passages_a_note
        self._most_rows = most_rows

    async def run(
        self, collection: str, *, report: bool = False, deadline: Deadline = None
    ) -> AsyncGenerator[Step, None]:
        """Give keys to all passages that have none, from the place on that an earlier run has come to.

        For a report all passages are gone through. Raises FailedPrecondition (OTHER_KEYS) if there are keys by other
        rules.
        """
        info = await self._begin(await self._collections.get(collection, deadline), deadline)
        total = await self._store.count(info.version, deadline)
        counts = KeyCounts(RULES.most_holders) if report else None
        place = None if report else info.enriching or None
        done = round(total * _share_before(place)) if place else 0
        changed = unnoted = 0
        if info.enriching or report:
            step = _FIRST_ROWS
            while True:
                rows, following = await self._store.scroll(info.version, place, step, Parts.WORDS, deadline)
                keys = await asyncio.to_thread(_keys_of, rows, counts)
                if info.enriching and rows and rows[-1].id >= info.enriching:
                    changed += await self._give(info.version, rows, keys, deadline)
                    unnoted += len(rows)
                done += len(rows)
                if following is None:
                    break
                if unnoted >= self._passages_a_note:
                    await self._collections.note(info.version, deadline, enriching=following)
                    unnoted = 0
                yield Step(info.version, done, total, changed)
                place, step = following, min(self._most_rows, _rows_of_an_answer(rows))
            if info.enriching:
                await self._collections.note(info.version, deadline, enriching="")
        made = await asyncio.to_thread(counts.report) if counts else None
        yield Step(info.version, total, total, changed, made)

    async def _begin(self, info: CollectionInfo, deadline: Deadline) -> CollectionInfo:
        if info.relations not in ("", KEYS):
            raise FailedPrecondition(
                f"the passages of {info.version!r} have keys by the rules {info.relations!r}, and this release has "
                f"{KEYS!r}; enrich it with the release that made them, or reindex the collection",
                reason="OTHER_KEYS",
                collection=info.version,
            )
        if not info.relations:
            await self._collections.note(info.version, deadline, relations=KEYS, enriching=FIRST_POINT)
            info = await self._collections.get(info.version, deadline)
        return info

    async def _give(self, version: str, rows: Sequence[Row], keys: Sequence[Keys], deadline: Deadline) -> int:
        """Add the keys of passages to their words; return the number of those that had not all of them."""
        given = await asyncio.to_thread(_lacking, rows, keys)
        if given:
            still = {row.id: row.revision for row in rows if row.id in given}
            await self._store.replace_words(version, given, still, deadline)
        return len(given)


def _keys_of(rows: Sequence[Row], counts: KeyCounts | None) -> list[Keys]:
    found = [keys_of(row.passage) for row in rows]
    if counts is not None:
        counts.add([row.passage for row in rows], found)
    return found


def _lacking(rows: Sequence[Row], keys: Sequence[Keys]) -> dict[str, SparseVector]:
    """Return the words with keys of the passages that have not all of their keys."""
    given = {}
    for row, own in zip(rows, keys, strict=True):
        words = with_keys(row.passage, row.words, own)
        if len(words.indices) > len(row.words.indices):
            given[row.id] = words
    return given


def _share_before(point: PointId) -> float:
    """Return the share of all passages that lie before a point, about: points are hashes."""
    return int(point[:8], 16) / 2**32


def _rows_of_an_answer(rows: Sequence[Row]) -> int:
    """Return the number of rows that fill an answer if they are like these."""
    size = sum(row.passage.size + _ROW_BYTES for row in rows)
    return max(1, ANSWER_BYTES * len(rows) // max(1, size))
