from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drills.experiments.people import CLICK_MODELS, MOST_QUESTIONS, NO_RESULT, Cascade, ClickModel, Rates, drawn

MODELS = pytest.mark.parametrize("model", CLICK_MODELS, ids=lambda model: model.name)
RANKINGS = st.lists(st.sampled_from([NO_RESULT, 0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=10)
ONE = np.ones(1)


def rates(model: ClickModel, grades: list[float], eagerness: float = 1.0) -> list[float]:
    found: list[float] = model.rates(np.array([grades]), np.array([eagerness]))[0].tolist()
    return found


@MODELS
def test_clicks_come_as_often_as_their_rates_say(model: ClickModel) -> None:
    ranking = [0.0, 1.0, 0.0, 0.5, 1.0, NO_RESULT]
    answers = 200_000
    grades = np.tile(ranking, (answers, 1))
    clicked = model.clicked(grades, np.full(answers, 0.8), np.random.default_rng(3))
    # Five standard deviations of a share.
    assert clicked.mean(axis=0) == pytest.approx(rates(model, ranking, 0.8), abs=5 * 0.5 / answers**0.5)


@MODELS
@given(ranking=RANKINGS, seed=st.integers(0, 1000))
def test_nobody_clicks_where_there_is_no_result(model: ClickModel, ranking: list[float], seed: int) -> None:
    clicked = model.clicked(np.array([ranking]), ONE, np.random.default_rng(seed))[0]
    assert not any(click and grade < 0 for click, grade in zip(clicked, ranking, strict=True))


@MODELS
@given(ranking=RANKINGS)
def test_rates_are_shares_and_some_clicks_are_mistakes(model: ClickModel, ranking: list[float]) -> None:
    for grade, share in zip(ranking, rates(model, ranking), strict=True):
        assert 0.0 <= share <= 1.0
        assert (share > 0.0) == (grade >= 0.0)


@MODELS
@given(ranking=RANKINGS, place=st.integers(0, 9), eagerness=st.floats(0.1, 1.0))
def test_a_better_result_is_clicked_more_often(
    model: ClickModel, ranking: list[float], place: int, eagerness: float
) -> None:
    place %= len(ranking)
    by_grade = [
        rates(model, [*ranking[:place], grade, *ranking[place + 1 :]], eagerness)[place] for grade in (0.0, 0.5, 1.0)
    ]
    assert all(worse < better for worse, better in pairwise(by_grade))


@MODELS
@given(places=st.integers(2, 10))
def test_the_same_result_is_clicked_less_often_further_down(model: ClickModel, places: int) -> None:
    found = rates(model, [1.0] * places)
    assert all(higher > lower for higher, lower in pairwise(found))


def test_who_always_stops_clicks_once() -> None:
    model = Cascade("first one", likes=Rates(0.5, 1.0), stops=Rates(1.0, 1.0))
    grades = np.random.default_rng(1).random((5000, 10))
    assert model.clicked(grades, np.ones(5000), np.random.default_rng(2)).sum(axis=1).max() == 1


def test_most_people_ask_once_and_a_few_ask_much_of_it_all() -> None:
    people = drawn(50_000, np.random.default_rng(5))
    questions = np.sort(people.questions)
    assert np.median(questions) == 1
    assert questions.max() <= MOST_QUESTIONS
    assert questions[-500:].sum() > 0.15 * questions.sum()
    assert len(people.askers) == questions.sum()


def test_people_are_the_same_for_the_same_seed() -> None:
    one, other = (drawn(100, np.random.default_rng(9)) for _ in range(2))
    assert (one.questions == other.questions).all()
    assert (one.eagerness == other.eagerness).all()
