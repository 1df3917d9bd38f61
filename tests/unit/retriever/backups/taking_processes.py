"""Makes processes that take snapshots until they are killed: one for each line that is read."""

from __future__ import annotations

import asyncio
import os
import sys

from services.retriever.backups.storage import SnapshotStorage
from services.retriever.backups.taking import Taking
from tests.unit.retriever.backups.listed_store import filled


async def take_for_ever(folder: str) -> None:
    store, _, _ = await filled(40)
    storage = SnapshotStorage(folder)
    while True:
        name = storage.new_name("docs-v1")
        async for _ in Taking(store, storage, "docs-v1", name, None, keys_at_once=4, part_bytes=500).run():
            pass


if __name__ == "__main__":
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            asyncio.run(take_for_ever(sys.argv[1]))
        print(child, flush=True)  # noqa: T201
        os.waitpid(child, 0)
        print("killed", flush=True)  # noqa: T201
