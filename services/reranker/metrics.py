"""The reranker's series."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram

from services.chassis import tracing
from services.chassis.metrics import LATENCY_BUCKETS
from services.inference.models.info import ModelInfo

reranker_latency_seconds = Histogram(
    "reranker_latency_seconds", "Time from passages to scores, waiting included.", buckets=LATENCY_BUCKETS
)
reranker_score_distribution = Histogram(
    "reranker_score_distribution", "Scores (logits).", buckets=(-12, -10, -8, -6, -4, -2, 0, 2, 4, 6, 8, 10, 12)
)
reranker_score_spread = Histogram(
    "reranker_score_spread",
    "Highest less lowest score (logits) of a call with several passages; near 0 when the distribution has collapsed.",
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16),
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


def observe_reranking(scores: Sequence[float], seconds: float) -> None:
    """Counts one call."""
    reranker_latency_seconds.observe(seconds, tracing.exemplar())
    reranker_candidates_total.inc(len(scores))
    for score in scores:
        reranker_score_distribution.observe(score)
    if len(scores) > 1:
        reranker_score_spread.observe(max(scores) - min(scores))
