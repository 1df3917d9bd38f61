import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import models

from services.retriever.index import DENSE, LEXICAL, QueryVariant, plan, to_query

weights = st.floats(0.01, 100)
variants = st.lists(
    st.builds(
        QueryVariant,
        st.sampled_from(["", "how to", "compare files", "threads"]),
        st.none() | st.just(np.ones(3, np.float32)),
        weights,
    ),
    max_size=16,
)
HAS_WORDS = {"compare files", "threads"}


@given(variants, st.just(0.0) | weights, st.just(0.0) | weights)
def test_a_search_weighs_what_its_variant_and_its_side_weigh_together(variants, dense, lexical):
    expected = []
    for variant in variants:
        if variant.vector is not None and dense:
            expected.append((DENSE, variant.weight * dense))
        if variant.text in HAS_WORDS and lexical:
            expected.append((LEXICAL, variant.weight * lexical))
    assert [(search.using, search.weight) for search in plan(variants, dense, lexical)] == expected


@given(variants, weights, st.integers(1, 1000), st.integers(1, 100), st.integers(1, 1000))
def test_every_search_takes_part_in_the_fusion_with_its_weight(variants, dense, limit, k, depth):
    searches = plan(variants, dense, 1.0)
    if len(searches) < 2:
        return
    query = to_query(searches, None, limit, k=k, depth=depth)
    assert [prefetch.using for prefetch in query["prefetch"]] == [search.using for search in searches]
    assert {prefetch.limit for prefetch in query["prefetch"]} == {max(limit, depth)}
    fusion = query["query"].rrf
    assert fusion.k == k
    assert fusion.weights == pytest.approx([search.weight for search in searches], rel=0.032)


@given(st.integers(2, 16))
def test_of_equal_searches_none_weighs_the_same(count):
    searches = plan([QueryVariant("word", np.ones(3, np.float32))] * count, 1.0, 1.0)
    fusion_weights = to_query(searches, None, 10, k=2, depth=100)["query"].rrf.weights
    assert fusion_weights == sorted(set(fusion_weights), reverse=True)


def test_every_search_of_a_fusion_is_filtered():
    condition = models.Filter(must=[models.IsEmptyCondition(is_empty=models.PayloadField(key="metadata.year"))])
    searches = plan([QueryVariant("word", np.ones(3, np.float32))], 1.0, 1.0)
    assert [prefetch.filter for prefetch in to_query(searches, condition, 10, k=2, depth=100)["prefetch"]] == [
        condition,
        condition,
    ]


def test_a_single_search_goes_as_a_plain_query():
    (search,) = plan([QueryVariant("word", np.ones(3, np.float32))], 0.0, 1.0)
    query = to_query([search], None, 10, k=2, depth=100)
    assert (query["using"], query["query"]) == (LEXICAL, search.query)
    assert "prefetch" not in query
