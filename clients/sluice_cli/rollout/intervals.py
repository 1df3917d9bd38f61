"""How sure a figure is: 95 % intervals for rates, their differences, and percentiles read from a histogram.

Rates: Wilson's score interval (1927), which holds near 0 and 1, where failed requests live. Differences of rates:
the square-and-add of two Wilson intervals (Newcombe 1998, method 10). Percentiles and their increase: the percentile
bootstrap (Efron and Tibshirani 1993, chapter 13) over the histogram's counts, with values spread evenly in a bucket.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sluice_client import LatencyBucket

Z = 1.959963984540054
"""The normal distribution's 97.5th percentile: 2.5 % are left out on either side."""
DRAWS = 2000
FEWEST_BEYOND = 5
_OPEN_BUCKET_GROWTH = 1.1  # the last bucket has no end: as wide as its neighbours


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure between its bounds."""

    value: float
    low: float
    high: float


def rate(events: int, trials: int) -> Estimate | None:
    """The share of trials with an event, by Wilson's interval; None without trials."""
    if trials <= 0:
        return None
    share, weight = events / trials, Z * Z / trials
    middle = (share + weight / 2) / (1 + weight)
    half = Z / (1 + weight) * math.sqrt(share * (1 - share) / trials + weight / (4 * trials))
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half))


def difference(treatment: Estimate, control: Estimate) -> Estimate:
    """How much higher one rate is than another, from their Wilson intervals, by Newcombe's method 10."""
    value = treatment.value - control.value
    below = math.hypot(treatment.value - treatment.low, control.high - control.value)
    above = math.hypot(treatment.high - treatment.value, control.value - control.low)
    return Estimate(value, value - below, value + above)


@dataclass(frozen=True, slots=True)
class Latencies:
    """A histogram, and as many resamplings of it as there are draws."""

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    counts: NDArray[np.int64]
    drawn: NDArray[np.int64]

    def tells(self, percent: float) -> bool:
        """Whether enough requests lie beyond a percentile to say anything of it; draws of fewer tell of themselves."""
        return bool(self.counts.sum() * (100 - percent) / 100 >= FEWEST_BEYOND)

    def percentile(self, percent: float) -> Estimate:
        """A percentile in seconds."""
        return _between(self._at(self.counts[None, :], percent)[0], self._at(self.drawn, percent))

    def increase(self, control: Latencies, percent: float) -> Estimate:
        """How much higher a percentile is than control's, as a share: 0.3 is 30 %."""
        value = self._at(self.counts[None, :], percent)[0] / control._at(control.counts[None, :], percent)[0] - 1
        return _between(value, self._at(self.drawn, percent) / control._at(control.drawn, percent) - 1)

    def _at(self, counts: NDArray[np.int64], percent: float) -> NDArray[np.float64]:
        reached = counts.cumsum(axis=1)
        wanted = reached[:, -1] * percent / 100
        place = (reached >= wanted[:, None]).argmax(axis=1)
        rows = np.arange(len(counts))
        inside = counts[rows, place]
        before = reached[rows, place] - inside
        share = (wanted - before) / np.maximum(inside, 1)
        at: NDArray[np.float64] = self.lower[place] + share * (self.upper[place] - self.lower[place])
        return at


def latencies(buckets: Sequence[LatencyBucket], seed: int) -> Latencies | None:
    """What a histogram says; None where it is empty.

    The same seed draws the same, so that a report does not change. Histograms that are compared need different ones:
    draws that move together would hide how far apart they may be.
    """
    counts = np.array([bucket.count for bucket in buckets], dtype=np.int64)
    if counts.sum() <= 0:
        return None
    lower = np.array([bucket.lower for bucket in buckets])
    upper = np.array(
        [bucket.lower * _OPEN_BUCKET_GROWTH if bucket.upper is None else bucket.upper for bucket in buckets]
    )
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=DRAWS)
    return Latencies(lower, upper, counts, drawn)


def _between(value: float, drawn: NDArray[np.float64]) -> Estimate:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))
