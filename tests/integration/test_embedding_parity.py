"""The fast backend against sentence-transformers itself."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from services.chassis.errors import StartupError
from services.embedder.backends import EmbeddingBackend, ModelBackend, TextKind, load_embedding_backend
from services.inference.models import artifacts
from services.inference.models.export import export
from services.inference.models.info import Backend, ModelKind, Precision
from services.inference.models.onnx import OnnxModel, OnnxRuntime
from services.inference.models.resolver import resolve_model
from services.inference.models.runtime import ModelOptions
from tests.integration import tiny_models
from tests.integration.conftest import EMBEDDING_MODEL


def embed(backend: EmbeddingBackend, texts: Sequence[str], kind: TextKind = TextKind.DOCUMENT) -> np.ndarray:
    """Each text by itself."""
    return np.concatenate([backend.embed([text]) for text in backend.tokenize(texts, kind)])


def cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return np.sum(ours * theirs, axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)


@pytest.fixture(scope="session")
def reference(options: ModelOptions) -> SentenceTransformer:
    model = resolve_model(EMBEDDING_MODEL, ModelKind.ENCODER, model_dir=options.model_dir, cache_dir=options.cache_dir)
    return SentenceTransformer(str(model.folder), device="cpu", local_files_only=True)


@pytest.fixture(scope="session")
def vectors(embedder: EmbeddingBackend, mixed_texts: list[str]) -> np.ndarray:
    return embed(embedder, mixed_texts)


def test_vectors_equal_those_of_sentence_transformers(
    vectors: np.ndarray, reference: SentenceTransformer, mixed_texts: list[str]
) -> None:
    expected = reference.encode(mixed_texts)
    assert len(mixed_texts) == 100
    assert cosines(vectors, expected).min() >= 0.9999
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_a_vector_never_depends_on_its_batch(
    embedder: EmbeddingBackend, vectors: np.ndarray, mixed_texts: list[str]
) -> None:
    chance = random.Random(1)
    tokenized = embedder.tokenize(mixed_texts, TextKind.DOCUMENT)
    for size in (2, 3, 7, 12):
        chosen = chance.sample(range(len(tokenized)), size)
        np.testing.assert_allclose(embedder.embed([tokenized[i] for i in chosen]), vectors[chosen], atol=1e-5)


def test_token_counts_and_truncation_are_those_of_the_model(
    embedder: EmbeddingBackend, reference: SentenceTransformer, mixed_texts: list[str]
) -> None:
    limit = reference.max_seq_length
    whole = [len(ids) for ids in reference.tokenizer(mixed_texts, truncation=False)["input_ids"]]
    tokenized = embedder.tokenize(mixed_texts, TextKind.DOCUMENT)
    assert [text.token_count for text in tokenized] == [min(count, limit) for count in whole]
    assert [text.truncated for text in tokenized] == [count > limit for count in whole]
    assert any(text.truncated for text in tokenized)


def test_the_torch_backend_is_the_same_model(
    embedder: EmbeddingBackend, vectors: np.ndarray, mixed_texts: list[str], options: ModelOptions
) -> None:
    slow = load_embedding_backend(EMBEDDING_MODEL, replace(options, backend="torch"))
    np.testing.assert_allclose(embed(slow, mixed_texts[:20]), vectors[:20], atol=1e-5)
    assert slow.model.fingerprint == embedder.model.fingerprint
    assert (slow.model.name, slow.model.dimension, slow.model.max_token_count) == (
        embedder.model.name,
        embedder.model.dimension,
        embedder.model.max_token_count,
    )


def test_768_dimensions_without_token_types_work_from_a_model_directory(
    tmp_path: Path, options: ModelOptions, mixed_texts: list[str]
) -> None:
    folder = tiny_models.mpnet_encoder(tmp_path / "all-mpnet-base-v2")
    expected = SentenceTransformer(str(folder), device="cpu").encode(mixed_texts[:14])
    engines: tuple[Backend, ...] = ("onnx", "torch")
    for engine in engines:
        backend = load_embedding_backend("all-mpnet-base-v2", replace(options, backend=engine, model_dir=tmp_path))
        assert backend.model.name == "sentence-transformers/all-mpnet-base-v2"
        assert (backend.model.dimension, backend.model.backend) == (768, engine)
        np.testing.assert_allclose(embed(backend, mixed_texts[:14]), expected, atol=1e-5)
    assert list(options.cache_dir.glob("*mpnet*-fp32-*")) == []  # nothing is exported of a model that is known


def exported(folder: Path, kind: ModelKind) -> OnnxModel:
    target = folder.parent / "exported"
    target.mkdir()
    export(kind, folder, target)
    return OnnxModel.read(target)


@pytest.mark.parametrize("prepare", [OnnxModel.build, exported])
def test_pooling_normalization_and_prompts_are_the_models_own(
    prepare: Callable[[Path, ModelKind], OnnxModel], tmp_path: Path, mixed_texts: list[str]
) -> None:
    folder = tiny_models.bert_encoder(tmp_path / "model")
    model = prepare(folder, ModelKind.ENCODER)
    backend = ModelBackend(OnnxRuntime(model, name="tiny", fingerprint="", threads=1))
    reference = SentenceTransformer(str(folder), device="cpu")
    texts = mixed_texts[:14]
    assert abs(np.linalg.norm(reference.encode(texts), axis=1) - 1).min() > 0.1
    for kind, encode in ((TextKind.QUERY, reference.encode_query), (TextKind.DOCUMENT, reference.encode_document)):
        np.testing.assert_allclose(embed(backend, texts, kind), encode(texts), atol=1e-4)
    assert not np.allclose(reference.encode_query(texts), reference.encode_document(texts), atol=1e-2)


def test_weights_of_half_precision_are_computed_in_fp32(tmp_path: Path, mixed_texts: list[str]) -> None:
    folder = tiny_models.mpnet_encoder(tmp_path / "model")
    tiny_models.store_as_bf16(folder)
    backend = ModelBackend(OnnxRuntime(OnnxModel.build(folder, ModelKind.ENCODER), name="", fingerprint="", threads=1))
    reference = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    np.testing.assert_allclose(embed(backend, mixed_texts[:9]), reference.encode(mixed_texts[:9]), atol=1e-5)


def test_a_model_of_another_architecture_is_exported_once(
    tmp_path: Path, options: ModelOptions, mixed_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_models.distilbert_encoder(tmp_path / "model")
    expected = SentenceTransformer(str(folder), device="cpu").encode(mixed_texts[:9])
    own_cache = replace(options, cache_dir=tmp_path / "cache")
    np.testing.assert_allclose(
        embed(load_embedding_backend(str(folder), own_cache), mixed_texts[:9]), expected, atol=1e-5
    )
    monkeypatch.setattr(artifacts, "find_spec", lambda _package: None)
    np.testing.assert_allclose(
        embed(load_embedding_backend(str(folder), own_cache), mixed_texts[:9]), expected, atol=1e-5
    )


def test_without_torch_a_model_of_another_architecture_names_the_extra_to_install(
    tmp_path: Path, options: ModelOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_models.distilbert_encoder(tmp_path / "model")
    monkeypatch.setattr(artifacts, "find_spec", lambda _package: None)
    with pytest.raises(
        StartupError, match="its model_type is distilbert, and torch and sentence_transformers"
    ) as caught:
        load_embedding_backend(str(folder), replace(options, cache_dir=tmp_path / "cache"))
    assert "Install the extra export" in caught.value.remedy


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_of_the_torch_backend_points_where_fp32_points(
    precision: Precision, vectors: np.ndarray, mixed_texts: list[str], options: ModelOptions
) -> None:
    half = load_embedding_backend(EMBEDDING_MODEL, replace(options, backend="torch", precision=precision))
    assert cosines(embed(half, mixed_texts[10:14]), vectors[10:14]).min() > 0.999
    assert half.model.precision == precision


def test_serving_imports_neither_torch_nor_transformers() -> None:
    program = f"""
import json, sys
from services.embedder.backends import TextKind, load_embedding_backend
from services.inference.models.artifacts import default_cache_dir
from services.inference.models.runtime import ModelOptions
backend = load_embedding_backend({EMBEDDING_MODEL!r}, ModelOptions(cache_dir=default_cache_dir()))
backend.embed(backend.tokenize(["a text"], TextKind.QUERY))
heavy = ("torch", "transformers", "sentence_transformers")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_said_at_start(options: ModelOptions) -> None:
    with pytest.raises(StartupError, match="torch sees no GPU"):
        load_embedding_backend(EMBEDDING_MODEL, replace(options, backend="auto", device="cuda"))
