"""Turns of writers that write the same documents; writers of others do not wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from services.chassis.errors import DeadlineExceeded
from services.retriever.store import Deadline


class Turns:
    """Keeps writers of the same documents apart, within one process and one event loop."""

    def __init__(self) -> None:
        self._taken: set[tuple[str, str]] = set()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def of(self, version: str, documents: Iterable[str], deadline: Deadline) -> AsyncIterator[None]:
        """Run a block while no other block has any of these documents of a version."""
        wanted = {(version, document) for document in documents}
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                while not wanted.isdisjoint(self._taken):
                    await self._freed.wait()
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while others wrote the same documents") from None
        self._taken |= wanted
        try:
            yield
        finally:
            self._taken -= wanted
            self._freed.set()
            self._freed = asyncio.Event()
