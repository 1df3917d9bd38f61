"""Room and time for more work: what is refused because too much waits, or because it would come too late."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from services.chassis.errors import ResourceExhausted
from services.inference.scheduling.contract import RefusalReason, SchedulerLimits
from services.inference.scheduling.rate import Rate
from services.inference.scheduling.waiting import LaneQueue, Lanes

PUSHBACK_SECONDS = 1.0
"""Pushback of a refusal if there is no measured rate to predict from."""


class Refusal(NamedTuple):
    """Reason, for observers, and error, for the caller, of work that is not accepted."""

    reason: RefusalReason
    error: ResourceExhausted


class Admission:
    """Compares what waits with the limits, and with the speed of the model. The scheduler's lock guards it."""

    def __init__(
        self, lanes: Lanes, limits: SchedulerLimits, tokens_per_second: float | None, clock: Callable[[], float]
    ) -> None:
        self.running_tokens = 0
        self._lanes = lanes
        self._limits = limits
        self._rate = Rate(tokens_per_second)
        self._clock = clock

    @property
    def tokens_per_second(self) -> float | None:
        """The measured rate of one worker, or None before the first batch."""
        return self._rate.tokens_per_second

    def began(self, tokens: int) -> None:
        """Count a batch that a worker has taken."""
        self.running_tokens += tokens

    def ended(self, tokens: int, seconds: float) -> None:
        """Count a batch that is done."""
        self.running_tokens -= tokens
        self._rate.add(tokens, seconds)

    def refusal(
        self, demand: int, queue: LaneQueue, caller: str, expires: float, *, hopeless: bool = False
    ) -> Refusal | None:
        """Refuse `demand` more tokens of a caller, or return None. `hopeless` accepts what would come too late."""
        if not demand:
            return None
        seconds = self._predicted_seconds(queue, caller, demand)
        limit = self._limits.queued_tokens
        if demand > limit:
            problem = f"{demand} tokens in one call, where {limit} may wait: split it"
            return Refusal("too_large", ResourceExhausted(problem, reason="TOO_LARGE"))
        # A caller's bound shrinks as the lane fills, which keeps room for others (dynamic thresholds, Choudhury and
        # Hahne, 1998).
        if queue.tokens_of(caller) + demand > limit - queue.tokens - queue.expected_tokens:
            problem = f"the {queue.lane.value} lane is full"
            retry_after = seconds or PUSHBACK_SECONDS
            return Refusal("full", ResourceExhausted(problem, reason="QUEUE_FULL", retry_after=retry_after))
        now = self._clock()
        if not hopeless and seconds is not None and now + seconds > expires:
            problem = f"the answer would take about {seconds:.3f} s, and {expires - now:.3f} s are left"
            return Refusal("late", ResourceExhausted(problem, retry_after=seconds))
        return None

    def _predicted_seconds(self, queue: LaneQueue, caller: str, demand: int) -> float | None:
        """Seconds until `demand` more tokens of this caller are done; None before a rate was measured."""
        rate = self.tokens_per_second
        if rate is None:
            return None
        ahead = self.running_tokens + self._lanes.tokens_ahead(queue, caller, demand)
        return ahead / (rate * self._limits.workers)
