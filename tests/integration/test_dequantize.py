"""The set-up tool that makes an ordinary model of a dynamically quantized one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModel, AutoModelForSequenceClassification

from services.inference.models.info import ModelKind
from services.inference.models.layout import problem_of
from services.inference.models.onnx import OnnxModel, OnnxRuntime
from sluice_models.dequantize import TOKENIZER_FILES, dequantize
from tests.integration import tiny_models

INPUTS = ["input_ids", "attention_mask", "token_type_ids"]


class States(torch.nn.Module):
    """A model's last hidden states, which the exporter cannot choose by itself."""

    def __init__(self, model: Path) -> None:
        super().__init__()
        self.bert = AutoModel.from_pretrained(model, attn_implementation="eager")

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        return self.bert(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state


def scores_of(model: Path) -> torch.nn.Module:
    return AutoModelForSequenceClassification.from_pretrained(model, attn_implementation="eager")


def quantized(model: Path, target: Path, load: Callable[[Path], torch.nn.Module] = scores_of) -> Path:
    """The model as a package carries it: one ONNX graph, int8 in dense layers and embeddings, and the tokenizer."""
    target.mkdir()
    torch.onnx.export(
        load(model).eval(),
        tuple(torch.ones(1, 4, dtype=torch.int64) for _ in INPUTS),
        target / "fp32.onnx",
        input_names=INPUTS,
        output_names=["logits"],
        opset_version=17,
        dynamo=False,
    )
    quantize_dynamic(target / "fp32.onnx", target / "model.onnx", weight_type=QuantType.QInt8)
    for name in TOKENIZER_FILES:
        if (model / name).exists():
            shutil.copyfile(model / name, target / name)
        else:
            (target / name).write_text("{}")
    return target


@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_a_dequantized_model_is_whole_and_scores_like_the_one_that_was_quantized(
    tmp_path: Path, mixed_texts: list[str]
) -> None:
    original = tiny_models.bert_cross_encoder(tmp_path / "original")
    made = tmp_path / "made"
    made.mkdir()
    dequantize(quantized(original, tmp_path / "int8"), ModelKind.CROSS_ENCODER, 4, made)
    assert problem_of(made, ModelKind.CROSS_ENCODER) is None
    scores = []
    for folder in (original, made):
        runtime = OnnxRuntime(OnnxModel.build(folder, ModelKind.CROSS_ENCODER), name="", fingerprint="", threads=1)
        pairs = runtime.tokenizer.pairs("compare two files line by line", mixed_texts[10:40])
        scores.append(runtime.run([pair.ids for pair in pairs], [pair.type_ids for pair in pairs])[:, 0])
    assert np.corrcoef(*scores)[0, 1] > 0.99


@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_a_dequantized_late_interaction_model_has_nearly_the_states_of_the_one_that_was_quantized(
    tmp_path: Path, mixed_texts: list[str]
) -> None:
    original = tiny_models.late_bert(tmp_path / "original")
    made = tmp_path / "made"
    made.mkdir()
    dequantize(quantized(original, tmp_path / "int8", States), ModelKind.TOKENS, 4, made)
    assert problem_of(made, ModelKind.TOKENS) is None
    states = []
    for folder in (original, made):
        runtime = OnnxRuntime(OnnxModel.build(folder, ModelKind.TOKENS), name="", fingerprint="", threads=1)
        rows = runtime.tokenizer.late_passages(mixed_texts[10:20], 40)
        states.append(np.concatenate([runtime.run([row.ids])[0] for row in rows]))
    lengths = np.linalg.norm(states, axis=2)
    assert ((states[0] * states[1]).sum(axis=1) / lengths[0] / lengths[1]).min() > 0.98
