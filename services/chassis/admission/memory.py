"""A budget for the memory of messages, from the limit of the container.

gRPC keeps at most a window (64 KiB) of a message that nobody has begun to read. So a call first waits for one of a few
places to read its message, and then reserves what its work will need, which is a multiple of the message's size. What
does not fit is refused before it is decoded. A call may take half of what is free, so that large messages leave room
for small ones; one that finds nothing reserved may take all.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from prometheus_client import Gauge

from services.chassis.admission.cgroups import memory_limit, resident_bytes
from services.chassis.errors import ResourceExhausted, StartupError

T = TypeVar("T")

reserved_bytes = Gauge("sluice_message_reserved_bytes", "Memory that is reserved for the messages of calls under way.")
budget_bytes = Gauge("sluice_message_budget_bytes", "Memory that may be reserved for messages.")

COPIES = 8
"""Memory that a call uses at most, in sizes of its message: decoded, taken apart, and sent on."""
# Shares of the memory that was free at the start; the rest is for replies and for what the allocator wastes.
_READING_SHARE, _WORK_SHARE = 0.2, 0.6
PATIENCE_SECONDS = 1.0
"""Time that a message may take to arrive while other calls wait to read theirs."""
PUSHBACK_SECONDS = 1.0


class MessageBudget:
    """The memory that the messages of one server may use; for one event loop."""

    def __init__(self, free_bytes: int, largest_bytes: int) -> None:
        """`free_bytes` may be used by messages, of which each has at most `largest_bytes`."""
        self._total = int(free_bytes * _WORK_SHARE)
        self._free_places = max(2, int(free_bytes * _READING_SHARE) // largest_bytes)
        self._used = 0
        self._reading: dict[asyncio.Timeout, float] = {}
        self._readers: Counter[str] = Counter()
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    @classmethod
    def of_process(cls, memory_mib: int, largest_mib: int) -> MessageBudget:
        """The budget of this process, once it has loaded what it needs. 0 MiB mean the container's limit.

        Raise StartupError if the largest message could not be served.
        """
        limit = memory_mib * 2**20 or memory_limit()
        free, largest = limit - resident_bytes(), largest_mib * 2**20
        if largest * COPIES > free * _WORK_SHARE:
            raise StartupError(
                f"MAX_MESSAGE_MIB: messages of {largest_mib} MiB need up to {largest_mib * COPIES} MiB, and of "
                f"{limit // 2**20} MiB of memory {max(0, free) // 2**20} MiB are free",
                remedy="Raise the memory limit of the container (or MEMORY_MIB), or lower MAX_MESSAGE_MIB.",
            )
        budget_bytes.set(int(free * _WORK_SHARE))
        budget = cls(free, largest)
        reserved_bytes.set_function(lambda: budget._used)
        return budget

    async def receive(self, read: Callable[[], Awaitable[T]], peer: str) -> T:
        """Read a message when there is room for one of any size; `peer` is the connection, for fairness.

        Raise ResourceExhausted if it comes too slowly while others wait.
        """
        if not self._free_places:
            await self._wait(peer)
        else:
            self._free_places -= 1
        self._readers[peer] += 1
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS if self._waiting else None) as limit:
                self._reading[limit] = now
                try:
                    return await read()
                finally:
                    del self._reading[limit]
        except TimeoutError:
            raise ResourceExhausted(
                f"the message took more than {PATIENCE_SECONDS:g} s to arrive while other calls waited",
                reason="SLOW_MESSAGE",
                retry_after=PUSHBACK_SECONDS,
            ) from None
        finally:
            self._readers[peer] -= 1
            if not self._readers[peer]:
                del self._readers[peer]
            self._leave()

    @contextmanager
    def reserved(self, message_bytes: int) -> Iterator[None]:
        """Reserve the memory of a call with such a message, or raise ResourceExhausted."""
        wanted = message_bytes * COPIES
        if self._used and wanted > (self._total - self._used) / 2:
            raise ResourceExhausted(
                f"a message of {message_bytes / 2**20:.1f} MiB does not fit into the memory that others leave free",
                reason="MEMORY_BUDGET",
                retry_after=PUSHBACK_SECONDS,
            )
        self._used += wanted
        try:
            yield
        finally:
            self._used -= wanted

    async def _wait(self, peer: str) -> None:
        """Wait for a place to read, and see to it that slow messages give theirs up."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = peer, place
        self._waiting.append(waiting)
        for limit, began in self._reading.items():
            limit.reschedule(began + PATIENCE_SECONDS)
        try:
            await place
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            elif not place.cancelled():
                self._leave()
            raise

    def _leave(self) -> None:
        """Pass a place on, to the connection that reads least."""
        while self._waiting:
            following = min(self._waiting, key=lambda waiting: self._readers[waiting[0]])
            self._waiting.remove(following)
            if not following[1].done():
                following[1].set_result(None)
                return
        self._free_places += 1
