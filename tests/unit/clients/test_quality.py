from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.quality.measures import NDCG as BENCH_NDCG
from bench.quality.measures import by_query as bench_by_query
from sluice_cli.evaluation.measures import MRR, NDCG, R5, R10, by_query, difference_of, unjudged
from sluice_cli.evaluation.quality import answerable, quality_of
from sluice_judgments.judgments import Judgments

PEOPLE = Judgments({"p": {"a": 3, "b": 1, "c": 0}, "q": {"d": 1}, "none": {"a": 0}})


def test_measures_are_those_of_trec_eval() -> None:
    values = by_query(PEOPLE, {"p": ["b", "x", "a"], "q": []}, 1)
    best = 3 + 1 / math.log2(3)
    assert values[NDCG]["p"] == pytest.approx((1 + 3 / math.log2(4)) / best)
    assert (values[MRR]["p"], values[R5]["p"], values[R10]["p"]) == (1, 1, 1)
    assert [values[name]["q"] for name in (NDCG, MRR, R5, R10)] == [0, 0, 0, 0]


def test_recall_and_reciprocal_rank_take_what_is_said_to_be_relevant() -> None:
    values = by_query(PEOPLE, {"p": ["b", "x", "a"]}, 2)
    assert (values[MRR]["p"], values[R5]["p"]) == (pytest.approx(1 / 3), 1)
    assert answerable(PEOPLE, 1) == {"p", "q"}
    assert answerable(PEOPLE, 2) == {"p"}


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3), min_size=1).filter(
        lambda grades: any(grades.values())
    ),
    st.lists(st.sampled_from("abcdefxyz"), unique=True),
)
def test_the_command_measures_as_the_bench_does(grades: dict[str, int], ranking: list[str]) -> None:
    ours = by_query(Judgments({"q": grades}), {"q": ranking}, 1)
    bench = bench_by_query({"q": grades}, {"q": ranking})
    assert ours[NDCG]["q"] == pytest.approx(bench[BENCH_NDCG]["q"])


def test_a_difference_is_paired_and_counts_questions() -> None:
    found = difference_of("b", NDCG, {"p": 1.0, "q": 0.5, "r": 0.2}, {"p": 0.5, "q": 0.5, "r": 0.4})
    assert found is not None
    assert (found.wins, found.losses, found.ties) == (1, 1, 1)
    assert found.difference.value == pytest.approx(0.1)
    assert found.difference.low < 0.1 < found.difference.high


def test_grades_of_clicks_in_percent_rank_as_their_probabilities_do() -> None:
    percent = Judgments({"q": {"a": 60, "b": 20, "c": 5}})
    values = by_query(percent, {"q": ["b", "a", "c"]}, 1)
    gain = (0.2 + 0.6 / math.log2(3) + 0.05 / 2) / (0.6 + 0.2 / math.log2(3) + 0.05 / 2)
    assert values[NDCG]["q"] == pytest.approx(gain)


def test_what_nobody_judged_is_counted_among_the_first_ten() -> None:
    assert unjudged(PEOPLE, {"p": ["a", "x", "b", "y"], "q": []}) == 0.5
    assert unjudged(PEOPLE, {"q": []}) is None


def test_the_questions_that_moved_most_come_from_both_ends() -> None:
    judgments = Judgments({f"q{number}": {"hit": 1} for number in range(6)})
    first = {f"q{number}": [f"x{place}" for place in range(number)] + ["hit"] for number in range(6)}
    second = {f"q{number}": ["hit"] if number > 2 else ["y1", "y2", "hit"] for number in range(6)}
    found = quality_of(judgments, {"a": first, "b": second}, ["a", "b"], relevant=1, show=1)
    assert [(one.query_id, one.after > one.before) for one in found.moved] == [("q5", True), ("q0", False)]
    assert found.questions == 6


def test_rankings_of_no_question_have_no_measures() -> None:
    found = quality_of(PEOPLE, {"a": {}, "b": {}}, ["a", "b"], relevant=1, show=3)
    assert (found.questions, found.differences, found.moved) == (0, [], [])
    assert [one.measures for one in found.configurations] == [{}, {}]
