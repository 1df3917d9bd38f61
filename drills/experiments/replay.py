"""Users that each method needs at equal power: clicks on recorded answers, through the product's statistics. Pure.

A repetition draws people one after the other until the interval of the product excludes that nothing differs, and notes
their number. The users needed are those by which four of five repetitions have ended.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drills.experiments.people import ClickModel, Flags, Floats, People, Places, drawn
from sluice_statistics.intervals import Estimate, bootstrap
from sluice_statistics.sequences import Interval, Moments, difference, mean

POWER = 0.8
REPETITIONS = 200
MOST_USERS = 100_000
"""Of a repetition."""
ALPHA = 0.05
NEVER = sys.maxsize
_FIRST_USERS = 2000
# Fewer looks than the product takes, so that nothing is decided earlier than there.
_MORE_USERS_A_LOOK = 1.01


@dataclass(frozen=True)
class Sample:
    """Users in the order in which they came."""

    values: Floats
    """Value of each user's answers; nan for users that do not count."""
    treated: Flags
    """For A/B, the users of the treatment."""

    def __len__(self) -> int:
        return len(self.values)

    def __add__(self, later: Sample) -> Sample:
        return Sample(np.concatenate([self.values, later.values]), np.concatenate([self.treated, later.treated]))


Draw = Callable[[int, np.random.Generator], Sample]
"""Draws a number of users."""
Look = Callable[[Sample, Places], Interval]
"""Intervals of the treatment's advantage after so many users each."""


@dataclass(frozen=True)
class Needed:
    """Users until the decision, of each repetition; NEVER where there was none."""

    users: Sequence[int]
    wrong: int
    """Repetitions that decided for the worse arm."""

    @property
    def at_power(self) -> int | None:
        """Users by which as many repetitions as POWER have decided; None where they have not."""
        found = sorted(self.users)[math.ceil(POWER * len(self.users)) - 1]
        return None if found == NEVER else found

    @property
    def between(self) -> Estimate | None:
        """The same with an interval of 95 % from the repetitions."""
        if self.at_power is None:
            return None
        capped = [float(min(users, MOST_USERS)) for users in self.users]
        return bootstrap(capped, _at_power)


def _at_power(users: Any, axis: int = -1) -> Any:
    return np.quantile(users, POWER, axis=axis, method="inverted_cdf")


def needed(draw: Draw, look: Look, repetitions: int, seed: int) -> Needed:
    """Repeat an experiment, each time with other people."""
    users, wrong = [], 0
    for repetition in range(repetitions):
        chance = np.random.default_rng([seed, repetition])
        sample = draw(_FIRST_USERS, chance)
        while (found := _decided(look, sample))[0] == NEVER and len(sample) < MOST_USERS:
            sample += draw(min(len(sample), MOST_USERS - len(sample)), chance)
        users.append(found[0])
        wrong += found[1]
    return Needed(users, wrong)


def _decided(look: Look, sample: Sample) -> tuple[int, bool]:
    """Users at the first look that decides, and True if it decides for the worse arm."""
    looks = _looks(len(sample))
    found = look(sample, looks)
    decided = (found.low > 0) | (found.high < 0)
    if not decided.any():
        return NEVER, False
    first = int(np.argmax(decided))
    wrong = bool(found.high[first] < 0)
    return (NEVER if wrong else int(looks[first])), wrong


def _looks(users: int) -> Places:
    steps = int(math.log(users / 10) / math.log(_MORE_USERS_A_LOOK))
    grown = 10 * _MORE_USERS_A_LOOK ** np.arange(steps + 1)
    return np.unique(np.minimum(np.ceil(grown), users).astype(np.int64))


# The two methods


def side_by_side(grades: Floats, model: ClickModel, metric: Callable[[Flags], Floats]) -> Draw:
    """Make people of whom each gets one arm. `grades` are by arm, question and place."""

    def draw(number: int, chance: np.random.Generator) -> Sample:
        people = drawn(number, chance)
        treated = chance.random(number) < 0.5
        asked = chance.integers(grades.shape[1], size=len(people.askers))
        clicked = model.clicked(
            grades[treated[people.askers].astype(int), asked], people.eagerness[people.askers], chance
        )
        return Sample(of_users(people, metric(clicked)), treated)

    return draw


def interleaved(grades: Floats, teams: Places, model: ClickModel) -> Draw:
    """Make people whose answers have results of both arms. `grades` and `teams` are by answer and place."""

    def draw(number: int, chance: np.random.Generator) -> Sample:
        people = drawn(number, chance)
        shown = chance.integers(len(grades), size=len(people.askers))
        clicked = model.clicked(grades[shown], people.eagerness[people.askers], chance)
        return Sample(of_users(people, team_credits(teams[shown], clicked)), np.zeros(number, bool))

    return draw


def look_side_by_side(sample: Sample, looks: Places) -> Interval:
    """Look at the difference of the arms."""
    return difference(
        moments(np.where(sample.treated, sample.values, np.nan), looks),
        moments(np.where(sample.treated, np.nan, sample.values), looks),
        ALPHA,
    )


def look_interleaved(sample: Sample, looks: Places) -> Interval:
    """Look at the preference."""
    return mean(moments(sample.values, looks), ALPHA)


# What an answer and a user come to: `sluice_statistics.answers` and `.units`, for many at once


def reciprocal_ranks(clicked: Flags) -> Floats:
    """1 / rank of the first click of each answer; 0 where there is none."""
    found: Floats = np.where(clicked.any(axis=1), 1.0 / (np.argmax(clicked, axis=1) + 1.0), 0.0)
    return found


def click_rates(clicked: Flags) -> Floats:
    """1 for each answer with a click, else 0."""
    return np.asarray(clicked.any(axis=1), dtype=np.float64)


def team_credits(teams: Places, clicked: Flags) -> Floats:
    """Credit of each answer, -1 to 1; nan where no result of a team was clicked."""
    first, second = ((clicked & (teams == team)).sum(axis=1).astype(np.float64) for team in (1, 2))
    with np.errstate(invalid="ignore"):
        found: Floats = (second - first) / (second + first)
    return found


def of_users(people: People, values: Floats) -> Floats:
    """Mean of each person's answers; nan where none counts."""
    there = ~np.isnan(values)
    askers = people.askers[there]
    counts = np.bincount(askers, minlength=len(people.questions))
    with np.errstate(invalid="ignore"):
        found: Floats = np.bincount(askers, values[there], minlength=len(people.questions)) / counts
    return found


def moments(values: Floats, looks: Places) -> Moments:
    """Moments of the first users' values, at each look."""
    there = ~np.isnan(values)
    known = np.where(there, values, 0.0)
    counts = np.cumsum(there)[looks - 1]
    totals, squares = np.cumsum(known)[looks - 1], np.cumsum(known**2)[looks - 1]
    means = totals / np.maximum(counts, 1)
    variances = np.maximum(squares - totals * means, 0.0) / np.maximum(counts - 1, 1)
    return Moments(counts, means, variances)
