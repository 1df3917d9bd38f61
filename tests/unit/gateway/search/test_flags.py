from __future__ import annotations

from dataclasses import fields
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import InvalidArgument
from services.experiment.flags import FLAGS, Overrides
from services.gateway.search.flags import Features, resolve
from tests.unit.gateway import flag_values


def test_every_flag_of_the_table_is_wired() -> None:
    kinds = get_type_hints(Features)
    assert {field.name: kinds[field.name] for field in fields(Features)} == {
        flag.name: flag.kind for flag in FLAGS.values()
    }, "declare each flag of features.proto in services/gateway/search/flags.py, with its default"


def test_the_products_own_defaults_are_legal() -> None:
    for field in fields(Features):
        assert not FLAGS[field.name].problem(field.default)


def test_a_request_that_says_nothing_gets_the_defaults() -> None:
    defaults = Features(rerank=True, rerank_candidate_count=30)
    assert resolve([Overrides()], defaults) == defaults


@given(st.lists(flag_values.overrides, max_size=4), flag_values.features)
def test_the_strongest_layer_that_decides_a_flag_wins(layers: list[Overrides], defaults: Features) -> None:
    wanted = {
        flag: next((layer.values[flag] for layer in layers if flag in layer.values), getattr(defaults, flag))
        for flag in FLAGS
    }
    if not (wanted["dense"] or wanted["lexical"]):
        with pytest.raises(InvalidArgument, match="dense and lexical are both off"):
            resolve(layers, defaults)
    else:
        assert resolve(layers, defaults) == Features(**wanted)


@given(flag_values.features)
def test_decided_features_show_every_flag_on_the_wire(decided: Features) -> None:
    assert Overrides.from_proto(decided.to_proto()).values.keys() == FLAGS.keys()
