"""Real models for the tests of this folder, each loaded once."""

from __future__ import annotations

import random
from pydoc_data.topics import topics
from typing import Any

import pytest

from services.embedder.backends import EmbeddingBackend, load_embedding_backend
from services.reranker.backends import CrossEncoderBackend, load_cross_encoder_backend

EMBEDDING_MODEL = "all-MiniLM-L6-v2"
RERANK_MODEL = "ms-marco-MiniLM-L-12-v2"
ODD_TEXTS = [
    "",
    " ",
    "a",
    "naïve café",
    "東京タワーの高さ",
    "😀😀😀",
    "\t\n",
    "İstanbul ﬁnd ½ €",
    "x" * 3000,
    "0 " * 900,
]


@pytest.fixture(scope="session")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """How tests load models: on cpu, with a cache of their own, so that what they test is made by this code."""
    return {
        "device": "cpu",
        "precision": "fp32",
        "model_dir": None,
        "cache_dir": tmp_path_factory.mktemp("models"),
        "threads": 0,
    }


@pytest.fixture(scope="session")
def embedder(options: dict[str, Any]) -> EmbeddingBackend:
    """The fast backend with the real all-MiniLM-L6-v2."""
    return load_embedding_backend(EMBEDDING_MODEL, backend="onnx", pseudo_dimension=0, **options)


@pytest.fixture(scope="session")
def cross_encoder(options: dict[str, Any]) -> CrossEncoderBackend:
    """The fast backend with the real ms-marco-MiniLM-L-12-v2."""
    return load_cross_encoder_backend(RERANK_MODEL, backend="onnx", **options)


@pytest.fixture(scope="session")
def mixed_texts() -> list[str]:
    """200 texts from 4 to 400 words and odd ones: the documentation of Python, cut by chance but always the same."""
    chance = random.Random(7)
    words = " ".join(topics.values()).split()
    lengths = [int(4 * 100 ** chance.random()) for _ in range(200 - len(ODD_TEXTS))]
    starts = [chance.randrange(len(words) - 400) for _ in lengths]
    return [
        *ODD_TEXTS,
        *(" ".join(words[start : start + length]) for start, length in zip(starts, lengths, strict=True)),
    ]
