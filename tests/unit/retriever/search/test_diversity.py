import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import InvalidArgument
from services.retriever.search.diversity import check_diversify, diversify
from services.retriever.search.searches import unit

EAST, NORTH, UP = np.eye(3, dtype=np.float32)


def rows(*vectors):
    return np.array([unit(np.asarray(vector, dtype=np.float32)) for vector in vectors])


def test_without_diversity_the_scores_alone_decide():
    assert diversify([1.0, 3.0, 2.0], rows(EAST, EAST, NORTH), 0.0) == [1, 2, 0]


def test_what_repeats_a_passage_goes_behind_what_does_not():
    vectors = rows(EAST, EAST + 0.01 * UP, NORTH, UP)
    assert diversify([1.0, 0.95, 0.5, 0.0], vectors, 0.5) == [0, 2, 3, 1]


def test_with_diversity_alone_the_first_is_followed_by_the_least_similar():
    assert diversify([0.0, 1.0, 0.9], rows(EAST, EAST, -EAST), 1.0) == [0, 2, 1]


def test_marginal_relevance_is_the_formula_s():
    # lambda 0.7; relevance 1, 0.8, 0; the second is similar to the first by 0.6, the third by 0.
    vectors = rows(EAST, 0.6 * EAST + 0.8 * NORTH, UP)
    assert 0.7 * 0.8 - 0.3 * 0.6 > 0.0
    assert diversify([10.0, 9.0, 5.0], vectors, 0.3) == [0, 1, 2]
    # lambda 0.3: 0.3 * 0.8 - 0.7 * 0.6 < 0.
    assert diversify([10.0, 9.0, 5.0], vectors, 0.7) == [0, 2, 1]


def test_equal_passages_keep_their_order():
    assert diversify([1.0] * 4, rows(*[EAST] * 4), 0.5) == [0, 1, 2, 3]
    assert diversify([1.0], rows(EAST), 1.0) == [0]


def test_a_passage_without_a_vector_is_similar_to_none():
    assert diversify([1.0, 0.9, 0.8], rows(EAST, EAST, np.zeros(3)), 0.9) == [0, 2, 1]


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(0, 3)), min_size=1, max_size=12), st.floats(0, 1))
def test_every_passage_has_one_place_and_the_best_comes_first(passages, diversity):
    scores = [score for score, _ in passages]
    order = diversify(scores, rows(*([*np.eye(3), np.zeros(3)][axis] for _, axis in passages)), diversity)
    assert sorted(order) == list(range(len(passages)))
    assert diversity == 1 or scores[order[0]] == pytest.approx(max(scores), abs=1e-9)


@pytest.mark.parametrize(
    ("ids", "scores", "diversity", "field"),
    [
        ([], [], 0.5, "ids"),
        (["a"] * 201, [0.0] * 201, 0.5, "ids"),
        (["a", "a"], [0.0, 1.0], 0.5, "ids"),
        (["a", "b"], [0.0], 0.5, "scores"),
        (["a"], [float("nan")], 0.5, "scores"),
        (["a"], [0.0], 1.5, "diversity"),
        (["a"], [0.0], float("nan"), "diversity"),
    ],
)
def test_what_cannot_be_put_in_order_is_refused_by_its_field(ids, scores, diversity, field):
    with pytest.raises(InvalidArgument) as refused:
        check_diversify(ids, scores, diversity)
    assert refused.value.field == field
