from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sluice_statistics.rankings import overlap, rank_biased_overlap

rankings = st.lists(st.sampled_from("abcdefghijklmnop"), unique=True, max_size=12)
persistences = st.floats(0.05, 0.99)


def extrapolated_term_by_term(one: Sequence[str], other: Sequence[str], p: float, depth: int = 4000) -> float:
    """RBO by its definition, (1 - p) * sum of p**(d - 1) * agreement, with the agreement that the extrapolation
    assumes (section 4.4 of the paper): beyond the end of a list, it goes on to agree as it did."""
    shorter, longer = sorted((one, other), key=len)
    s, l = len(shorter), len(longer)  # noqa: E741  # the paper's
    at_short = len(set(shorter) & set(longer[:s])) / s

    def agreement(d: int) -> float:
        common = len(set(shorter[:d]) & set(longer[:d]))
        if d <= s:
            return common / d
        if d <= l:
            return (common + at_short * (d - s)) / d
        return (len(set(shorter) & set(longer)) + at_short * (l - s)) / l

    return (1 - p) * math.fsum(p ** (d - 1) * agreement(d) for d in range(1, depth))


@given(rankings, rankings, persistences)
def test_rank_biased_overlap_is_the_sum_that_defines_it(one: list[str], other: list[str], p: float) -> None:
    assume(one and other)
    assert rank_biased_overlap(one, other, p) == pytest.approx(extrapolated_term_by_term(one, other, p), abs=1e-9)


@given(rankings, rankings, persistences)
def test_rank_biased_overlap_is_symmetric_and_from_0_to_1(one: list[str], other: list[str], p: float) -> None:
    assert 0 <= rank_biased_overlap(one, other, p) <= 1
    assert rank_biased_overlap(one, other, p) == pytest.approx(rank_biased_overlap(other, one, p))


@given(rankings, persistences)
def test_the_same_ranking_overlaps_wholly_and_a_disjoint_one_not_at_all(ranking: list[str], p: float) -> None:
    assert rank_biased_overlap(ranking, ranking, p) == pytest.approx(1)
    if ranking:
        assert rank_biased_overlap(ranking, [name.upper() for name in ranking], p) == 0
        assert rank_biased_overlap(ranking, [], p) == 0


@given(rankings.filter(lambda ranking: len(ranking) > 2), persistences)
def test_a_swap_at_the_top_costs_more_than_one_at_the_bottom(ranking: list[str], p: float) -> None:
    first, second, *rest = ranking
    top = [second, first, *rest]
    bottom = [*ranking[:-2], ranking[-1], ranking[-2]]
    assert rank_biased_overlap(ranking, top, p) <= rank_biased_overlap(ranking, bottom, p) + 1e-12


def test_known_values_of_rank_biased_overlap() -> None:
    # Two lists of three, of which two are shared in other places: 0.5 * (1 * 0 + 0.5 * 0.5 + 0.25 * 2/3) + 2/3 * 0.125
    # by hand for p = 0.5, agreements 0, 1/2, 2/3.
    assert rank_biased_overlap("abc", "bad"[0:1] + "ax", 0.5) == pytest.approx(
        0.5 * (0 + 0.5 * 1.0 + 0.25 * 2 / 3) + 2 / 3 * 0.125
    )


@given(rankings, rankings, st.integers(1, 20))
def test_overlap_counts_what_both_have_whatever_the_order(one: list[str], other: list[str], depth: int) -> None:
    expected = len(set(one[:depth]) & set(other[:depth]))
    longest = max(len(one[:depth]), len(other[:depth]))
    assert overlap(one, other, depth) == (expected / longest if longest else 1.0)
    assert overlap(one, list(reversed(one)), max(1, len(one))) == 1.0
