from __future__ import annotations

import pytest
from hypothesis import given

from services.chassis.errors import InvalidArgument
from services.experiment.flags import FLAGS, Overrides
from sluice.type.v1 import features_pb2
from tests.unit.gateway.flag_values import overrides


def test_every_flag_is_described() -> None:
    for flag in FLAGS.values():
        assert flag.help.endswith("."), flag.name
        assert flag.variable.isupper(), flag.name
        assert flag.stage, flag.name
        assert flag.kind is not int or flag.least <= flag.most, flag.name
        assert flag.refines in FLAGS or not flag.refines, flag.name
        assert flag.unless in FLAGS or not flag.unless, flag.name


@given(overrides)
def test_overrides_survive_the_wire(layer: Overrides) -> None:
    raw = layer.to_proto().SerializeToString()
    assert Overrides.from_proto(features_pb2.Features.FromString(raw)) == layer


def test_false_is_an_answer_and_not_the_absence_of_one() -> None:
    message = features_pb2.Features(rerank=False)
    assert Overrides.from_proto(message).values == {"rerank": False}


@pytest.mark.parametrize("count", [0, -1, 17])
def test_a_number_out_of_range_is_refused_by_name(count: int) -> None:
    with pytest.raises(InvalidArgument, match=r"between 1 and 16") as refused:
        Overrides.from_proto(features_pb2.Features(max_variant_count=count))
    assert refused.value.field == "features.max_variant_count"


def test_a_choice_that_only_a_newer_release_knows_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="synonyms, multi_query"):
        Overrides.from_proto(features_pb2.Features(expansion_strategy=77))  # type: ignore[arg-type]


def test_an_unknown_flag_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(InvalidArgument, match="rerank_candidate_count"):
        Overrides(reranking=True)


def test_the_nearest_legal_overrides_set_the_same_flags() -> None:
    message = features_pb2.Features(rerank=True, max_variant_count=99, expansion_strategy=77)  # type: ignore[arg-type]
    assert Overrides.nearest_to(message).values == {
        "expansion_strategy": "synonyms",
        "max_variant_count": 16,
        "rerank": True,
    }


@given(overrides, overrides)
def test_of_two_layers_the_stronger_wins(stronger: Overrides, weaker: Overrides) -> None:
    merged = stronger.over(weaker).values
    assert merged == {**weaker.values, **stronger.values}
