"""Intervals of 95 %: for rates and their differences, for medians and means, and for percentiles of histograms.

Rates: Wilson's score interval (1927), which holds near 0 and 1. Differences of rates: Newcombe's method 10 (1998).
All else: the percentile bootstrap (Efron and Tibshirani 1993, chapter 13). The same seed draws the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from sluice_statistics.percentiles import histogram_percentile

CONFIDENCE = 0.95
RESAMPLES = 10_000
HISTOGRAM_RESAMPLES = 2000
FEWEST_BEYOND = 5
"""Requests beyond a percentile below which its interval says nothing."""
_DRAWN_AT_ONCE = 4_000_000  # numbers, to bound memory


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the bounds of its interval."""

    value: float
    low: float
    high: float


def rate(events: int, trials: int) -> Estimate | None:
    """Share of trials with an event, with Wilson's interval; None without trials."""
    if trials <= 0:
        return None
    found = stats.binomtest(events, trials).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(events / trials, float(found.low), float(found.high))


def difference(treatment: Estimate, control: Estimate) -> Estimate:
    """Difference of two rates, from their Wilson intervals."""
    value = treatment.value - control.value
    below = math.hypot(treatment.value - treatment.low, control.high - control.value)
    above = math.hypot(treatment.high - treatment.value, control.value - control.low)
    return Estimate(value, value - below, value + above)


def bootstrap(values: Sequence[float], statistic: Callable[..., Any] = np.median, seed: int = 0) -> Estimate:
    """Median of a sample, or another statistic that takes an axis, with its bootstrap interval; at least one value."""
    value = float(statistic(np.asarray(values), axis=-1))
    if len(values) < 2:
        return Estimate(value, value, value)
    found = stats.bootstrap(
        (values,),
        statistic,
        n_resamples=RESAMPLES,
        batch=max(1, _DRAWN_AT_ONCE // len(values)),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=seed,
    ).confidence_interval
    return Estimate(value, float(found.low), float(found.high))


class Histogram:
    """Counts by bucket, with resamples of them.

    Histograms that are compared need different seeds: draws that move together would hide how far apart they may be.
    """

    def __init__(self, counts: ArrayLike, lower: ArrayLike, upper: ArrayLike, seed: int) -> None:
        self._counts = np.asarray(counts, dtype=np.int64)
        self._edges = lower, upper
        total = self._counts.sum()
        self._drawn = np.random.default_rng(seed).multinomial(total, self._counts / total, size=HISTOGRAM_RESAMPLES)

    def tells(self, percent: float) -> bool:
        """True if enough requests lie beyond a percentile to say anything of it."""
        return bool(self._counts.sum() * (100 - percent) / 100 >= FEWEST_BEYOND)

    def percentile(self, percent: float) -> Estimate:
        """Percentile with its interval."""
        value, drawn = self._at(percent)
        return _between(value, drawn)

    def increase(self, control: Histogram, percent: float) -> Estimate:
        """Increase of a percentile over control's, as a share: 0.3 is 30 %."""
        (value, drawn), (other, other_drawn) = self._at(percent), control._at(percent)
        return _between(value / other - 1, drawn / other_drawn - 1)

    def _at(self, percent: float) -> tuple[float, NDArray[np.float64]]:
        rows = histogram_percentile(np.vstack([self._counts, self._drawn]), *self._edges, percent)
        return float(rows[0]), rows[1:]


def _between(value: float, drawn: NDArray[np.float64]) -> Estimate:
    low, high = np.percentile(drawn, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return Estimate(value, float(low), float(high))
