"""Models that no engine here computes as sentence-transformers does are refused at start, by every engine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from services.chassis.errors import StartupError
from services.embedder.backends import load_embedding_backend
from services.inference.models.info import Backend
from services.inference.models.runtime import ModelOptions
from services.reranker.backends import load_cross_encoder_backend
from tests.integration import tiny_models

FP32_ENGINES: tuple[Backend, ...] = ("onnx", "torch")


@pytest.fixture(scope="module")
def own(options: ModelOptions, tmp_path_factory: pytest.TempPathFactory) -> ModelOptions:
    return replace(options, cache_dir=tmp_path_factory.mktemp("answers"))


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values), encoding="utf-8")


def leave_out_the_prompt(folder: Path) -> None:
    change(folder / "1_Pooling" / "config.json", include_prompt=False)


def cut_queries_short(folder: Path) -> None:
    change(folder / "sentence_bert_config.json", query_length=16)


def cut_texts_by_a_setting_that_is_not_known_here(folder: Path) -> None:
    change(folder / "sentence_bert_config.json", processing_kwargs={"text": {"max_length": 12}})


def spoil_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] = weights["embeddings.LayerNorm.bias"] * np.float32(np.nan)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("engine", FP32_ENGINES)
@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (leave_out_the_prompt, "include_prompt is false"),
        (cut_queries_short, "query_length is 16"),
        (cut_texts_by_a_setting_that_is_not_known_here, "differs from that of sentence-transformers"),
        (spoil_a_weight, "not finite"),
    ],
)
def test_an_encoder_that_would_be_computed_wrongly_is_refused(
    engine: Backend, spoil: Callable[[Path], None], complaint: str, tmp_path: Path, own: ModelOptions
) -> None:
    folder = tiny_models.bert_encoder(tmp_path / "model")
    spoil(folder)
    with pytest.raises(StartupError, match=complaint) as caught:
        load_embedding_backend(str(folder), replace(own, backend=engine))
    assert "torch" not in caught.value.remedy


@pytest.mark.parametrize("engine", FP32_ENGINES)
def test_a_cross_encoder_with_a_default_prompt_is_refused(engine: Backend, tmp_path: Path, own: ModelOptions) -> None:
    folder = tiny_models.bert_cross_encoder(tmp_path / "model")
    load_cross_encoder_backend(str(folder), replace(own, backend=engine))
    about = {"prompts": {"rank": "Rank these: "}, "default_prompt_name": "rank"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(StartupError, match="default prompt"):
        load_cross_encoder_backend(str(folder), replace(own, backend=engine))


def test_memory_of_a_long_text_is_given_back(tmp_path: Path) -> None:
    """In a process of its own, because memory is measured."""
    folder = tiny_models.long_bert_encoder(tmp_path / "model")
    program = f"""
from pathlib import Path
from services.inference.models.info import ModelKind
from services.inference.models.onnx import OnnxModel, OnnxRuntime
runtime = OnnxRuntime(OnnxModel.build(Path({str(folder)!r}), ModelKind.ENCODER), name="", fingerprint="", threads=1)
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20
runtime.run([[5] * 100])
before = resident()
runtime.run([[5] * 6000])
print(resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert int(done.stdout) < 300
