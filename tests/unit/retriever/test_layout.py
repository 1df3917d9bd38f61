"""Layouts of versions: bounds, notes and messages."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import pytest
from annotated_types import Ge, Le
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import InvalidArgument
from services.retriever.layout import BOUNDS, Layout, Quantization
from services.retriever.settings import RetrieverSettings
from sluice.type.v1 import layout_pb2 as pb


def layouts() -> st.SearchStrategy[Layout]:
    values: dict[str, st.SearchStrategy[Any]] = {"quantization": st.sampled_from(Quantization)}
    for field in fields(Layout):
        if field.name in BOUNDS:
            least, most = BOUNDS[field.name]
            values[field.name] = (
                st.floats(least, most) if field.name == "oversampling" else st.integers(int(least), int(most))
            )
    consistent = st.builds(Layout, tenant=st.sampled_from(["", "customer"]), **values)
    return consistent.filter(lambda one: max(one.write_consistency, one.read_consistency) <= one.replicas)


@given(layouts(), layouts())
def test_a_layout_survives_its_message_and_its_notes(layout: Layout, base: Layout) -> None:
    assert Layout.from_proto(layout.to_proto(), base) == layout
    assert Layout.from_notes({"layout": layout.to_notes()}) == layout


def test_what_a_message_leaves_out_stays_as_it_is() -> None:
    base = Layout(replicas=3, quantization=Quantization.INT8, oversampling=4)
    assert Layout.from_proto(pb.Layout(oversampling=1), base) == Layout(
        replicas=3, quantization=Quantization.INT8, oversampling=1
    )


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.Layout(replicas=0), "layout.replicas"),
        (pb.Layout(shards=-1), "layout.shards"),
        (pb.Layout(oversampling=float("nan")), "layout.oversampling"),
        (pb.Layout(replicas=2, write_consistency=3), "layout.write_consistency"),
        (pb.Layout(tenant_required=True), "layout.tenant_required"),
        (pb.Layout(tenant="a b"), "layout.tenant"),
        (pb.Layout.FromString(b"\x50\x63"), "layout.quantization"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_name(message: pb.Layout, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Layout.from_proto(message, Layout())
    assert refused.value.field == field


def test_notes_of_versions_without_a_layout_mean_the_defaults() -> None:
    assert Layout.from_notes({}) == Layout()
    assert Layout.from_notes({"layout": {"shards": 3, "made_up": 1}}) == Layout(shards=3)


def test_settings_have_the_bounds_and_the_defaults_of_layouts() -> None:
    assert RetrieverSettings().layout() == Layout()
    for name, bounds in BOUNDS.items():
        setting = RetrieverSettings.model_fields.get(f"qdrant_{name}")
        if setting is not None:
            assert (
                next(one.ge for one in setting.metadata if isinstance(one, Ge)),
                next(one.le for one in setting.metadata if isinstance(one, Le)),
            ) == bounds, name
    assert {f"qdrant_{name}" for name in asdict(Layout())} - set(RetrieverSettings.model_fields) == {
        "qdrant_read_rate",
        "qdrant_write_rate",
        "qdrant_most_passages",
        "qdrant_tenant",
        "qdrant_tenant_required",
    }
