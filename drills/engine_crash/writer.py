"""The process that is killed, with its child: writes, switches, flushes, and compares what is there with the ledger.

`python -m drills.engine_crash.writer FOLDER SECONDS`. Each comparison is a line of `FOLDER/compared.jsonl`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry

from drills.engine_crash.ledger import Changes, Ledger
from drills.engine_crash.passages import DIMENSION, found, rows
from services.chassis.errors import SluiceError
from services.retriever.engines.edge.store import EdgeStore
from services.retriever.fields import FieldType
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings
from services.retriever.store import PLAIN, Parts, point_id

COMPARED, LEDGER, DATA, READY = "compared.jsonl", "ledger.jsonl", "qdrant", "ready"
_ALIAS = "docs"
_PASSAGES = 400
_PAUSE = 1.7  # seconds: long enough for a flush


class Writer:
    """Changes a collection at random."""

    def __init__(self, folder: Path, store: EdgeStore) -> None:
        self._store = store
        self._ledger = Ledger(folder / LEDGER)
        self._compared = os.open(folder / COMPARED, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._ready = folder / READY
        self._version = ""

    async def begin(self) -> None:
        """Find the live version, delete what is left of others, or create the first one."""
        versions, aliases = await self._store.catalogue(None)
        self._version = aliases.get(_ALIAS, "")
        for version in versions:
            if version != self._version:
                await self._store.drop(version, None)
        if not self._version:
            await self._new("docs-v1")

    async def compare(self) -> None:
        """Write down how the live version differs from the ledger."""
        actual, doubled, torn = await found(self._store, self._version)
        line = {"passages": len(actual), "lost": self._ledger.wrong(actual), "doubled": doubled, "torn": torn}
        os.write(self._compared, f"{json.dumps(line)}\n".encode())
        self._ready.touch()

    async def change(self) -> None:
        """Do something."""
        kind = random.choices(
            (self._write, self._write_if_unchanged, self._remove, self._switch, self._declare, self._pause),
            (8, 4, 3, 1, 1, 2),
        )[0]
        await kind()

    async def _write(self) -> None:
        revision = str(time.time_ns())
        names = _some(random.choice((1, 10, 150)))
        changes = dict.fromkeys(names, revision)
        await self._acknowledged(changes, self._store.write(self._version, rows(names, revision), None))

    async def _write_if_unchanged(self) -> None:
        known = self._ledger.settled()
        names = [name for name in _some(60) if name in known]
        stale = set(names[::3])
        revision = str(time.time_ns())
        still = {point_id(name): "another" if name in stale else known[name] for name in names}
        changes = {name: revision for name in names if name not in stale}
        await self._acknowledged(changes, self._store.write(self._version, rows(names, revision), None, still))

    async def _remove(self) -> None:
        names = _some(40)
        gone = self._store.remove(self._version, [point_id(name) for name in names], None)
        await self._acknowledged(dict.fromkeys(names), gone)

    async def _switch(self) -> None:
        before = self._version
        await self._new(f"docs-v{int(before.removeprefix('docs-v')) + 1}")
        await self._store.drop(before, None)

    async def _declare(self) -> None:
        await self._store.declare(self._version, {"revision": FieldType.KEYWORD}, None)

    async def _pause(self) -> None:
        await asyncio.sleep(random.uniform(0, _PAUSE))

    async def _new(self, version: str) -> None:
        await self._store.create(version, DIMENSION, PLAIN, {}, None)
        start = None
        while self._version:
            page, start = await self._store.scroll(self._version, start, 500, Parts.VECTOR, None)
            await self._store.write(version, page, None)
            if start is None:
                break
        await self._store.point(_ALIAS, version, None)
        self._version = version

    async def _acknowledged(self, changes: Changes, operation: Awaitable[None]) -> None:
        self._ledger.intend(changes)
        await operation
        self._ledger.done(changes)


async def main(folder: Path, seconds: float) -> None:
    """Write for so long."""
    settings = RetrieverSettings(qdrant_path=folder / DATA, qdrant_free_bytes=0)
    store = await EdgeStore.open(settings, RetrieverMetrics(CollectorRegistry()))
    writer = Writer(folder, store)
    await writer.begin()
    await writer.compare()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        # The child is killed under it now and then: the ledger knows that both may be.
        with suppress(SluiceError):
            for _ in range(random.randint(1, 12)):
                await writer.change()
        with suppress(SluiceError):
            await writer.begin()
            await writer.compare()
    await writer.begin()
    await writer.compare()
    await store.close()


def _some(count: int) -> list[str]:
    return [f"d{number}" for number in random.sample(range(_PASSAGES), count)]


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2])))
