"""Rates of calls and tokens, counted by the library `limits` in this process or in a Redis that replicas share.

While Redis does not answer, each replica counts for itself, with its fair share.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import TypeVar

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter

from services.chassis import logs
from services.chassis.errors import StartupError
from services.gateway.quotas.book import Quota

T = TypeVar("T")

TOKEN_WINDOW_SECONDS = 10
"""Time in which tokens are counted. A call is charged at its end, so that those under way may overdraw it."""
STORE_SECONDS = 0.1
"""Longest wait for the shared store."""
STORE_PAUSE_SECONDS = 5.0
"""Time without calls to a shared store that has failed."""

_log = logs.get_logger("quotas")


class Rates:
    """Counts against the rates of one store, by default of this process."""

    def __init__(self, storage: Storage | None = None) -> None:
        storage = storage or MemoryStorage()
        self._calls = SlidingWindowCounterRateLimiter(storage)
        self._tokens = FixedWindowRateLimiter(storage)

    async def call(self, name: str, quota: Quota) -> float | None:
        """Count a call; None if it is within the rate, else the seconds after which one may be."""
        item = _window_of_calls(quota.calls_per_second, quota.burst)
        if await self._calls.hit(item, name):
            return None
        return (await self._calls.get_window_stats(item, name)).reset_time - time.time()

    async def tokens_left(self, name: str, quota: Quota) -> float | None:
        """None if tokens are left, else the seconds until there are."""
        item = _window_of_tokens(quota.tokens_per_second)
        if await self._tokens.test(item, name):
            return None
        wait = (await self._tokens.get_window_stats(item, name)).reset_time - time.time()
        if wait <= TOKEN_WINDOW_SECONDS + 1:
            return wait
        # The clock was set back: the window would last until it is there again.
        await self._tokens.clear(item, name)
        return None

    async def charge(self, name: str, quota: Quota, tokens: int) -> None:
        """Count tokens that were read."""
        await self._tokens.hit(_window_of_tokens(quota.tokens_per_second), name, cost=tokens)


class SharedRates:
    """Rates that replicas share, and those of this replica alone while the shared store does not answer."""

    def __init__(self, url: str, on_failure: Callable[[], None], replicas: int) -> None:
        """Raise StartupError if the address is none of Redis."""
        storage = _redis(url)
        self._shared = Rates(storage)
        self._failures: tuple[type[Exception], ...] = (OSError, TimeoutError, *_as_tuple(storage.base_exceptions))
        self._own = Rates()
        self._replicas = replicas
        self._on_failure = on_failure
        self._away_until = 0.0

    async def call(self, name: str, quota: Quota) -> float | None:
        """Count a call, as `Rates.call` does."""
        return await self._either(quota, lambda rates, share: rates.call(name, share))

    async def tokens_left(self, name: str, quota: Quota) -> float | None:
        """Look for tokens, as `Rates.tokens_left` does."""
        return await self._either(quota, lambda rates, share: rates.tokens_left(name, share))

    async def charge(self, name: str, quota: Quota, tokens: int) -> None:
        """Count tokens, as `Rates.charge` does."""
        await self._either(quota, lambda rates, share: rates.charge(name, share, tokens))

    async def _either(self, quota: Quota, count: Callable[[Rates, Quota], Awaitable[T]]) -> T:
        if time.monotonic() >= self._away_until:
            try:
                async with asyncio.timeout(STORE_SECONDS):
                    return await count(self._shared, quota)
            except self._failures as error:
                self._away_until = time.monotonic() + STORE_PAUSE_SECONDS
                self._on_failure()
                _log.warning(
                    "the store of quotas does not answer; each replica counts its share", cause=type(error).__name__
                )
        return await count(self._own, quota.shared_by(self._replicas))


@lru_cache(maxsize=1024)
def _window_of_calls(per_second: float, burst: int) -> RateLimitItem:
    """A window of whole seconds in which as many calls fit as may come at once."""
    seconds = max(1, math.ceil(burst / per_second), math.ceil(1 / per_second))
    return RateLimitItemPerSecond(math.floor(per_second * seconds + 1e-9), seconds, namespace="calls")


@lru_cache(maxsize=1024)
def _window_of_tokens(per_second: float) -> RateLimitItem:
    return RateLimitItemPerSecond(
        max(1, round(per_second * TOKEN_WINDOW_SECONDS)), TOKEN_WINDOW_SECONDS, namespace="tokens"
    )


def _redis(url: str) -> Storage:
    try:
        return RedisStorage(f"async+{url}", implementation="redispy", key_prefix="sluice-quotas")
    except Exception as error:  # of each parser its own
        raise StartupError(
            f"QUOTA_STORE: {type(error).__name__}", remedy="Set QUOTA_STORE as redis://host:port, or leave it empty."
        ) from error


def _as_tuple(kinds: type[Exception] | tuple[type[Exception], ...]) -> tuple[type[Exception], ...]:
    return kinds if isinstance(kinds, tuple) else (kinds,)
