from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_judgments.agreement import agreement, orders_alike
from sluice_judgments.judgments import Judgments

LISTS = st.dictionaries(
    st.sampled_from("pqr"), st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3), min_size=1), min_size=1
).map(Judgments)


def test_kappa_is_that_of_cohens_table() -> None:
    # Cohen's own kind of example: 50 judged twice; 20 and 15 alike, 5 and 10 not: (0.7 - 0.5) / 0.5.
    cells = {(1, 1): 20, (1, 0): 5, (0, 1): 10, (0, 0): 15}
    pairs = [pair for pair, count in cells.items() for _ in range(count)]
    one, other = (Judgments({f"q{number}": {"d": pair[side]} for number, pair in enumerate(pairs)}) for side in (0, 1))
    found = agreement(one, other)
    assert found.judged == 50
    assert found.equal is not None
    assert found.equal.value == pytest.approx(0.7)
    assert found.kappa is not None
    assert found.kappa.value == pytest.approx(0.4)
    assert found.kappa.low < 0.4 < found.kappa.high


def test_a_grade_that_is_far_off_weighs_more() -> None:
    people = Judgments({"q": {"a": 0, "b": 1, "c": 2, "d": 3}})
    near = agreement(people, Judgments({"q": {"a": 1, "b": 1, "c": 2, "d": 2}}))
    far = agreement(people, Judgments({"q": {"a": 3, "b": 1, "c": 2, "d": 0}}))
    assert near.weighted_kappa is not None
    assert far.weighted_kappa is not None
    assert near.weighted_kappa.value > 0.6
    assert far.weighted_kappa.value < 0


def test_pairs_are_compared_across_scales_and_ties_decide_nothing() -> None:
    people = Judgments({"q": {"a": 1, "b": 0, "c": 0, "d": 0}, "p": {"e": 1}})
    model = Judgments({"q": {"a": 50, "b": 20, "c": 80, "d": 50}, "p": {"e": 0}})
    found = agreement(people, model)
    assert (found.pairs.pairs, found.pairs.same, found.pairs.opposite, found.pairs.undecided) == (3, 1, 1, 1)
    assert found.pairs.share is not None
    assert found.pairs.share.value == 0.5


def test_grades_of_other_scales_are_compared_as_relevant_or_not() -> None:
    people = Judgments({"q": {"a": 1, "b": 0}, "p": {"c": 1, "d": 0}})
    model = Judgments({"q": {"a": 3, "b": 1}, "p": {"c": 2, "d": 0}})
    found = agreement(people, model, relevant=(1, 2))
    assert found.kappa is not None
    assert found.kappa.value == 1


def test_lists_without_a_judgment_in_common_say_nothing() -> None:
    found = agreement(Judgments({"q": {"a": 1}}), Judgments({"q": {"b": 1}}))
    assert (found.judged, found.equal, found.kappa, found.pairs.share) == (0, None, None, None)


@given(LISTS)
def test_a_list_agrees_with_itself(judgments: Judgments) -> None:
    found = agreement(judgments, judgments)
    assert found.equal is not None
    assert found.equal.value == 1
    assert found.kappa is None or found.kappa.value == pytest.approx(1)
    assert (found.pairs.opposite, found.pairs.undecided) == (0, 0)


def test_orders_of_systems_are_compared_by_kendalls_tau() -> None:
    one = {"a": 0.1, "b": 0.2, "c": 0.3}
    assert orders_alike(one, {"a": 5, "b": 6, "c": 7}) == 1
    assert orders_alike(one, {"a": 3, "b": 2, "c": 1}) == -1
    assert orders_alike(one, {"a": 3}) is None
    assert orders_alike(one, dict.fromkeys("abc", 1.0)) is None
