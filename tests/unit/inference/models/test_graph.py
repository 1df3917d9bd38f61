"""Graphs of models that are not built, and why. Those that are built: tests/integration/test_*_parity.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.inference.models.graph import build_graph
from services.inference.models.info import ModelKind
from services.inference.models.layout import UnknownModelError

BERT = {"model_type": "bert", "num_hidden_layers": 0, "hidden_size": 4, "num_attention_heads": 2}
EMBEDDINGS = ("word_embeddings", "token_type_embeddings", "position_embeddings", "LayerNorm")


def write_model(folder: Path, modules: list[dict[str, Any]] | None = None, **changes: Any) -> Path:
    """A BERT without layers, whose weights have names and no bytes."""
    (folder / "config.json").write_text(json.dumps(BERT | changes))
    about = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}
    names = [f"embeddings.{name}.weight" for name in EMBEDDINGS] + ["embeddings.LayerNorm.bias"]
    header = json.dumps(dict.fromkeys(names, about)).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    if modules is not None:
        (folder / "modules.json").write_text(json.dumps([{"type": "Transformer", "path": ""}, *modules]))
    return folder


def pooling(folder: Path, **config: Any) -> dict[str, str]:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    return {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_type": "t5"}, "its model_type is t5"),
        ({"hidden_act": "relu"}, "its hidden_act is relu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder"),
        ({"num_hidden_layers": 1}, "it has no encoder.layer.0.attention.self.query.weight"),
    ],
)
def test_an_architecture_that_is_not_known_is_named(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UnknownModelError, match=complaint):
        build_graph(write_model(tmp_path, **changes), ModelKind.ENCODER)


@pytest.mark.parametrize(
    "config",
    [
        {"pooling_mode": "lasttoken"},
        {"pooling_mode": ["cls", "mean"]},
        {"pooling_mode_max_tokens": True},
        {"pooling_mode": "mean", "include_prompt": False},
    ],
)
def test_a_pooling_that_is_not_known_is_named(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(UnknownModelError, match="its pooling is"):
        build_graph(write_model(tmp_path, [pooling(tmp_path, **config)]), ModelKind.ENCODER)


@pytest.mark.parametrize("config", [{"pooling_mode": "mean"}, {"pooling_mode_mean_tokens": True}])
def test_pooling_is_read_in_the_words_of_old_and_new_versions(tmp_path: Path, config: dict[str, Any]) -> None:
    graph = build_graph(write_model(tmp_path, [pooling(tmp_path, **config)]), ModelKind.ENCODER).graph
    assert [node.op_type for node in graph.node if node.op_type.startswith("Reduce")] == ["ReduceSum", "ReduceSum"]
    assert [value.name for value in graph.input] == ["input_ids", "attention_mask", "token_type_ids"]


def test_a_module_that_is_not_known_is_named(tmp_path: Path) -> None:
    modules = [pooling(tmp_path), {"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]
    with pytest.raises(UnknownModelError, match=r"its modules\.json has sentence_transformers\.models\.Dense"):
        build_graph(write_model(tmp_path, modules), ModelKind.ENCODER)


def test_a_cross_encoder_with_modules_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="more than a transformer"):
        build_graph(write_model(tmp_path, [pooling(tmp_path)]), ModelKind.CROSS_ENCODER)


def test_weights_in_another_format_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UnknownModelError, match=r"not in one file model\.safetensors"):
        build_graph(tmp_path, ModelKind.ENCODER)
