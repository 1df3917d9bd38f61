from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.timing import LEAST_REPLY_SECONDS, MOST_REPLY_SECONDS
from services.gateway.search.budgets import (
    HALF_LIFE_SECONDS,
    Budgets,
    Pace,
    last_moment,
)
from services.gateway.search.stages import Reranked

seconds = st.floats(0.0001, 100)
moments = st.floats(0, 1e6)


def test_a_pace_of_which_nothing_is_known_expects_no_time() -> None:
    assert Pace().expected(0) == 0


@given(seconds, st.integers(1, 50))
def test_a_steady_pace_is_expected_to_go_on(took: float, times: int) -> None:
    pace = Pace()
    for moment in range(times):
        pace.observe(moment, took)
    assert took * 0.999 <= pace.expected(times - 1) <= took * 2.001


@given(seconds)
def test_an_old_measurement_loses_its_weight(took: float) -> None:
    pace = Pace()
    pace.observe(0, took)
    assert pace.expected(HALF_LIFE_SECONDS * 20) < took / 1000


def test_a_stage_that_became_quick_again_is_trusted_again() -> None:
    pace = Pace()
    for moment in range(20):
        pace.observe(moment, 1.0)
    for moment in range(20, 60, HALF_LIFE_SECONDS.__ceil__()):
        pace.observe(moment, 0.01)
    assert pace.expected(60) < 0.1


@given(st.floats(0, 1e6), st.floats(0.05, 100))
def test_time_is_left_over_for_the_reply_and_the_more_the_more_there_is(now: float, left: float) -> None:
    kept = now + left - last_moment(now, now + left)
    assert LEAST_REPLY_SECONDS - 1e-6 <= kept <= MOST_REPLY_SECONDS + 1e-6
    assert kept <= now + left + 1 - last_moment(now, now + left + 1) + 1e-6


@given(moments, seconds, seconds, seconds, seconds)
def test_no_stage_may_use_what_a_later_one_needs(
    now: float, left: float, expand: float, embed: float, retrieve: float
) -> None:
    budgets = Budgets()
    for pace, took in ((budgets.expansion, expand), (budgets.embedding, embed), (budgets.retrieval, retrieve)):
        pace.observe(now, took)
    last = now + left
    until = budgets.expansion_until(now, last)
    if until is not None:
        needed = budgets.embedding.expected(now) + budgets.retrieval.expected(now)
        assert now < until <= last - needed + 1e-6
    until = budgets.embedding_until(now, last)
    if until is not None:
        assert now < until <= last - budgets.retrieval.expected(now) + 1e-6


@given(moments, seconds, st.floats(0.00001, 0.01), st.lists(st.integers(0, 3000), min_size=1, max_size=100))
def test_the_reranker_gets_the_first_candidates_that_there_is_time_for(
    now: float, left: float, each: float, lengths: list[int]
) -> None:
    budgets = Budgets()
    budgets.rerank_token.observe(now, each)
    count = budgets.rerank_count(now, now + left, lengths)
    expected = budgets.rerank_token.expected(now)
    available = max(0.0, now + left - now)
    taken = [tokens * expected for tokens in accumulate(budgets.rerank_tokens(lengths))]
    assert all(seconds <= available for seconds in taken[:count])
    assert all(seconds > available for seconds in taken[count:])


def read(count: int, tokens: int, *, most: int = 64) -> Reranked:
    return Reranked([0.0] * count, "cross", 0, tokens, most)


def test_candidates_take_time_by_their_length_up_to_what_the_model_reads() -> None:
    budgets = Budgets()
    budgets.rerank_work([400], read(1, 100, most=100))
    budgets.rerank_token.observe(0, 0.001)
    expected = budgets.rerank_token.expected(0)
    assert budgets.rerank_count(0, 40 * expected, [40] * 20) == 4
    assert budgets.rerank_count(0, 1000 * expected, [400] * 20) == 10
    assert budgets.rerank_count(0, 1000 * expected, [100_000] * 20) == 10


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=50), st.floats(0.2, 4), st.integers(1, 30))
def test_the_tokens_of_a_script_and_of_the_query_are_learned(lengths: list[int], ratio: float, query: int) -> None:
    budgets = Budgets()
    tokens = [int(min(length * ratio, 64)) + query for length in lengths]
    for _ in range(100):
        budgets.rerank_work(lengths, read(len(lengths), sum(tokens)))
    assert sum(budgets.rerank_tokens(lengths)) == pytest.approx(sum(tokens), rel=0.01)


@given(st.lists(st.integers(1, 5000), min_size=2, max_size=50), st.data())
def test_a_partial_reranking_counts_for_what_it_read(lengths: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(lengths)))
    partly, whole = Budgets(), Budgets()
    assert partly.rerank_work(lengths, read(count, 500)) == 500
    whole.rerank_work(lengths[:count], read(count, 500))
    assert partly.rerank_tokens(lengths) == whole.rerank_tokens(lengths)


def test_a_call_that_scored_nothing_by_its_deadline_counts_for_its_first_candidate() -> None:
    budgets = Budgets()
    assert budgets.rerank_work([400, 4000, 4000], None) == pytest.approx(100)
    assert budgets.rerank_tokens([400]) == [pytest.approx(100)]


def test_reranking_is_tried_again_seconds_after_a_rush_although_nothing_was_measured_meanwhile() -> None:
    budgets = Budgets()
    for call in range(100):
        budgets.rerank_token.observe(call / 20, 0.008)  # four times what an idle reranker takes
    assert budgets.rerank_count(5.0, 5.1, [100, 100]) == 0
    assert budgets.rerank_count(9.0, 9.1, [100, 100]) == 2


def test_time_that_is_over_leaves_nothing_to_anybody() -> None:
    budgets = Budgets()
    budgets.rerank_token.observe(10, 0.001)
    assert budgets.expansion_until(10, 9) is None
    assert budgets.embedding_until(10, 9) is None
    assert budgets.tokens_until(10, 9) is None
    assert budgets.rerank_count(10, 9, [50]) == 0


def test_a_long_deadline_leaves_a_busy_machine_a_quarter_of_a_second_for_the_reply() -> None:
    assert last_moment(100.0, 120.0) == 119.75
