from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from services.embedder.backends import EmbeddingBackend, TextKind, load_embedding_backend
from services.inference.models.runtime import ModelOptions

TEXTS = ["compare two files line by line", "compare files by line", "round a number to the nearest even digit", "", "…"]


def pseudo_backend(dimension: int = 384) -> EmbeddingBackend:
    return load_embedding_backend("", ModelOptions(cache_dir=Path("/nonexistent")), pseudo_dimension=dimension)


def embed(backend: EmbeddingBackend, texts: list[str]) -> np.ndarray:
    return backend.embed(backend.tokenize(texts, TextKind.DOCUMENT))


def test_without_a_model_the_vectors_are_pseudo_and_say_so() -> None:
    model = pseudo_backend().model
    assert model.pseudo
    assert (model.name, model.backend, model.dimension) == ("pseudo-384", "pseudo", 384)


@pytest.mark.parametrize("dimension", [8, 384, 768])
def test_pseudo_vectors_have_length_1_and_the_dimension_asked_for_even_without_words(dimension: int) -> None:
    vectors = embed(pseudo_backend(dimension), TEXTS)
    assert vectors.shape == (len(TEXTS), dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)


def test_texts_that_share_words_are_nearer_than_texts_that_do_not() -> None:
    files, fewer_words, rounding, *_ = embed(pseudo_backend(), TEXTS)
    assert files @ fewer_words > 0.8
    assert files @ rounding < 0.4


def test_a_pseudo_vector_does_not_depend_on_its_batch() -> None:
    backend = pseudo_backend()
    np.testing.assert_array_equal(embed(backend, TEXTS), np.concatenate([embed(backend, [text]) for text in TEXTS]))


def test_words_beyond_the_limit_are_cut_and_reported() -> None:
    backend = pseudo_backend()
    exact, longer = backend.tokenize(["word " * 512, "word " * 513], TextKind.QUERY)
    assert (exact.token_count, exact.truncated) == (512, False)
    assert (longer.token_count, longer.truncated) == (512, True)


def test_pseudo_vectors_are_the_same_in_every_process() -> None:
    program = (
        "import sys; from tests.unit.embedder.test_backends import *; "
        "sys.stdout.buffer.write(embed(pseudo_backend(), TEXTS).tobytes())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {embed(pseudo_backend(), TEXTS).tobytes()}
