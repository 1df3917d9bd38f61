"""Qdrant's protocol over its embedded engine, in a process of its own: writes its port, and ends with its input."""

from __future__ import annotations

import asyncio
import sys

from tests.qdrant_server import QdrantServer


async def main() -> None:
    """Serve until the input ends."""
    async with QdrantServer() as server:
        print(server.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
