import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retriever.search.fusion import Found, fuse

weights = st.floats(0.01, 100)
scores = st.dictionaries(st.integers(0, 30), st.floats(0.001, 1000), max_size=20)
searches = st.lists(
    st.builds(
        lambda scored, weight, whole: Found(
            sorted(scored.items(), key=lambda item: -item[1]), weight, whole or not scored
        ),
        scores,
        weights,
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@given(searches)
def test_everything_that_was_found_comes_once_the_best_first_between_0_and_1(searches):
    fused = fuse(searches)
    assert sorted(one.id for one in fused) == sorted({found for search in searches for found, _ in search.scores})
    assert [one.score for one in fused] == sorted((one.score for one in fused), reverse=True)
    assert all(-1e-9 <= one.score <= 1 + 1e-9 for one in fused)


@given(searches, st.sampled_from([0.25, 4.0]), st.sampled_from([0.5, 8.0]))
def test_neither_the_scale_of_scores_nor_that_of_weights_matters(searches, scale, heavier):
    scaled = [
        Found([(found, score * scale) for found, score in search.scores], search.weight * heavier, search.whole)
        for search in searches
    ]
    assert fuse(scaled) == fuse(searches)


@given(searches)
def test_what_no_search_thinks_less_of_is_not_below(searches):
    """Of two that every search found."""
    everywhere = set.intersection(*({found for found, _ in search.scores} for search in searches))
    means = {one.id: one.score for one in fuse(searches)}
    tables = [dict(search.scores) for search in searches]
    for one in everywhere:
        for other in everywhere:
            if all(table[one] >= table[other] for table in tables):
                assert means[one] >= means[other] - 1e-9


def test_a_mean_is_that_of_the_shares_of_the_best():
    fused = fuse([Found([("a", 0.8), ("b", 0.4)], 3.0, whole=True), Found([("b", 20.0), ("c", 5.0)], 1.0, whole=True)])
    assert [one.id for one in fused] == ["a", "b", "c"]
    assert [one.score for one in fused] == pytest.approx([0.75, 0.625, 0.0625])


def test_what_a_search_would_have_found_further_down_counts_as_its_last():
    fused = fuse([Found([("a", 0.8), ("b", 0.4)], 1.0, whole=False), Found([("c", 9.0)], 1.0, whole=True)])
    assert {one.id: one.score for one in fused} == pytest.approx({"a": 0.5, "b": 0.25, "c": 0.75})


def test_equal_means_go_by_id_whichever_search_came_first():
    first, second = Found([("b", 2.0)], 1.0, whole=True), Found([("a", 7.0)], 1.0, whole=True)
    assert [one.id for one in fuse([first, second])] == [one.id for one in fuse([second, first])] == ["a", "b"]


def test_directions_that_lead_away_count_as_nothing():
    fused = fuse([Found([("a", -0.1), ("b", -0.2)], 1.0, whole=True), Found([("b", 1.0)], 1.0, whole=True)])
    assert [tuple(one) for one in fused] == [("b", 0.5), ("a", 0.0)]


def test_nothing_found_is_nothing_fused():
    assert fuse([Found[str]([], 1.0, whole=True)]) == []
