from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.search.ranking import blend

score = st.floats(-50, 50, allow_nan=False)
descending = st.lists(score, min_size=1, max_size=40).map(lambda scores: sorted(scores, reverse=True))


@st.composite
def reranked(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    retrieval = draw(descending)
    head = draw(st.integers(0, len(retrieval)))
    return retrieval, draw(st.lists(score, min_size=head, max_size=head))


def test_without_a_reranker_the_first_stage_decides() -> None:
    assert [(item.position, item.score) for item in blend([3.0, 2.0, 1.0], [], 0.5)] == [(0, 3.0), (1, 2.0), (2, 1.0)]


def test_with_full_weight_the_cross_encoder_orders_what_it_read() -> None:
    assert [item.position for item in blend([3.0, 2.0, 1.0], [-5.0, 0.0, 5.0], 1.0)] == [2, 1, 0]


def test_with_no_weight_the_cross_encoder_changes_nothing() -> None:
    assert [item.position for item in blend([3.0, 2.0, 1.0], [-5.0, 0.0, 5.0], 0.0)] == [0, 1, 2]


@given(reranked(), st.floats(0, 1))
def test_every_candidate_is_ranked_once_by_falling_finite_scores(
    scores: tuple[list[float], list[float]], weight: float
) -> None:
    retrieval, rerank = scores
    ranked = blend(retrieval, rerank, weight)
    assert sorted(item.position for item in ranked) == list(range(len(retrieval)))
    assert all(math.isfinite(item.score) for item in ranked)
    assert all(first.score >= second.score for first, second in itertools.pairwise(ranked))


@given(reranked(), st.floats(0, 1))
def test_what_was_not_read_stays_in_its_order_below_what_was(
    scores: tuple[list[float], list[float]], weight: float
) -> None:
    retrieval, rerank = scores
    positions = [item.position for item in blend(retrieval, rerank, weight)]
    if rerank:
        assert set(positions[: len(rerank)]) == set(range(len(rerank)))
        assert positions[len(rerank) :] == list(range(len(rerank), len(retrieval)))


@given(reranked(), st.floats(0, 1))
def test_the_cross_encoders_score_is_reported_only_where_it_read(
    scores: tuple[list[float], list[float]], weight: float
) -> None:
    retrieval, rerank = scores
    for item in blend(retrieval, rerank, weight):
        assert item.rerank_score == (rerank[item.position] if item.position < len(rerank) else None)
