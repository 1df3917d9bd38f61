"""Confidence sequences: intervals that hold at all times together, so that one may look after every event and stop.

Over units (users), each of which counts once, however active it is. After Waudby-Smith, Arbour, Sinha, Kennedy and
Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences" (Annals of Statistics 2024): the bounds
lie so many standard errors from the estimate that a Brownian motion ever passes them with a probability of at most
alpha. History adjusts a difference as in Deng, Xu, Kohavi and Walker, "Improving the sensitivity of online controlled
experiments by utilizing pre-experiment data" (WSDM 2013).

All functions take numbers or numpy arrays, so that what is simulated is what decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

SMALLEST_SAMPLE = 50
"""Units of a mean, or of each arm of a difference, below which the interval is infinite."""

EXPECTED_USERS = 5000
"""Users of both arms for which a difference is the tightest: it is hardly wider from 500 to 500,000."""
EXPECTED_CREDITED_USERS = 500
"""The same for a mean over users: a preference takes far fewer of them."""

Number = Any
"""A number or an array of them: numpy's own types cannot say "the same as came in"."""


@dataclass(slots=True)
class Moments:
    """Count, mean and variance (of the sample: divided by count - 1) of the values of units."""

    count: Number = 0
    mean: Number = 0.0
    variance: Number = 0.0

    @classmethod
    def of(cls, values: ArrayLike) -> Self:
        """Moments of one value a unit."""
        sample = np.asarray(values, dtype=np.float64)
        if not sample.size:
            return cls()
        return cls(sample.size, float(sample.mean()), float(sample.var(ddof=1)) if sample.size > 1 else 0.0)

    def add(self, value: float) -> None:
        """Add the value of a unit that was not there."""
        before = self.mean
        self.count += 1
        self.mean += (value - before) / self.count
        if self.count > 1:
            squares = self.variance * (self.count - 2) + (value - before) * (value - self.mean)
            self.variance = squares / (self.count - 1)

    def replace(self, old: float, new: float) -> None:
        """Give a unit that is there another value."""
        before = self.mean
        self.mean += (new - old) / self.count
        if self.count > 1:
            squares = self.variance * (self.count - 1) + (new - old) * (new - self.mean + old - before)
            self.variance = max(squares / (self.count - 1), 0.0)


@dataclass(slots=True)
class History:
    """Moments of the units of one arm before the run: a value for each, the same one for all without a history."""

    mean: Number = 0.0
    variance: Number = 0.0
    covariance: Number = 0.0
    """With the values of the run (of the sample: divided by count - 1)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the bounds of its confidence sequence at this moment; infinite while there is too little."""

    value: Number
    low: Number
    high: Number
    variance_reduction: Number = 0.0
    """Share of the variance that history took away."""


def mean(moments: Moments, alpha: float, expected_users: float = EXPECTED_CREDITED_USERS) -> Interval:
    """Interval for a mean, tightest at about `expected_users` units."""
    squared_error = moments.variance / np.maximum(moments.count, 1)
    known = np.asarray(moments.count) >= SMALLEST_SAMPLE
    return _interval(moments.mean, squared_error, known, moments.count, alpha, expected_users, 0.0)


def difference(
    treatment: Moments,
    control: Moments,
    alpha: float,
    expected_users: float = EXPECTED_USERS,
    history: tuple[History, History] | None = None,
) -> Interval:
    """Interval for treatment's mean minus control's, tightest at about `expected_users` units in both together.

    With the history of both arms, treatment's first, the difference is that of arms with equal histories, by one
    regression within the arms. History was there before anybody had an arm, so this takes noise away and adds no bias.
    """
    counts = np.maximum(treatment.count, 1), np.maximum(control.count, 1)
    value = treatment.mean - control.mean
    squared_error = plain = treatment.variance / counts[0] + control.variance / counts[1]
    if history:
        ours, theirs = history
        variance = (treatment.count - 1) * ours.variance + (control.count - 1) * theirs.variance
        covariance = (treatment.count - 1) * ours.covariance + (control.count - 1) * theirs.covariance
        slope = np.where(variance > 0, covariance / np.where(variance > 0, variance, 1.0), 0.0)
        value = value - slope * (ours.mean - theirs.mean)
        squared_error = (
            _left(treatment.variance, ours, slope) / counts[0] + _left(control.variance, theirs, slope) / counts[1]
        )
    reduction = np.where(plain > 0, 1.0 - squared_error / np.where(plain > 0, plain, 1.0), 0.0)
    known = np.minimum(treatment.count, control.count) >= SMALLEST_SAMPLE
    users = treatment.count + control.count
    return _interval(value, squared_error, known, users, alpha, expected_users, np.maximum(reduction, 0.0))


def deviations(users: Number, alpha: float, expected_users: float) -> Number:
    """Standard errors between the estimate and its bounds; least near `expected_users`."""
    # The boundary of a mixture of normal distributions; with this it is about the tightest at that number.
    tightest = -2.0 * math.log(alpha) + math.log(-2.0 * math.log(alpha)) + 1.0
    time = np.maximum(users, 1) * (tightest / expected_users)
    return np.sqrt((time + 1.0) / time * np.log((time + 1.0) / alpha**2))


def _left(variance: Number, history: History, slope: Number) -> Number:
    """Variance around the regression on history."""
    return np.maximum(variance - 2.0 * slope * history.covariance + slope**2 * history.variance, 0.0)


def _interval(
    value: Number,
    squared_error: Number,
    known: Number,
    users: Number,
    alpha: float,
    expected_users: float,
    reduction: Number,
) -> Interval:
    # Where all values are equal nothing is known of their variance.
    width = np.where(
        known & (squared_error > 0), deviations(users, alpha, expected_users) * np.sqrt(squared_error), np.inf
    )
    if width.ndim:
        return Interval(value, value - width, value + width, reduction)
    return Interval(float(value), float(value - width), float(value + width), float(reduction))
