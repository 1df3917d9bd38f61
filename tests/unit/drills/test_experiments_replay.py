from __future__ import annotations

import numpy as np
import pytest

from drills.experiments.people import CLICK_MODELS, People
from drills.experiments.replay import (
    MOST_USERS,
    NEVER,
    Needed,
    click_rates,
    interleaved,
    look_interleaved,
    look_side_by_side,
    moments,
    needed,
    of_users,
    reciprocal_ranks,
    side_by_side,
    team_credits,
)
from sluice_statistics.answers import AnswerEvent, AnswerOutcome, Metric
from sluice_statistics.units import UnitValues

PLACES = 10
MODEL = CLICK_MODELS[0]
WORSE = np.array([[0.0] * 5 + [1.0] + [0.0] * 4])
BETTER = np.array([[1.0] + [0.0] * 9])


def test_values_of_answers_and_users_are_those_of_the_product() -> None:
    chance = np.random.default_rng(4)
    people = People(questions=chance.integers(1, 6, 300), eagerness=np.ones(300))
    answers = len(people.askers)
    clicked = chance.random((answers, PLACES)) < 0.12
    teams = chance.integers(0, 3, (answers, PLACES))
    ours = {
        Metric.RECIPROCAL_RANK: reciprocal_ranks(clicked),
        Metric.CLICK_RATE: click_rates(clicked),
        Metric.PREFERENCE: team_credits(teams, clicked),
    }
    outcomes = [
        AnswerOutcome.of(
            [AnswerEvent("click", str(place), place + 1) for place in np.flatnonzero(row).tolist()],
            teams=sides.tolist(),
        )
        for row, sides in zip(clicked, teams, strict=True)
    ]
    for metric, values in ours.items():
        units = UnitValues(1)
        for asker, outcome in zip(people.askers.tolist(), outcomes, strict=True):
            units.add(asker, 0, outcome.value(metric))
        theirs = units.moments(0)
        found = moments(of_users(people, values), np.array([len(people.questions)]))
        assert found.count[0] == theirs.count
        assert found.mean[0] == pytest.approx(theirs.mean)
        assert found.variance[0] == pytest.approx(theirs.variance)


def test_a_better_ranking_is_found_by_either_method() -> None:
    grades = np.stack([WORSE, BETTER])
    found = needed(side_by_side(grades, MODEL, reciprocal_ranks), look_side_by_side, 20, seed=1)
    assert found.wrong == 0
    assert found.at_power is not None and found.at_power < 1000
    # The better one's result is first or second, for its team, and nothing else is ever right.
    drafts = np.array([[1.0] + [0.0] * 9, [0.0, 1.0] + [0.0] * 8])
    teams = np.array([[2, 1] + [0] * 8, [1, 2] + [0] * 8])
    found = needed(interleaved(drafts, teams, MODEL), look_interleaved, 20, seed=1)
    assert found.wrong == 0
    assert found.at_power is not None and found.at_power < 300


def test_a_worse_ranking_is_never_counted_as_the_better_one() -> None:
    grades = np.stack([BETTER, WORSE])
    found = needed(side_by_side(grades, MODEL, reciprocal_ranks), look_side_by_side, 10, seed=1)
    assert found.wrong == 10
    assert found.at_power is None


def test_users_at_power_are_those_by_which_four_of_five_repetitions_have_ended() -> None:
    assert Needed([50, 10, 30, 20, 40], 0).at_power == 40
    assert Needed([50, 10, NEVER, 20, NEVER], 0).at_power is None
    between = Needed([100] * 150 + [200] * 50, 0).between
    assert between is not None and between.low <= 200 <= between.high < MOST_USERS
