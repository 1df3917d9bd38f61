import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.retriever.lexical import Bm25, SparseVector
from services.retriever.search.searches import QueryVariant, plan

weights = st.floats(0.01, 100)
variants = st.lists(
    st.builds(
        QueryVariant,
        st.sampled_from(["", "?!", "how to", "compare files", "threads"]),
        st.none() | st.just(np.ones(3, np.float32)),
        weights,
    ),
    max_size=16,
)
BM25 = Bm25(k1=1.2, b=0.75, average_length=10)
HAS_WORDS = {"how to", "compare files", "threads"}


@given(variants, st.just(0.0) | weights, st.just(0.0) | weights)
def test_a_search_weighs_what_its_variant_and_its_side_weigh_together(variants, dense, lexical):
    expected = []
    for variant in variants:
        if variant.vector is not None and dense:
            expected.append((np.ndarray, variant.weight * dense))
        if variant.text in HAS_WORDS and lexical:
            expected.append((SparseVector, variant.weight * lexical))
    assert [(type(search.by), search.weight) for search in plan(variants, dense, lexical, BM25)] == expected
