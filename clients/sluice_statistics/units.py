"""Values of units (users): the mean of a unit's answers, so that each counts once, however active it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from sluice_statistics.sequences import EXPECTED_USERS, History, Interval, Moments, difference


@dataclass(slots=True)
class _Unit:
    count: int = 0
    total: float = 0.0


@dataclass(slots=True)
class _ArmValues:
    units: dict[int, _Unit] = field(default_factory=dict)
    answers: int = 0
    moments: Moments = field(default_factory=Moments)
    history: Moments = field(default_factory=Moments)
    covariance: float = 0.0


class UnitValues:
    """Values of the units of every arm, with their moments after each answer.

    `history` is the value that units had before the run; those without one count as the mean of those with one.
    """

    def __init__(self, arms: int, history: Mapping[int, float] | None = None) -> None:
        self._arms = [_ArmValues() for _ in range(arms)]
        self._history = history or {}
        self._usual = sum(self._history.values()) / len(self._history) if self._history else 0.0

    @classmethod
    def of(
        cls,
        units: ArrayLike,
        arms: ArrayLike,
        values: ArrayLike,
        *,
        count: int,
        history: Mapping[int, float] | None = None,
    ) -> Self:
        """Build from the unit, the arm (0 to `count` - 1) and the value of each answer; nan is no value."""
        built = cls(count, history)
        units, arms, values = np.asarray(units, np.uint64), np.asarray(arms), np.asarray(values, np.float64)
        there = ~np.isnan(values)
        for arm, found in enumerate(built._arms):
            chosen = there & (arms == arm)
            names, places = np.unique(units[chosen], return_inverse=True)
            counts = np.bincount(places, minlength=len(names))
            totals = np.bincount(places, values[chosen], minlength=len(names))
            found.answers = int(counts.sum())
            found.units = dict(zip(names.tolist(), map(_Unit, counts.tolist(), totals.tolist()), strict=True))
            means = totals / counts
            found.moments = Moments.of(means)
            before = np.array([built._before(unit) for unit in found.units])
            found.history = Moments.of(before)
            if len(names) > 1:
                found.covariance = float(np.cov(means, before)[0, 1])
        return built

    def add(self, unit: int, arm: int, value: float | None) -> None:
        """Add an answer; one without a value does not count."""
        self.change(unit, arm, None, value)

    def change(self, unit: int, arm: int, old: float | None, new: float | None) -> None:
        """Give an answer that is there another value, because something was done with it since."""
        if new is None:
            return
        found = self._arms[arm]
        before = found.moments.mean
        one = found.units.get(unit)
        if one is None:
            found.units[unit] = _Unit(1, new)
            found.answers += 1
            found.moments.add(new)
            known = self._before(unit)
            found.history.add(known)
            if (count := found.moments.count) > 1:
                grown = (new - before) * (known - found.history.mean)
                found.covariance += (grown - found.covariance) / (count - 1)
            return
        mean = one.total / one.count
        one.count += old is None
        found.answers += old is None
        one.total += new - (old or 0.0)
        after = one.total / one.count
        found.moments.replace(mean, after)
        if found.moments.count > 1:
            moved = (after - mean) * (self._before(unit) - found.history.mean)
            found.covariance += moved / (found.moments.count - 1)

    def moments(self, arm: int = 0) -> Moments:
        """Moments of an arm's units."""
        return self._arms[arm].moments

    def history(self, arm: int) -> History | None:
        """History of an arm's units; None where no unit of any arm has one."""
        if not self._history:
            return None
        found = self._arms[arm]
        return History(found.history.mean, found.history.variance, found.covariance)

    def answers(self, arm: int = 0) -> int:
        """Answers with a value, of an arm."""
        return self._arms[arm].answers

    def difference(self, arm: int, alpha: float, expected_users: float = EXPECTED_USERS) -> Interval:
        """Interval for the mean of an arm minus that of the control, the first; adjusted by history if there is one."""
        ours, theirs = self.history(arm), self.history(0)
        history = (ours, theirs) if ours and theirs else None
        return difference(self.moments(arm), self.moments(0), alpha, expected_users, history)

    def means(self, arm: int = 0) -> dict[int, float]:
        """Value of every unit of an arm: the history of a later run."""
        return {unit: one.total / one.count for unit, one in self._arms[arm].units.items()}

    def _before(self, unit: int) -> float:
        return self._history.get(unit, self._usual)
