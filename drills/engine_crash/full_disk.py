"""A disk that fills up: `python -m drills.engine_crash.full_disk FOLDER RESERVE`, on a small disk."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from deploy.local.paths import ROOT
from drills.engine_crash.passages import DIMENSION, found, row, rows
from services.chassis.errors import SluiceError
from services.retriever.engines.edge.store import EdgeStore
from services.retriever.fields import ALL
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings
from services.retriever.store import PLAIN

MEGABYTES, _BALLAST = 320, 96
_VERSION = "docs-v1"
_BATCH = 250
_MOST = 200_000
_RECOVERY_SECONDS = 60


async def full_disk(reserve: int) -> dict[str, Any]:
    """Run the drill on a disk in memory that only its process sees."""
    script = (
        f'd=$(mktemp -d) && mount -t tmpfs -o size={MEGABYTES}m tmpfs "$d" && '
        f'exec "$0" -m drills.engine_crash.full_disk "$d" {reserve}'
    )
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, sys.executable),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the drill on a small disk ended with {process.returncode}")
    row: dict[str, Any] = json.loads(output.splitlines()[-1])
    return row


async def main(folder: Path, reserve: int) -> dict[str, Any]:
    """Write until there is no room; look; make room; go on."""
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(_BALLAST * 2**20))
    settings = RetrieverSettings(qdrant_path=folder / "qdrant", qdrant_free_bytes=reserve)
    store = await EdgeStore.open(settings, RetrieverMetrics(CollectorRegistry()))
    first = store.pid
    await store.create(_VERSION, DIMENSION, PLAIN, {}, None)
    acknowledged: set[str] = set()
    refused: SluiceError | None = None
    while refused is None and len(acknowledged) < _MOST:
        refused = await _write(store, acknowledged)
    reason = getattr(refused, "reason", "none")
    died = store.pid != first
    if not died:
        served = len((await store.search(_VERSION, [row("p0", "r").words], 5, ALL, None))[0])
    ballast.unlink()
    started = time.monotonic()
    later = refused
    while later is not None and time.monotonic() < started + _RECOVERY_SECONDS:
        later = await _write(store, acknowledged)
        await asyncio.sleep(0.05)
    actual, doubled, torn = await found(store, _VERSION)
    missing = len(acknowledged - actual.keys())
    await store.close()
    how = "its process died" if died else f"a search found {served} meanwhile"
    return {
        "drill": f"embedded engine: a full disk, {reserve // 2**20} MiB of which are to stay free",
        "kills": int(died),
        "expected": "STORAGE_FULL; with room again it goes on, and every acknowledged passage is there once",
        "observed": f"{reason} after {len(acknowledged):,} passages ({how}); with room again "
        f"{'a write succeeded' if later is None else later.reason}; {missing} missing, {doubled} doubled, {torn} torn",
        "ok": reason == "STORAGE_FULL" and later is None and not (missing or doubled or torn) and (died or served > 0),
    }


async def _write(store: EdgeStore, acknowledged: set[str]) -> SluiceError | None:
    names = [f"p{len(acknowledged) + number}" for number in range(_BATCH)]
    try:
        await store.write(_VERSION, rows(names, "r"), time.monotonic() + 30)
    except SluiceError as error:
        return error
    acknowledged.update(names)
    return None


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        print(json.dumps(asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))))  # noqa: T201  to the drill
