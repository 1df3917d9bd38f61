"""The reranker's series."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from services.common.metrics import LATENCY_BUCKETS
from services.common.models.info import ModelInfo

reranker_latency_seconds = Histogram(
    "reranker_latency_seconds", "Time from passages to scores, waiting included.", buckets=LATENCY_BUCKETS
)
reranker_score_distribution = Histogram(
    "reranker_score_distribution", "Scores (logits).", buckets=(-12, -10, -8, -6, -4, -2, 0, 2, 4, 6, 8, 10, 12)
)
reranker_candidates_total = Counter("reranker_candidates_total", "Passages scored.")
reranker_batch_size = Histogram(
    "reranker_batch_size", "Pairs of one pass through the model.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
reranker_model_info = Gauge(
    "reranker_model_info", "The model that serves; always 1.", ["name", "fingerprint", "backend", "precision", "device"]
)


def describe(model: ModelInfo) -> None:
    """Shows which model serves."""
    reranker_model_info.labels(model.name, model.fingerprint, model.backend, model.precision, model.device).set(1)
