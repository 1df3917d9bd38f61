"""A log that the engine cannot read any more: what was acknowledged since the last flush comes from the journal."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from deploy.local.paths import ROOT
from drills.engine_crash.passages import DIMENSION, found, rows
from services.retriever.engines.edge.store import EdgeStore
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings
from services.retriever.store import PLAIN, point_id

_VERSION = "docs-v1"
_PASSAGES, _REMOVED, _CHANGED = 400, 50, 100

# A fault of Qdrant Edge 0.9.0: the update fails, and so does every later reading of the log that it is in.
_POISON = """
import os, sys, uuid
import qdrant_edge as edge
shard = edge.EdgeShard.load(sys.argv[1])
vectors = {"dense": [1.0] * int(sys.argv[2]), "lexical": edge.SparseVector([1, 2, 3], [1.0, 2.0])}
try:
    shard.update(edge.UpdateOperation.upsert_points([edge.Point(str(uuid.uuid4()), vectors, {})]))
except BaseException:
    os._exit(0)
os._exit(1)
"""


async def poisoned_log(folder: Path, times: int) -> dict[str, Any]:
    """Write, kill, spoil the log, and open the folder again."""
    lost = not_deleted = doubled = torn = aside = 0
    for number in range(times):
        data = folder / f"poisoned-{number}"
        writer = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "drills.engine_crash.poisoned_log", str(data)), cwd=ROOT
        )
        assert await writer.wait() == -signal.SIGKILL
        [log] = (data / "versions" / _VERSION).rglob("wal")
        poison = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _POISON, str(log.parent), str(DIMENSION)), stderr=asyncio.subprocess.DEVNULL
        )
        assert await poison.wait() == 0, "the engine takes what it could not take"
        for _ in range(2):
            store = await _opened(data)
            actual, more, two = await found(store, _VERSION)
            doubled, torn = doubled + more, torn + two
            lost += sum(actual.get(name) != revision for name, revision in _expected().items())
            not_deleted += len(actual.keys() - _expected().keys())
            await store.close()
        aside += len([path for path in (data / "versions" / _VERSION).rglob("wal*") if path.is_dir()]) - 1
    return {
        "drill": "embedded engine: its log cannot be read",
        "kills": times,
        "expected": f"{times} times the {len(_expected())} passages that were acknowledged and never flushed, "
        "and the log set aside",
        "observed": f"{lost} lost, {not_deleted} not deleted, {doubled} doubled, {torn} torn, {aside} logs aside",
        "ok": not (lost or not_deleted or doubled or torn) and aside == times,
    }


async def _opened(data: Path) -> EdgeStore:
    settings = RetrieverSettings(qdrant_path=data, qdrant_free_bytes=0)
    return await EdgeStore.open(settings, RetrieverMetrics(CollectorRegistry()))


def _names() -> list[str]:
    return [f"d{number}" for number in range(_PASSAGES)]


def _expected() -> dict[str, str]:
    names = _names()[_REMOVED:]
    return {**dict.fromkeys(names, "first"), **dict.fromkeys(names[:_CHANGED], "second")}


async def _write(data: Path) -> None:
    store = await _opened(data)
    await store.create(_VERSION, DIMENSION, PLAIN, {}, None)
    names = _names()
    await store.write(_VERSION, rows(names, "first"), None)
    await store.remove(_VERSION, [point_id(name) for name in names[:_REMOVED]], None)
    changed = names[_REMOVED : _REMOVED + _CHANGED]
    still = {point_id(name): "first" for name in changed}
    await store.write(_VERSION, rows(changed, "second"), None, still)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(_write(Path(sys.argv[1])))
