from __future__ import annotations

from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry

from services.embedder.backends import TextKind, load_embedding_backend
from services.embedder.encoder import Encoder, TitledText
from services.embedder.metrics import EmbedderMetrics
from services.inference.models.runtime import ModelOptions
from services.inference.scheduling import Lane, SchedulerLimits, SchedulerObserver


def encoder() -> Encoder:
    backend = load_embedding_backend("", ModelOptions(cache_dir=Path("/nonexistent")), pseudo_dimension=16)
    return Encoder(backend, SchedulerLimits(), SchedulerObserver())


async def test_vectors_are_little_endian_float32_in_the_order_of_the_texts() -> None:
    texts = ["a ship", "the sea", "a ship"]
    async with encoder() as embedding:
        encoded = await embedding.encode(texts, TextKind.QUERY, lane=Lane.INTERACTIVE, caller="me", deadline=None)
    vectors = np.frombuffer(b"".join(encoded.results), dtype="<f4").reshape(3, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert not np.allclose(vectors[0], vectors[1])


async def test_a_text_that_fits_is_one_chunk_with_its_title_counted() -> None:
    ((chunk,),) = await encoder().split([TitledText("Two words", "and three more")], chunk_tokens=32, overlap_tokens=4)
    assert (chunk.start, chunk.end, chunk.token_count) == (0, len("and three more"), 5)


async def test_a_title_longer_than_half_a_chunk_still_leaves_the_text_half_of_it() -> None:
    text = TitledText("word " * 100, "word " * 64)
    (chunks,) = await encoder().split([text], chunk_tokens=32, overlap_tokens=0)
    assert {chunk.token_count - 100 for chunk in chunks[:-1]} == {15}


def test_the_model_that_serves_is_shown() -> None:
    registry = CollectorRegistry()
    EmbedderMetrics(registry).describe(encoder().model, None)
    assert registry.get_sample_value("embedding_pseudo") == 1
    labels = {"fingerprint": encoder().model.fingerprint, "precision": "fp32", "device": "cpu"}
    assert registry.get_sample_value("embedding_model_info", {"name": "pseudo-16", "backend": "pseudo", **labels}) == 1


def test_latencies_are_observed_by_lane() -> None:
    registry = CollectorRegistry()
    EmbedderMetrics(registry).observe(Lane.BULK, 0.25)
    assert registry.get_sample_value("embedding_latency_seconds_sum", {"lane": "bulk"}) == 0.25
    assert registry.get_sample_value("embedding_latency_seconds_count", {"lane": "interactive"}) == 0
