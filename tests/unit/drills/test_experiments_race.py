from __future__ import annotations

import numpy as np
import pytest

from bench.quality.beir import Dataset
from drills.experiments.answers import COINS, Recorded
from drills.experiments.people import NO_RESULT
from drills.experiments.race import CLICK_RATE, PREFERENCE, RECIPROCAL_RANK, Cell, rows, totals
from drills.experiments.replay import MOST_USERS, NEVER, Needed
from drills.experiments.world import RESULTS, Collection

DATASET = Dataset("small", "test", [], {"q2": "two", "q1": "one"}, {"q1": {"a": 2, "b": 1}, "q2": {"c": 1}})
COLLECTION = Collection(DATASET, "small-1")


def cell(metric: str, users: list[int]) -> Cell:
    return Cell("small", "some people", metric, 0.1, None if metric == PREFERENCE else 0.2, 10, Needed(users, 0))


def test_grades_are_shares_of_the_best_one_and_places_without_a_result_are_known() -> None:
    assert COLLECTION.questions == ["q1", "q2"]
    assert COLLECTION.text(0) == "one"
    assert COLLECTION.grades(0, ["x", "b", "a"]).tolist() == [0.0, 0.5, 1.0, *[NO_RESULT] * (RESULTS - 3)]


def test_drafts_have_the_results_of_both_arms_by_the_coins_of_many_users() -> None:
    answers = Recorded(COLLECTION, {"dense": [["x", "a"], ["c"]], "hybrid": [["a", "x"], ["c"]]})
    assert answers.grades.shape == (2, 2, RESULTS)
    drafts = answers.drafts
    assert drafts.grades.shape == drafts.teams.shape == (2 * COINS, RESULTS)
    # The arms want different results first: each is on its arm's team, and either comes first for some users.
    first, same = drafts.teams[:COINS, :2], drafts.teams[COINS:]
    assert {tuple(teams) for teams in first.tolist()} == {(1, 2), (2, 1)}
    assert (drafts.grades[:COINS, :2] == np.where(first == 2, 1.0, 0.0)).all()
    assert not same.any()


def test_a_row_says_how_many_times_as_many_users_the_other_method_needs() -> None:
    (row,) = rows(
        [
            cell(PREFERENCE, [100] * 5),
            cell(RECIPROCAL_RANK, [1500] * 5),
            cell(CLICK_RATE, [100, 100, 100, NEVER, NEVER]),
        ]
    )
    assert row[RECIPROCAL_RANK]["times_interleaving"] == pytest.approx(15.0)
    assert row[CLICK_RATE]["users"] is None
    assert row[CLICK_RATE]["times_interleaving"] is None
    found = totals([row, row | {RECIPROCAL_RANK: row[CLICK_RATE]}], 0.05)
    assert found["users_interleave"] == 200
    assert found["users_ab"] == 1500 + MOST_USERS
    assert found["rows_within_share"] == 1
