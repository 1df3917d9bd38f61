"""Experiments that change nothing, as streams of answers and of what was done with them; and what is known after each.

A few people ask most; what they do differs from person to person, and changes as they come back; clicks come late and
in any order. Values, teams and credit are those of the product's code.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from services.gateway.search.order.interleaving import Coin, draft
from sluice_statistics.answers import AnswerEvent, AnswerOutcome, Metric
from sluice_statistics.sequences import History, Moments

PLACES = 10
NOTHING = -1
_SECOND_CLICKS = 0.3  # share of answers with a click that have another one
_DELAY = 3.0  # answers of anybody until a click arrives, on average
_QUESTIONS = 20
_FAVOURITES = 3  # questions that a person asks
_PASSAGES = 14  # that either ranking of a question is taken from

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Activity(enum.Enum):
    """Spread of activity over people."""

    ZIPF = "Zipf"
    LOG_NORMAL = "log-normal"
    EVEN = "even"


@dataclass(frozen=True)
class Scenario:
    """People, and what they do."""

    name: str
    activity: Activity
    people: int
    answers: int
    rate: float
    """Mean share of answers with a click; with a rating, for satisfaction."""
    metric: Metric = Metric.RECIPROCAL_RANK
    spread: float = 2.0
    """Likeness of people: the sum of the parameters of a beta distribution."""
    learning: float = 0.0
    """Share of a person's first click rate that is gained (or lost, below 0) while they come back."""
    history_share: float = 0.0
    """Share of people who were there before the run."""


@dataclass(frozen=True)
class Stream:
    """Events in their order."""

    users: Ints
    """User of each answer."""
    answers: Ints
    """Number of each answer, in the order in which they were served."""
    places: Ints
    """Place from 0 of what was used; NOTHING for the answer itself."""
    counted: Ints
    """1 where an answer comes to count, or else 0."""
    changes: Floats
    """Change of the sum of the user's values."""


def answered(scenario: Scenario, chance: np.random.Generator) -> Ints:
    """The user of each answer."""
    weights: Floats = np.ones(scenario.people)
    if scenario.activity is Activity.ZIPF:
        weights = np.arange(1, scenario.people + 1, dtype=np.float64) ** -1.1
    elif scenario.activity is Activity.LOG_NORMAL:
        weights = chance.lognormal(0.0, 1.5, scenario.people)
    return chance.choice(scenario.people, scenario.answers, p=weights / weights.sum()).astype(np.int64)


def proneness(scenario: Scenario, chance: np.random.Generator) -> Floats:
    """Click rate of each person."""
    return chance.beta(scenario.spread * scenario.rate, scenario.spread * (1 - scenario.rate), scenario.people)


def side_by_side(
    scenario: Scenario, users: Ints, prone: Floats, chance: np.random.Generator, usable: Flags | None = None
) -> Stream:
    """Answers of which each is of one arm. What is not `usable` is not used."""
    rates = prone[users] * (1.0 + scenario.learning * (1.0 - 0.7 ** _nth(users)))
    clicked = (chance.random(len(users)) < rates) & (True if usable is None else usable)
    weights = 1.0 / np.arange(1, PLACES + 1)
    places = chance.choice(PLACES, (len(users), 2), p=weights / weights.sum())
    values, again = _tables(scenario.metric)
    return _stream(
        users,
        clicked,
        places,
        np.full(len(users), 0.0 if scenario.metric is not Metric.SATISFACTION else np.nan),
        values[places[:, 0]],
        again[places[:, 0], places[:, 1]],
        chance,
    )


def interleaved(
    scenario: Scenario,
    users: Ints,
    prone: Floats,
    salt: str,
    chance: np.random.Generator,
    usable: Flags | None = None,
    exchanged: float = 0.5,
) -> tuple[Stream, Ints]:
    """Answers that have results of two rankings, and the teams of each answer.

    So many of the people see them `exchanged`; neither ranking is better where it is half of them.
    """
    favourites = chance.integers(_QUESTIONS, size=(scenario.people, _FAVOURITES))
    asked = favourites[users, chance.integers(_FAVOURITES, size=len(users))]
    mirrored = (chance.random(scenario.people) < exchanged)[users]
    drafts = [
        _drafted(question, mirror, _bits(Coin(salt, f"user-{user}", b"%d" % question)))
        for user, question, mirror in zip(users.tolist(), asked.tolist(), mirrored.tolist(), strict=True)
    ]
    teams, grades = np.array([one[0] for one in drafts]), np.array([one[1] for one in drafts])
    # Two clicks at most: places by what is seen and liked there.
    appeal = (0.1 + 0.9 * grades) / np.arange(1, PLACES + 1)
    appeal /= appeal.sum(axis=1, keepdims=True)
    reached = appeal.cumsum(axis=1)
    first, second = ((chance.random((len(users), 1)) > reached).sum(axis=1).clip(0, PLACES - 1) for _ in range(2))
    rows = np.arange(len(users))
    values, again = _credits()
    ours, theirs = teams[rows, first], teams[rows, second]
    theirs = np.where(first == second, 3, theirs)
    clicked = (chance.random(len(users)) < prone[users]) & (True if usable is None else usable)
    places = np.column_stack([first, second])
    stream = _stream(users, clicked, places, np.full(len(users), np.nan), values[ours], again[ours, theirs], chance)
    return stream, teams


def _nth(users: Ints) -> Ints:
    """Number of earlier answers of the same user, for each answer."""
    order = np.argsort(users, kind="stable")
    starts = np.flatnonzero(np.diff(users[order], prepend=-1))
    found = np.empty(len(users), np.int64)
    found[order] = np.arange(len(users)) - np.repeat(starts, np.diff(starts, append=len(users)))
    return found


def _stream(
    users: Ints,
    clicked: Flags,
    places: Ints,
    at_first: Floats,
    after_one: Floats,
    after_two: Floats,
    chance: np.random.Generator,
) -> Stream:
    """Put answers and clicks in the order in which they arrive."""
    number = len(users)
    twice = clicked & (chance.random(number) < _SECOND_CLICKS)
    first = np.arange(number) + chance.exponential(_DELAY, number)
    second = first + chance.exponential(_DELAY, number)
    times = np.concatenate([np.arange(number), first[clicked], second[twice]])
    answers = np.concatenate([np.arange(number), np.flatnonzero(clicked), np.flatnonzero(twice)])
    before = np.concatenate([np.full(number, np.nan), at_first[clicked], after_one[twice]])
    after = np.concatenate([at_first, after_one[clicked], after_two[twice]])
    order = np.argsort(times, kind="stable")
    counted = (np.isnan(before) & ~np.isnan(after)).astype(np.int64)
    changes = np.nan_to_num(after) - np.nan_to_num(before)
    used = np.concatenate([np.full(number, NOTHING), places[clicked, 0], places[twice, 1]])
    return Stream(users[answers][order], answers[order], used[order], counted[order], changes[order])


@functools.cache
def _tables(metric: Metric) -> tuple[Floats, Floats]:
    """Value of an answer after a click at each place, and after clicks at two."""

    def value(*places: int) -> float:
        if metric is Metric.SATISFACTION:
            events = [AnswerEvent("rate", rating=place / (PLACES - 1)) for place in places]
        else:
            events = [AnswerEvent("click", f"{place}", place + 1) for place in places]
        found = AnswerOutcome.of(events).value(metric)
        return np.nan if found is None else found

    places = range(PLACES)
    return np.array([value(one) for one in places]), np.array([[value(one, two) for two in places] for one in places])


@functools.cache
def _credits() -> tuple[Floats, Floats]:
    """Credit after a click on a result of each team, and after another: 3 where it is the same result."""

    def value(*teams: int) -> float:
        used = [team for team in teams if team < 3]
        events = [AnswerEvent("click", f"{place}", place + 1) for place in range(len(used))]
        found = AnswerOutcome.of(events, teams=used).credit
        return np.nan if found is None else found

    return np.array([value(one) for one in range(3)]), np.array(
        [[value(one, two) for two in range(4)] for one in range(3)]
    )


def _bits(coin: Callable[[int], bool]) -> tuple[bool, ...]:
    return tuple(coin(number) for number in range(PLACES // 2))


@functools.cache
def _rankings(question: int) -> tuple[Sequence[int], Sequence[int], Floats]:
    """Two rankings of the passages of a question, neither better than the other, and the grades of the passages."""
    chance = np.random.default_rng([13, question])
    grades = chance.choice([0.0, 0.5, 1.0], _PASSAGES, p=[0.6, 0.2, 0.2])
    first, second = (np.argsort(-(grades + chance.normal(0.0, 0.5, _PASSAGES)))[:PLACES] for _ in range(2))
    return first.tolist(), second.tolist(), grades


@functools.cache
def _drafted(question: int, mirrored: bool, bits: tuple[bool, ...]) -> tuple[list[int], list[float]]:
    """Teams and grades of an interleaved answer. Half of the people see the two rankings exchanged, so neither wins."""
    first, second, grades = _rankings(question)
    rankings = (second, first) if mirrored else (first, second)
    placed = list(islice(draft(rankings, bits.__getitem__, set()), PLACES))
    return [one.team for one in placed], [float(grades[rankings[one.arm][one.place]]) for one in placed]


# What is known after each event


def known(stream: Stream, chosen: Flags, history: Floats | None = None) -> tuple[Moments, History]:
    """Moments of the values of some users after each event, as `UnitValues` has them, and of their history.

    `chosen` is by event; `history` is by user.
    """
    order = np.argsort(stream.users, kind="stable")
    sizes = np.diff(np.flatnonzero(np.diff(stream.users[order], prepend=-1)), append=len(order))

    def by_user(steps: Floats | Ints) -> Floats:
        """Sums of the same user's steps until each event."""
        sums = np.concatenate([[0.0], np.cumsum(steps[order])])
        starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
        found = np.empty(len(order))
        found[order] = sums[1:] - sums[starts]
        return found

    counts, totals = by_user(stream.counted), by_user(stream.changes)
    counts_before, totals_before = counts - stream.counted, totals - stream.changes
    after, before = totals / np.maximum(counts, 1), totals_before / np.maximum(counts_before, 1)
    comes = chosen & (counts_before == 0) & (counts > 0)
    usual = np.zeros(len(order)) if history is None else history[stream.users]

    def summed(steps: Floats) -> Floats:
        return np.cumsum(np.where(chosen, steps, 0.0))

    users = np.cumsum(comes)
    number, rest = np.maximum(users, 1), np.maximum(users - 1, 1)
    mean, squares = summed(after - before) / number, summed(after**2 - before**2)
    usual_mean, usual_squares = np.cumsum(comes * usual) / number, np.cumsum(comes * usual**2)
    products = summed((after - before) * usual)
    return (
        Moments(users, mean, np.maximum(squares - number * mean**2, 0.0) / rest),
        History(
            usual_mean,
            np.maximum(usual_squares - number * usual_mean**2, 0.0) / rest,
            (products - number * mean * usual_mean) / rest,
        ),
    )
