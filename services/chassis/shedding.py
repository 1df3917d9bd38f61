"""An adaptive limit on calls under way.

It grows while calls stay quick and shrinks when they start to queue: it follows the gradient between the latency of the
long run and that of now (Gradient2 of Netflix's concurrency-limits). A call over the limit is refused at once, which
costs microseconds, instead of being accepted and answered late. Bulk calls may use only a part of the limit, so
interactive ones are refused last.

The model stages do without it: their scheduler refuses by the tokens that wait.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import Gauge

from services.chassis.errors import ResourceExhausted

concurrency_limit = Gauge("sluice_concurrency_limit", "Calls that may be under way at once, just now.")


@dataclass(frozen=True, slots=True)
class LimitBounds:
    """Start value and bounds of the limit."""

    initial: int = 32
    lowest: int = 8
    highest: int = 512
    bulk_share: float = 0.5
    """The part of the limit that bulk calls may use."""


# The limit shrinks when calls take this many times as long as in the long run; less is noise, or a mix of calls.
_TOLERANCE = 2.0
# Weight of the newest call in the short and in the long run, and of a new limit against the one before.
_SHORT, _LONG, _SMOOTHING = 0.1, 0.002, 0.2


class ConcurrencyLimit:
    """The limit of one server; for one event loop. `on_change` is called with each new limit."""

    def __init__(
        self, bounds: LimitBounds, on_change: Callable[[float], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bounds = bounds
        self._on_change = on_change
        self._clock = clock
        self._limit = float(bounds.initial)
        self._short = self._long = 0.0
        self._under_way = 0
        self._bulk_under_way = 0
        on_change(self._limit)

    @property
    def limit(self) -> int:
        """Calls that may be under way at once."""
        return int(self._limit)

    @property
    def occupied(self) -> float:
        """Calls under way as a share of the limit, 0 to 1."""
        return self._under_way / self.limit

    @contextmanager
    def admitted(self, *, bulk: bool) -> Iterator[None]:
        """Hold a place for one call, or raise ResourceExhausted."""
        full = self._under_way >= self.limit
        if full or (bulk and self._bulk_under_way >= max(1, int(self._limit * self._bounds.bulk_share))):
            raise ResourceExhausted(
                f"{self._under_way} calls are under way, and no more are taken just now",
                reason="OVERLOADED",
                retry_after=max(0.01, self._short),
            )
        self._under_way += 1
        self._bulk_under_way += bulk
        busiest = self._under_way
        started = self._clock()
        answered = False
        try:
            yield
            answered = True
        finally:
            self._under_way -= 1
            self._bulk_under_way -= bulk
            # A failure is quick for other reasons, and the time of a bulk call depends on its size.
            if answered and not bulk:
                self._learn(self._clock() - started, busiest)

    def _learn(self, seconds: float, under_way: int) -> None:
        if self._long == 0.0:
            self._short = self._long = seconds
        self._short += _SHORT * (seconds - self._short)
        self._long += _LONG * (seconds - self._long)
        # After a period of slow calls the long run is longer than what is normal now.
        if self._long > 2 * self._short:
            self._long *= 0.95
        # A limit that is hardly used may be high enough.
        if under_way * 2 < self._limit and self._short <= _TOLERANCE * self._long:
            return
        gradient = max(0.5, min(1.0, _TOLERANCE * self._long / self._short)) if self._short else 1.0
        wanted = self._limit * gradient + math.sqrt(self._limit)
        smoothed = self._limit * (1 - _SMOOTHING) + wanted * _SMOOTHING
        self._limit = max(self._bounds.lowest, min(self._bounds.highest, smoothed))
        self._on_change(self._limit)
