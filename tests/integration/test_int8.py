"""Static int8 with the real all-MiniLM-L6-v2: near enough to fp32, and the same whatever is computed with it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.chassis.errors import StartupError
from services.embedder.backends import EmbeddingBackend, TextKind, load_embedding_backend
from services.inference.models import quantize
from services.inference.models.export import export
from services.inference.models.info import ModelKind
from services.inference.models.quantize import Quality
from tests.integration import tiny_models
from tests.integration.conftest import EMBEDDING_MODEL

PASSES = Quality(likeness=0.997, fp32_ndcg=0.6, int8_ndcg=0.6)


@pytest.fixture(scope="session")
def int8(options: dict[str, Any]) -> EmbeddingBackend:
    return load_embedding_backend(
        EMBEDDING_MODEL, backend="auto", pseudo_dimension=0, **options | {"precision": "int8"}
    )


@pytest.fixture(scope="session")
def alone(int8: EmbeddingBackend, mixed_texts: list[str]) -> np.ndarray:
    return np.concatenate([int8.embed([text]) for text in int8.tokenize(mixed_texts, TextKind.DOCUMENT)])


def test_int8_points_where_fp32_points(
    int8: EmbeddingBackend, embedder: EmbeddingBackend, alone: np.ndarray, mixed_texts: list[str]
) -> None:
    fp32 = np.concatenate([embedder.embed([text]) for text in embedder.tokenize(mixed_texts, TextKind.DOCUMENT)])
    cosines = np.sum(fp32 * alone, axis=1)
    assert cosines.mean() > 0.99
    assert cosines.min() > 0.95
    assert (int8.model.backend, int8.model.precision) == ("openvino", "int8")
    assert int8.model.fingerprint == embedder.model.fingerprint


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.lists(st.integers(0, 199), min_size=1, max_size=12, unique=True))
def test_an_int8_vector_is_the_same_to_the_bit_whatever_it_is_computed_with(
    int8: EmbeddingBackend, alone: np.ndarray, mixed_texts: list[str], chosen: list[int]
) -> None:
    tokenized = int8.tokenize([mixed_texts[number] for number in chosen], TextKind.DOCUMENT)
    width = int8.width(tokenized[0].token_count)
    # The scheduler puts rows of one width together.
    together = [at for at, text in enumerate(tokenized) if int8.width(text.token_count) == width]
    vectors = int8.embed([tokenized[at] for at in together])
    np.testing.assert_array_equal(vectors, alone[[chosen[at] for at in together]])


def test_serving_int8_imports_neither_torch_nor_nncf(int8: EmbeddingBackend, options: dict[str, Any]) -> None:
    program = f"""
import json, sys
from pathlib import Path
from services.embedder.backends import TextKind, load_embedding_backend
backend = load_embedding_backend(
    {EMBEDDING_MODEL!r}, device="cpu", backend="auto", precision="int8", pseudo_dimension=0, model_dir=None,
    cache_dir=Path({str(options["cache_dir"])!r}), threads=1,
)
backend.embed(backend.tokenize(["a text"], TextKind.QUERY))
print(json.dumps([name for name in ("torch", "transformers", "onnx", "nncf", "sklearn") if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_an_int8_model_that_was_brought_along_needs_no_export(
    int8: EmbeddingBackend, options: dict[str, Any], tmp_path: Path
) -> None:
    (made,) = Path(options["cache_dir"]).glob("*-encoder-int8-*/")
    shutil.copytree(made, tmp_path / made.name)
    brought = load_embedding_backend(
        EMBEDDING_MODEL, backend="auto", pseudo_dimension=0, **options | {"precision": "int8", "cache_dir": tmp_path}
    )
    assert brought.model == int8.model
    assert [entry.name for entry in tmp_path.iterdir()] == [made.name]


@pytest.mark.parametrize("lost", [{"likeness": 0.98}, {"int8_ndcg": 0.593}, {"likeness": float("nan")}])
def test_the_gate_refuses_a_model_that_lost_too_much(lost: dict[str, float]) -> None:
    quantize.check(PASSES)
    with pytest.raises(StartupError, match="fails the quality gate") as caught:
        quantize.check(replace(PASSES, **lost))
    assert "fp32" in caught.value.remedy


def test_a_cross_encoder_goes_through_the_same_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_models.electra_cross_encoder(tmp_path / "model")
    exported, target = tmp_path / "exported", tmp_path / "int8"
    exported.mkdir()
    target.mkdir()
    export(ModelKind.CROSS_ENCODER, folder, exported)
    monkeypatch.setattr(quantize, "LEAST_LIKENESS", 1.01)
    with pytest.raises(StartupError, match="fails the quality gate"):
        quantize.quantize(ModelKind.CROSS_ENCODER, exported, target)
    # What it lost is written down, for whoever wants to know by how much.
    assert json.loads((target / quantize.QUALITY_FILE).read_text())["likeness"] < 1
