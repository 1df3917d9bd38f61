"""Taking of a snapshot: all passages of a version, while it is read and written.

The version is gone through by its keys, in the order of the points, again and again: what the snapshot has not, or has
with another revision, is read and written, and what the version has no more is noted as gone. When a pass finds no
difference, the snapshot is the version as it was when that pass began: whatever was written since lies behind the
place that the pass had come to. Their counts agree, or the pass is repeated.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime

from services.chassis.errors import Unavailable
from services.retriever.backups.format import MANIFEST, Manifest, Part, write_part
from services.retriever.backups.ledger import Ledger, Reading, record_of
from services.retriever.backups.storage import SnapshotStorage
from services.retriever.collections.descriptions import FIRST_POINT
from services.retriever.store import Deadline, Notes, Parts, PassageStore, PointId, Row

MOST_PASSES = 20
# Between passes, doubled each time: who writes without a break today may make one later.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.02, 5.0
PART_BYTES = 16 * 2**20
KEYS_AT_ONCE = 1000

# Rows read at once: as many as are about this large together.
_READ_BYTES = 4 * 2**20
_FIRST_ROWS, _MOST_ROWS = 32, 512
# Bytes of a row beside its texts and numbers, about.
_ROW_BYTES = 100


class Taking:
    """Takes one snapshot."""

    def __init__(
        self,
        store: PassageStore,
        storage: SnapshotStorage,
        version: str,
        name: str,
        deadline: Deadline,
        *,
        keys_at_once: int = KEYS_AT_ONCE,
        part_bytes: int = PART_BYTES,
    ) -> None:
        """Write parts of about `part_bytes`, and read `keys_at_once`."""
        self._store = store
        self._storage = storage
        self._version = version
        self._name = name
        self._deadline = deadline
        self._keys_at_once = keys_at_once
        self._part_bytes = part_bytes
        self._step = _FIRST_ROWS
        self._changed = 0
        self._parts: list[Part] = []
        self._rows: list[Row] = []
        self._gone: list[PointId] = []
        self._size = 0

    async def run(self) -> AsyncGenerator[int, None]:
        """Write the snapshot; yield the number of passages that a pass has gone through, again and again.

        Raises Unavailable (CONTENDED) if so much is written that no pass finds the version as the one before left it.
        """
        begun = (await self._store.describe(self._version, self._deadline)).notes
        with ExitStack() as stack:
            ledger = stack.enter_context(Ledger())
            for number in range(MOST_PASSES):
                began = datetime.now(UTC)
                following = stack.enter_context(Ledger())
                self._changed = 0
                async for done in self._pass(ledger, following):
                    yield done
                await self._flush()
                ledger.close()
                ledger = following
                if not self._changed and await self._store.count(self._version, self._deadline) == ledger.count:
                    await self._finish(began, ledger, begun)
                    return
                if number:  # the first pass finds everything
                    await asyncio.sleep(min(FIRST_PAUSE_SECONDS * 2**number, LONGEST_PAUSE_SECONDS))
        raise Unavailable(
            f"{self._version!r} is written faster than a snapshot can follow; take it at a quieter time",
            reason="CONTENDED",
        )

    async def _pass(self, before: Ledger, after: Ledger) -> AsyncGenerator[int, None]:
        """Go through the version once: write and note what is not as in `before`, and make `after`."""
        known = Reading(before)
        start: PointId | None = None
        done = 0
        while True:
            rows, start = await self._store.scroll(self._version, start, self._keys_at_once, Parts.KEYS, self._deadline)
            records = {row.id: record_of(row) for row in rows}
            had: dict[PointId, bytes] = {}
            for point, record in records.items():
                self._remove(known.before(record))
                had[point] = known.same(record)
            if start is None:
                self._remove(known.rest())
            copied = await self._copy([point for point, record in records.items() if had[point] != record])
            for point, record in records.items():
                if now := copied.get(point, record):
                    after.add(now)
                elif had[point]:
                    self._remove([point])
            self._changed += len(copied)
            done += len(rows)
            yield done
            if start is None:
                return

    async def _copy(self, points: Sequence[PointId]) -> dict[PointId, bytes]:
        """Read and write passages; return their records, empty where one has just been deleted."""
        copied = dict.fromkeys(points, b"")
        while points:
            some, points = points[: self._step], points[self._step :]
            size = self._size
            for row in await self._store.read(self._version, some, Parts.VECTOR, self._deadline):
                copied[row.id] = record_of(row)
                self._rows.append(row)
                self._size += _size_of(row)
            self._step = max(1, min(_MOST_ROWS, _READ_BYTES * len(some) // max(1, self._size - size)))
            if self._size > self._part_bytes:
                await self._flush()
        return copied

    def _remove(self, points: Sequence[PointId]) -> None:
        self._gone += points
        self._changed += len(points)

    async def _flush(self) -> None:
        """Write what was read as the next part."""
        if not self._rows and not self._gone:
            return
        rows, gone, self._rows, self._gone, self._size = self._rows, self._gone, [], [], 0
        # Long enough to hold up all other calls.
        content = await asyncio.to_thread(write_part, rows, gone)
        file = f"part-{len(self._parts):06}.zip"
        await self._storage.write(self._version, self._name, file, content, self._deadline)
        digest = hashlib.sha256(content).hexdigest()
        self._parts.append(Part(file, len(content), digest, len(rows), len(gone)))

    async def _finish(self, began: datetime, ledger: Ledger, begun: Notes) -> None:
        # Only now: fields may have been declared meanwhile.
        notes = dict((await self._store.describe(self._version, self._deadline)).notes)
        # Passages that were given keys meanwhile may have been read before, as that changes no revision.
        if begun.get("enriching") or begun.get("relations", "") != notes.get("relations", ""):
            notes["enriching"] = begun.get("enriching") or FIRST_POINT
        manifest = Manifest(self._version, began.isoformat(), ledger.count, ledger.sha256, notes, self._parts)
        await self._storage.write(self._version, self._name, MANIFEST, manifest.to_bytes(), self._deadline)


def _size_of(row: Row) -> int:
    return row.passage.size + row.passage.vectors_size + 8 * len(row.words.indices) + _ROW_BYTES
