from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidArgument
from services.gateway.features import ExpansionStrategy, FeatureOverrides, Features, resolve

overrides = st.builds(
    FeatureOverrides,
    dense=st.none() | st.just(True),
    lexical=st.none() | st.booleans(),
    expansion=st.none() | st.booleans(),
    expansion_strategy=st.none() | st.sampled_from(ExpansionStrategy),
    max_variant_count=st.none() | st.integers(1, 16),
    rerank=st.none() | st.booleans(),
    rerank_candidate_count=st.none() | st.integers(1, 1000),
)
features = st.builds(Features, dense=st.just(True), lexical=st.booleans(), rerank=st.booleans())


def test_a_request_that_says_nothing_gets_the_defaults() -> None:
    defaults = Features(rerank=True, rerank_candidate_count=30)
    assert resolve([FeatureOverrides()], defaults) == defaults


def test_false_is_an_answer_and_not_the_absence_of_one() -> None:
    assert resolve([FeatureOverrides(rerank=False)], Features(rerank=True)).rerank is False


@given(st.lists(overrides, max_size=4), features)
def test_the_strongest_layer_that_decides_a_feature_wins(layers: list[FeatureOverrides], defaults: Features) -> None:
    decided = resolve(layers, defaults)
    for feature in fields(Features):
        said = [getattr(layer, feature.name) for layer in layers if getattr(layer, feature.name) is not None]
        assert getattr(decided, feature.name) == (said[0] if said else getattr(defaults, feature.name))


def test_dense_and_lexical_may_not_both_be_off() -> None:
    with pytest.raises(InvalidArgument, match="dense and lexical"):
        resolve([FeatureOverrides(dense=False, lexical=False)], Features())


@pytest.mark.parametrize("count", [0, -1, 17])
def test_a_variant_count_out_of_range_is_refused_by_name(count: int) -> None:
    with pytest.raises(InvalidArgument, match=r"features\.max_variant_count"):
        FeatureOverrides(max_variant_count=count)
