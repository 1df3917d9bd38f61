"""Load as users make it: some ask much more often than others, and none waits for another."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

Asking = Callable[[], Awaitable[None]]
"""One request, to its end; it raises nothing."""


class Zipf(Generic[T]):
    """Draws by Zipf's law: the thing in place r comes about 1 / r**exponent as often as the first."""

    def __init__(self, things: Sequence[T], exponent: float, chance: random.Random) -> None:
        self._things = things
        self._chance = chance
        self._weights = list(itertools.accumulate(1 / place**exponent for place in range(1, len(things) + 1)))

    def draw(self) -> T:
        """Draw one."""
        return self._chance.choices(self._things, cum_weights=self._weights)[0]


async def closed(ask: Asking, *, requests: int, concurrency: int) -> None:
    """Send requests, a number of them at once: the next one follows as one ends."""
    left = requests

    async def asker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await ask()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(requests, concurrency)):
            group.create_task(asker())


async def opened(ask: Asking, *, rate: float, seconds: float) -> int:
    """Send requests at a rate a second, whatever becomes of them (Poisson arrivals); their number."""
    under_way: set[asyncio.Future[None]] = set()
    due = started = time.perf_counter()
    offered = 0
    while due - started < seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.ensure_future(ask())
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        offered += 1
        due += random.expovariate(rate)
    await asyncio.gather(*under_way)
    return offered
