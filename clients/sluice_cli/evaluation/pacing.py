"""The pace of a replay: at most a rate, less while the gateway has no room, and an end where it has none at all."""

from __future__ import annotations

from collections import defaultdict
from statistics import median

WINDOW = 10
"""Answers with one configuration that are looked at together."""
SLOWER = 2.0
"""Times the best median of a configuration's answers, from which on the gateway is taken for loaded."""
_FASTER = 1.5
_MOST_STEPS = 6
_LONGEST_PAUSE = 30.0


class Pace:
    """Moments at which requests may begin, in seconds of any clock."""

    def __init__(self, most: float) -> None:
        """`most` is the rate, in requests a second, that is never exceeded."""
        self.most = self.rate = self.lowest = most
        self.backed_off = 0
        """Times that the rate was halved."""
        self._next = 0.0
        self._steps = 0  # without a good window between them
        self._recent: dict[str, list[float]] = defaultdict(list)
        self._best: dict[str, float] = {}

    @property
    def exhausted(self) -> bool:
        """True if halving the rate again and again was not enough."""
        return self._steps > _MOST_STEPS

    def begin(self, now: float) -> float:
        """Take the next moment at which a request may begin."""
        start = max(now, self._next)
        self._next = start + 1 / self.rate
        return start

    def answered(self, configuration: str, seconds: float) -> None:
        """Take note of an answer: the rate is halved where they take twice as long, and else grows back."""
        recent = self._recent[configuration]
        recent.append(seconds)
        if len(recent) < WINDOW:
            return
        typical = median(recent)
        recent.clear()
        best = self._best.setdefault(configuration, typical)
        self._best[configuration] = min(best, typical)
        if typical > SLOWER * best:
            self._back_off()
        else:
            self._steps = 0
            self.rate = min(self.most, self.rate * _FASTER)

    def refused(self, now: float, retry_after: float | None) -> None:
        """Take note of a request that the gateway had no room for."""
        self._back_off()
        self._next = max(self._next, now + min(_LONGEST_PAUSE, max(retry_after or 0.0, 1 / self.rate)))

    def _back_off(self) -> None:
        self.rate /= 2
        self.lowest = min(self.lowest, self.rate)
        self.backed_off += 1
        self._steps += 1
