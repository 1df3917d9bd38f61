"""Layouts on the command line."""

from __future__ import annotations

import pytest
import typer

from sluice_cli.collections.layout import layout_of, layout_text
from sluice_client import Layout, Quantization


def test_settings_are_read_by_their_types_and_written_as_they_are_given() -> None:
    settings = ["quantization=int8", "oversampling=2.5", "rescore=no", "tenant=customer", "shards=3"]
    layout = layout_of(settings)
    assert layout == Layout(
        quantization=Quantization.INT8, oversampling=2.5, rescore=False, tenant="customer", shards=3
    )
    assert set(layout_text(layout).split(", ")) == {
        "quantization=int8", "oversampling=2.5", "rescore=false", "tenant=customer", "shards=3"
    }  # fmt: skip


@pytest.mark.parametrize("setting", ["shards", "shard=3", "shards=many", "rescore=perhaps", "quantization=fp4"])
def test_a_setting_that_cannot_be_read_is_named(setting: str) -> None:
    with pytest.raises(typer.BadParameter, match=setting.partition("=")[0]):
        layout_of([setting])


def test_only_what_differs_from_the_defaults_is_shown() -> None:
    assert layout_text(Layout(shards=0, replicas=1, hnsw_m=16, quantization=Quantization.NONE, tenant="")) == ""
