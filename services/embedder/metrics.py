"""The embedder's series."""

from __future__ import annotations

from prometheus_client import Gauge, Histogram

from services.chassis import tracing
from services.chassis.metrics import LATENCY_BUCKETS
from services.inference.models.info import ModelInfo
from services.inference.scheduling import Lane

embedding_latency_seconds = Histogram(
    "embedding_latency_seconds", "Time from texts to vectors, waiting included.", ["lane"], buckets=LATENCY_BUCKETS
)
embedding_batch_size = Histogram(
    "embedding_batch_size", "Rows of one pass through the model.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
embedding_model_info = Gauge(
    "embedding_model_info",
    "The model that serves; always 1.",
    ["name", "fingerprint", "backend", "precision", "device"],
)
embedding_pseudo = Gauge("embedding_pseudo", "1 where pseudo-embeddings serve, which carry no meaning; else 0.")
_latency_of = {lane: embedding_latency_seconds.labels(lane.value) for lane in Lane}


def describe(model: ModelInfo) -> None:
    """Shows which model serves."""
    embedding_model_info.labels(model.name, model.fingerprint, model.backend, model.precision, model.device).set(1)
    embedding_pseudo.set(model.pseudo)


def observe_embedding(lane: Lane, seconds: float) -> None:
    """Counts one call."""
    _latency_of[lane].observe(seconds, tracing.exemplar())
