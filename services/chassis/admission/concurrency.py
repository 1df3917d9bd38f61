"""An adaptive limit on calls under way, and the queue before it.

The limit grows while calls stay quick and shrinks when they start to queue behind it: it follows the gradient between
the latency of the long run and that of now (Gradient2 of Netflix's concurrency-limits). A call over the limit waits
for a place as long as its deadline allows. It is refused at once if the wait that is to be expected would outlast the
deadline, or if its queue is full. Interactive calls go before bulk calls, which may use only a part of the limit. In
each lane the caller with the fewest calls under way goes first, and of its calls the one with the earliest deadline; a
queue that is full of one caller's calls gives up the last of them for another's. So that bulk work never stops, one
place is its own.

The model stages do without it: their scheduler queues by tokens, with the same rule.
"""

from __future__ import annotations

import asyncio
import math
import time
from bisect import bisect, insort
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from prometheus_client import Gauge

from services.chassis.errors import ResourceExhausted

concurrency_limit = Gauge("sluice_concurrency_limit", "Calls that may be under way at once, just now.")
concurrency_waiting = Gauge("sluice_concurrency_waiting", "Calls that wait for a place under the limit.")

LONGEST_WAIT_SECONDS = 10.0
"""Longest wait of a call without a deadline."""


@dataclass(frozen=True, slots=True)
class LimitBounds:
    """Start value and bounds of the limit, and the length of each queue."""

    initial: int = 32
    lowest: int = 8
    highest: int = 512
    bulk_share: float = 0.5
    """The part of the limit that bulk calls may use."""
    queue: int = 1000
    """Calls that may wait in each lane."""


# The limit shrinks when calls take this many times as long as in the long run; less is noise, or a mix of calls.
_TOLERANCE = 2.0
# Weight of the newest call in the short and in the long run, and of a new limit against the one before.
_SHORT, _LONG, _SMOOTHING = 0.1, 0.002, 0.2


@dataclass(order=True, slots=True)
class _Waiting:
    """A call in the queue, ordered by its deadline."""

    deadline: float
    number: int
    caller: str = field(compare=False)
    place: asyncio.Future[None] = field(compare=False)


class _Lane:
    """The calls of one priority, and the time that they take. Bulk calls differ in size: theirs says little."""

    def __init__(self, *, alike: bool) -> None:
        self.under_way = 0
        self.queues: dict[str, list[_Waiting]] = {}
        """Calls that wait, by caller; none is empty."""
        self.waiting = 0
        self._held: Counter[str] = Counter()
        self.seconds = 0.0
        """Mean time of a call; 0 before the first."""
        self._deviation = 0.0
        self._alike = alike

    @property
    def typical_seconds(self) -> float:
        """Time that a call is expected to take; 0 if that is unknown."""
        return self.seconds if self._alike else 0.0

    @property
    def safe_seconds(self) -> float:
        """Time that most calls do not exceed; 0 if that is unknown."""
        return self.seconds + 2 * self._deviation if self._alike else 0.0

    def enter(self, caller: str) -> None:
        """Give a place to a call."""
        self.under_way += 1
        self._held[caller] += 1

    def leave(self, caller: str) -> None:
        """Take the place of a call back."""
        self.under_way -= 1
        self._held[caller] -= 1
        if not self._held[caller]:
            del self._held[caller]

    def ahead_of(self, waiting: _Waiting) -> int:
        """Calls that would be served before a new one: those of its caller, and as many of each other caller."""
        own = bisect(self.queues.get(waiting.caller, []), waiting)
        others = (len(queue) for caller, queue in self.queues.items() if caller != waiting.caller)
        return own + sum(min(length, own + 1) for length in others)

    def add(self, waiting: _Waiting) -> None:
        """Let a call wait."""
        insort(self.queues.setdefault(waiting.caller, []), waiting)
        self.waiting += 1

    def remove(self, waiting: _Waiting) -> bool:
        """Take a call out of its queue; False if it waits no more."""
        queue = self.queues.get(waiting.caller, [])
        if waiting not in queue:
            return False
        queue.remove(waiting)
        self.waiting -= 1
        if not queue:
            del self.queues[waiting.caller]
        return True

    def following(self) -> _Waiting:
        """The call that is served next."""
        caller = min(self.queues, key=lambda caller: (self._held[caller], self.queues[caller][0]))
        return self.queues[caller][0]

    def surplus(self, caller: str) -> _Waiting | None:
        """The last call of the caller with most calls that wait, if another has fewer of them."""
        longest = max(self.queues.values(), key=len, default=[])
        return longest[-1] if len(longest) > len(self.queues.get(caller, [])) + 1 else None

    def learn(self, seconds: float) -> None:
        """Take the time of a call into account."""
        if self.seconds == 0.0:
            self.seconds = seconds
        self._deviation += _SHORT * (abs(seconds - self.seconds) - self._deviation)
        self.seconds += _SHORT * (seconds - self.seconds)


class ConcurrencyLimit:
    """The limit of one server; for one event loop. `on_change` is called with each new limit."""

    def __init__(
        self,
        bounds: LimitBounds,
        on_change: Callable[[float], None] = concurrency_limit.set,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bounds = bounds
        self._on_change = on_change
        self._clock = clock
        self._limit = float(bounds.initial)
        self._long = 0.0
        self._interactive, self._bulk = _Lane(alike=True), _Lane(alike=False)
        self._arrivals = 0
        on_change(self._limit)

    @property
    def limit(self) -> int:
        """Calls that may be under way at once."""
        return int(self._limit)

    @property
    def occupied(self) -> float:
        """Calls under way as a share of the limit, 0 to 1."""
        return min(1.0, self._under_way / self.limit)

    @property
    def waiting(self) -> int:
        """Calls that wait for a place."""
        return self._interactive.waiting + self._bulk.waiting

    @asynccontextmanager
    async def admitted(self, *, bulk: bool, seconds_left: float | None = None, caller: str = "") -> AsyncIterator[None]:
        """Wait for a place and hold it for one call of a caller, or raise ResourceExhausted.

        `seconds_left` is the time until the call's deadline; None if it has none.
        """
        lane = self._bulk if bulk else self._interactive
        if self._has_place(lane) and not lane.waiting:
            lane.enter(caller)
        else:
            await self._wait(lane, LONGEST_WAIT_SECONDS if seconds_left is None else seconds_left, caller)
        busiest = self._under_way
        started = self._clock()
        answered = False
        try:
            yield
            answered = True
        finally:
            # A failure is quick for other reasons.
            if answered:
                seconds = self._clock() - started
                lane.learn(seconds)
                if not bulk:  # the time of a bulk call depends on its size
                    self._adapt(seconds, busiest)
            self._leave(lane, caller)

    @property
    def _under_way(self) -> int:
        return self._interactive.under_way + self._bulk.under_way

    def _places(self, lane: _Lane) -> int:
        """Places that a lane may use."""
        return max(1, int(self._limit * self._bounds.bulk_share)) if lane is self._bulk else self.limit

    def _has_place(self, lane: _Lane) -> bool:
        return self._under_way < self.limit and lane.under_way < self._places(lane)

    async def _wait(self, lane: _Lane, seconds_left: float, caller: str) -> None:
        """Wait in the queue until the call has a place."""
        self._arrivals += 1
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(self._clock() + seconds_left, self._arrivals, caller, place)
        self._check_queue(lane, waiting, seconds_left)
        lane.add(waiting)
        concurrency_waiting.inc()
        try:
            async with asyncio.timeout(seconds_left - lane.typical_seconds):
                await place
        except TimeoutError:
            self._withdraw(lane, waiting)
            raise self._refusal(lane) from None
        except BaseException:
            self._withdraw(lane, waiting)
            raise
        finally:
            concurrency_waiting.dec()

    def _check_queue(self, lane: _Lane, waiting: _Waiting, seconds_left: float) -> None:
        """Raise ResourceExhausted if a call would not be served in time behind the others, or finds no room."""
        expected = (lane.ahead_of(waiting) + 1) * lane.seconds / self._places(lane) + lane.safe_seconds
        if lane.seconds and expected > seconds_left:
            raise self._refusal(lane, expected - seconds_left)
        if lane.waiting >= self._bounds.queue:
            surplus = lane.surplus(waiting.caller)
            if surplus is None:
                raise self._refusal(lane)
            lane.remove(surplus)
            if not surplus.place.done():
                surplus.place.set_exception(self._refusal(lane))

    def _refusal(self, lane: _Lane, missing_seconds: float = 0.0) -> ResourceExhausted:
        return ResourceExhausted(
            f"{self._under_way} calls are under way and {self.waiting} wait; this one cannot be served in time",
            reason="OVERLOADED",
            retry_after=max(0.01, lane.seconds, missing_seconds),
        )

    def _withdraw(self, lane: _Lane, waiting: _Waiting) -> None:
        """Take a call out of the queue, or give back the place that it was given at the same moment."""
        if lane.remove(waiting):
            return
        if waiting.place.done() and not waiting.place.cancelled() and waiting.place.exception() is None:
            self._leave(lane, waiting.caller)

    def _leave(self, lane: _Lane, caller: str) -> None:
        lane.leave(caller)
        while (following := self._next_lane()) is not None:
            waiting = following.following()
            following.remove(waiting)
            if waiting.place.done():
                continue
            if waiting.deadline - self._clock() < following.typical_seconds:
                waiting.place.set_exception(self._refusal(following))
                continue
            following.enter(waiting.caller)
            waiting.place.set_result(None)

    def _next_lane(self) -> _Lane | None:
        """The lane whose first call gets the next free place."""
        lanes = (self._interactive, self._bulk) if self._bulk.under_way else (self._bulk, self._interactive)
        return next((lane for lane in lanes if lane.waiting and self._has_place(lane)), None)

    def _adapt(self, seconds: float, under_way: int) -> None:
        short = self._interactive.seconds
        if self._long == 0.0:
            self._long = seconds
        self._long += _LONG * (seconds - self._long)
        # After a period of slow calls the long run is longer than what is normal now.
        if self._long > 2 * short:
            self._long *= 0.95
        # A limit that is hardly used may be high enough.
        if under_way * 2 < self._limit and short <= _TOLERANCE * self._long:
            return
        gradient = max(0.5, min(1.0, _TOLERANCE * self._long / short)) if short else 1.0
        wanted = self._limit * gradient + math.sqrt(self._limit)
        smoothed = self._limit * (1 - _SMOOTHING) + wanted * _SMOOTHING
        self._limit = max(self._bounds.lowest, min(self._bounds.highest, smoothed))
        self._on_change(self._limit)
