from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.search.order.ranking import Ranked, best_first, blend

score = st.floats(-50, 50, allow_nan=False)
descending = st.lists(score, min_size=1, max_size=40).map(lambda scores: sorted(scores, reverse=True))


@st.composite
def reranked(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    retrieval = draw(descending)
    head = draw(st.integers(0, len(retrieval)))
    return retrieval, draw(st.lists(score, min_size=head, max_size=head))


def ranking(retrieval: list[float], read: list[float], weight: float) -> list[Ranked]:
    """The order of candidates of which the first were read."""
    return best_first(blend(retrieval, dict(enumerate(read)), weight))


def test_without_a_reranker_the_first_stage_decides() -> None:
    assert [(item.position, item.score) for item in ranking([3.0, 2.0, 1.0], [], 0.5)] == [
        (0, 3.0),
        (1, 2.0),
        (2, 1.0),
    ]


def test_with_full_weight_the_cross_encoder_orders_what_it_read() -> None:
    assert [item.position for item in ranking([3.0, 2.0, 1.0], [-5.0, 0.0, 5.0], 1.0)] == [2, 1, 0]


def test_with_no_weight_the_cross_encoder_changes_nothing() -> None:
    assert [item.position for item in ranking([3.0, 2.0, 1.0], [-5.0, 0.0, 5.0], 0.0)] == [0, 1, 2]


@given(reranked(), st.floats(0, 1))
def test_every_candidate_is_ranked_once_by_falling_finite_scores(
    scores: tuple[list[float], list[float]], weight: float
) -> None:
    retrieval, rerank = scores
    ranked = ranking(retrieval, rerank, weight)
    assert sorted(item.position for item in ranked) == list(range(len(retrieval)))
    assert all(math.isfinite(item.score) for item in ranked)
    assert all(first.score >= second.score for first, second in itertools.pairwise(ranked))


@given(reranked(), st.floats(0, 1))
def test_what_was_not_read_stays_in_its_order_below_what_was(
    scores: tuple[list[float], list[float]], weight: float
) -> None:
    retrieval, rerank = scores
    positions = [item.position for item in ranking(retrieval, rerank, weight)]
    if rerank:
        assert set(positions[: len(rerank)]) == set(range(len(rerank)))
        assert positions[len(rerank) :] == list(range(len(rerank), len(retrieval)))


def test_what_was_read_need_not_be_the_first() -> None:
    order = [item.position for item in best_first(blend([3.0, 2.9, 1.0, 0.9], {1: 0.0, 2: 9.0}, 0.9))]
    assert order == [2, 0, 1, 3]
