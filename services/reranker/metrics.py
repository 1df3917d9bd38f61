"""The reranker's series."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from services.chassis import tracing
from services.chassis.metrics import LATENCY_BUCKETS
from services.inference.metrics import ROWS_BUCKETS, describe, model_info
from services.inference.models.info import ModelInfo


class RerankerMetrics:
    """The reranker's series, apart from those of every model stage."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.latency = Histogram(
            "reranker_latency_seconds",
            "Time from passages to scores, waiting included.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.scores = Histogram(
            "reranker_score_distribution",
            "Scores (logits).",
            buckets=(-12, -10, -8, -6, -4, -2, 0, 2, 4, 6, 8, 10, 12),
            registry=registry,
        )
        self.spread = Histogram(
            "reranker_score_spread",
            "Highest less lowest score (logits) of a call with several passages; near 0 when the distribution has "
            "collapsed.",
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16),
            registry=registry,
        )
        self.candidates = Counter("reranker_candidates_total", "Passages scored.", registry=registry)
        self.batch_size = Histogram(
            "reranker_batch_size", "Pairs of one pass through the model.", buckets=ROWS_BUCKETS, registry=registry
        )
        self.model = model_info("reranker_model_info", registry)

    def describe(self, model: ModelInfo) -> None:
        """Show the model that serves."""
        describe(self.model, model)

    def observe(self, scores: Sequence[float], seconds: float) -> None:
        """Count one call."""
        self.latency.observe(seconds, tracing.exemplar())
        self.candidates.inc(len(scores))
        for score in scores:
            self.scores.observe(score)
        if len(scores) > 1:
            self.spread.observe(max(scores) - min(scores))


@cache
def process_metrics() -> RerankerMetrics:
    """The series of this process, in the default registry."""
    return RerankerMetrics()
