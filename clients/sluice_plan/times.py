"""Distributions of durations on a grid, and what is done with them: one after the other, beside one another, by chance.

A duration is a whole number of steps. The last place of the grid holds all that is longer, so whoever asks for a
percentile up there is told infinity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainc

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Grid:
    """The durations that are told apart."""

    step: float
    """Seconds."""
    places: int

    @property
    def end(self) -> float:
        """The longest duration, in seconds."""
        return self.step * (self.places - 1)

    @property
    def durations(self) -> Array:
        """All of them, in seconds."""
        return np.arange(self.places, dtype=np.float64) * self.step


@dataclass(frozen=True, slots=True, eq=False)
class Times:
    """The distribution of one duration: the probability of every place of the grid."""

    grid: Grid
    shares: Array

    @classmethod
    def exactly(cls, grid: Grid, seconds: float) -> Self:
        """Always so long, split between the two nearest places so that the mean is right."""
        shares = np.zeros(grid.places)
        place = min(seconds / grid.step, grid.places - 1.0)
        low = int(place)
        shares[low] = 1 - (place - low)
        shares[min(low + 1, grid.places - 1)] += place - low
        return cls(grid, shares)

    @classmethod
    def gamma(cls, grid: Grid, mean: float, cv: float) -> Self:
        """A gamma distribution, as service times mostly look; with hardly any spread it is `exactly`."""
        spread = mean * cv
        if spread < grid.step / 2:
            return cls.exactly(grid, max(0.0, mean))
        edges = (np.arange(grid.places - 1) + 0.5) * grid.step
        below = gammainc((mean / spread) ** 2, edges * (mean / spread**2))
        return cls(grid, np.diff(below, prepend=0.0, append=1.0))

    @classmethod
    def seen(cls, grid: Grid, seconds: Sequence[float]) -> Self:
        """As often as they were seen."""
        places = np.minimum(np.rint(np.asarray(seconds) / grid.step), grid.places - 1).astype(int)
        return cls(grid, np.bincount(places, minlength=grid.places) / len(places))

    @property
    def mean(self) -> float:
        """Seconds."""
        return float(self.shares @ self.grid.durations)

    @property
    def cv(self) -> float:
        """Standard deviation over mean; 0 where the mean is 0."""
        mean = self.mean
        variance = float(self.shares @ self.grid.durations**2) - mean**2
        return math.sqrt(max(0.0, variance)) / mean if mean else 0.0

    def percentile(self, percent: float) -> float:
        """Seconds that so many percent do not exceed; infinite beyond the grid."""
        place = int(np.searchsorted(np.cumsum(self.shares), percent / 100 - 1e-12))
        return place * self.grid.step if place < self.grid.places - 1 else math.inf

    def then(self, other: Times) -> Times:
        """One after the other."""
        size = 2 * self.grid.places
        product = np.fft.irfft(np.fft.rfft(self.shares, size) * np.fft.rfft(other.shares, size), size)
        return Times(self.grid, _folded(product, self.grid.places))

    def times(self, count: int) -> Times:
        """So many of them, one after the other."""
        return reduce(Times.then, [self] * count, Times.exactly(self.grid, 0.0))

    def beside(self, other: Times) -> Times:
        """Until the later of two that begin together, independent of one another."""
        both = np.cumsum(self.shares) * np.cumsum(other.shares)
        return Times(self.grid, np.diff(both, prepend=0.0))

    def residual(self) -> Times:
        """What is left of one that is met at a random moment: of long ones more are met (the equilibrium
        distribution of renewal theory)."""
        longer = 1 - np.cumsum(self.shares)
        # Met within a step, half of the step is over.
        left = np.concatenate(([longer[0] / 2], (longer[:-1] + longer[1:]) / 2))
        total = float(left.sum())
        return Times(self.grid, left / total) if total > 0 else Times.exactly(self.grid, 0.0)


def sequence(parts: Iterable[Times]) -> Times:
    """All of them, one after the other; at least one."""
    return reduce(Times.then, parts)


def mixture(parts: Sequence[tuple[float, Times]]) -> Times:
    """One of them, by chance; the weights add up to 1."""
    grid = parts[0][1].grid
    return Times(grid, np.sum([weight * times.shares for weight, times in parts], axis=0))


def geometric_sum(times: Times, more: float) -> Times:
    """So many of them that after each comes another with probability `more`, as does the first; possibly none."""
    size = 4 * times.grid.places
    # What lies beyond four grids would come back at the beginning: damping keeps it away (Abate and Whitt, 1992).
    fading = 10 ** (-8 * np.arange(size) / size)
    transform = np.fft.rfft(np.pad(times.shares, (0, size - times.grid.places)) * fading)
    summed = np.fft.irfft((1 - more) / (1 - more * transform), size) / fading
    return Times(times.grid, _folded(summed, times.grid.places))


def _folded(shares: Array, places: int) -> Array:
    """All that is longer than the grid in its last place."""
    kept = np.maximum(shares[:places], 0.0)
    kept[-1] = max(0.0, 1 - float(kept[:-1].sum()))
    return kept
