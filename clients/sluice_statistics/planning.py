"""Users that an effect needs, until the confidence sequences of `sequences` exclude zero.

By simulation of Brownian motions with a drift, which is what differences of means over many users are, looked at from
the smallest sample on. The draws are always the same, so the same question has the same answer.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sluice_statistics.sequences import EXPECTED_CREDITED_USERS, EXPECTED_USERS, SMALLEST_SAMPLE, deviations

POWER = 0.8
ALPHA = 0.05
LIKENESS = 0.2
"""Correlation of two answers of one user, where nothing better is known."""
_PATHS = 5000
_LOOKS = 120
_EARLIEST = 1e-3  # of the users: the first look
_MOST_USERS = 10**12


@dataclass(frozen=True, slots=True)
class Need:
    """Users that it takes, in both arms together, and days."""

    users: int
    days: float
    """Infinite where no users come."""


def ab_test(
    effect: float,
    variance: float,
    *,
    new_users_a_day: float = math.inf,
    share: float = 1.0,
    alpha: float = ALPHA,
    power: float = POWER,
    expected_users: float = EXPECTED_USERS,
) -> Need:
    """Users that two arms of equal size need.

    `effect` is the difference of the means, `variance` that of users' values (see `variance_of_users`), `share` that of
    users in the experiment, `new_users_a_day` how many come a day that did not come before. The sequence is tuned for
    `expected_users`.
    """
    users = users_needed(abs(effect) / (2.0 * math.sqrt(variance)), alpha, power, expected_users, 2 * SMALLEST_SAMPLE)
    return Need(users, _days(users, new_users_a_day * share))


def interleaving(
    preference: float,
    credited_share: float,
    *,
    variance: float | None = None,
    new_users_a_day: float = math.inf,
    share: float = 1.0,
    alpha: float = ALPHA,
    power: float = POWER,
    expected_users: float = EXPECTED_CREDITED_USERS,
) -> Need:
    """Users that an interleaved comparison needs.

    `preference` is the mean over users with credit, -1 to 1; `credited_share` is how many of the users have any.
    `variance` is that of their preferences, the largest possible if left out. `expected_users` have credit.
    """
    spread = math.sqrt(1.0 - preference**2 if variance is None else variance)
    credited = users_needed(abs(preference) / spread, alpha, power, expected_users, SMALLEST_SAMPLE)
    users = math.ceil(credited / credited_share)
    return Need(users, _days(users, new_users_a_day * share))


def variance_of_users(variance: float, answers_per_user: float, likeness: float = LIKENESS) -> float:
    """Variance of the means of users with as many answers each, from that of the answers; rate * (1 - rate) for a rate.

    `likeness` is the correlation of two answers of one user: 1 if more of them say nothing new.
    """
    return variance * (likeness + (1.0 - likeness) / answers_per_user)


def users_needed(
    effect: float, alpha: float = ALPHA, power: float = POWER, expected_users: float | None = None, smallest: int = 0
) -> int:
    """Users for an effect, given in standard deviations of what a user adds, that the sequence excludes zero.

    For a mean of users' values that is mean / deviation; for two arms of equal size, difference / (2 * deviation).
    Without `expected_users` the sequence is tuned for as many as it takes.
    """
    if effect <= 0 or not math.isfinite(effect):
        raise ValueError(f"an effect of {effect} needs no users, or no number of them is enough")
    low, high = 0, max(smallest, 1)
    while chance_of_a_verdict(high, effect, alpha, expected_users or high, smallest) < power:
        low, high = high, 2 * high
        if high > _MOST_USERS:
            raise ValueError("more users than there are: the effect is too small to be found")
    while high - low > max(1, high // 1000):
        middle = (low + high) // 2
        enough = chance_of_a_verdict(middle, effect, alpha, expected_users or middle, smallest) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def chance_of_a_verdict(users: int, effect: float, alpha: float, expected_users: float, smallest: int = 0) -> float:
    """Probability that the sequence excludes zero, in the right direction, by the time of so many users."""
    shares, paths = _motions()
    counts = users * shares
    bounds = np.where(counts >= smallest, deviations(counts, alpha, expected_users), np.inf)
    reached = paths + (effect * np.sqrt(counts)).astype(np.float32) >= bounds.astype(np.float32)
    return float(reached.any(axis=1).mean())


@functools.cache
def _motions() -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Standard normal values of Brownian motions at growing shares of the whole time."""
    shares = np.geomspace(_EARLIEST, 1.0, _LOOKS)
    steps = np.sqrt(np.diff(shares, prepend=0.0))
    drawn = np.random.default_rng(7).standard_normal((_PATHS, _LOOKS))
    return shares, ((drawn * steps).cumsum(axis=1) / np.sqrt(shares)).astype(np.float32)


def _days(users: int, users_a_day: float) -> float:
    return users / users_a_day if users_a_day > 0 else math.inf
