"""The embedder's series."""

from __future__ import annotations

from functools import cache

from prometheus_client import REGISTRY, CollectorRegistry, Gauge, Histogram

from services.chassis import tracing
from services.chassis.metrics import LATENCY_BUCKETS
from services.inference.metrics import ROWS_BUCKETS, describe, model_info
from services.inference.models.info import ModelInfo
from services.inference.scheduling import Lane


class EmbedderMetrics:
    """The embedder's series, apart from those of every model stage."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.latency = Histogram(
            "embedding_latency_seconds",
            "Time from texts to vectors, waiting included.",
            ["lane"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "embedding_batch_size", "Rows of one pass through the model.", buckets=ROWS_BUCKETS, registry=registry
        )
        self.token_latency = Histogram(
            "token_embedding_latency_seconds",
            "Time from texts to vectors of their tokens, waiting included.",
            ["lane"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.token_batch_size = Histogram(
            "token_embedding_batch_size",
            "Rows of one pass through the token model.",
            buckets=ROWS_BUCKETS,
            registry=registry,
        )
        self.model = model_info("embedding_model_info", registry)
        self.token_model = model_info("token_model_info", registry)
        self.pseudo = Gauge(
            "embedding_pseudo",
            "1 where pseudo-embeddings serve, which carry no meaning; else 0.",
            registry=registry,
        )
        self._latency_of = {lane: self.latency.labels(lane.value) for lane in Lane}
        self._token_latency_of = {lane: self.token_latency.labels(lane.value) for lane in Lane}

    def describe(self, model: ModelInfo, token_model: ModelInfo | None) -> None:
        """Show the models that serve."""
        describe(self.model, model)
        if token_model is not None:
            describe(self.token_model, token_model)
        self.pseudo.set(model.pseudo)

    def observe(self, lane: Lane, seconds: float) -> None:
        """Count one call for vectors of texts."""
        self._latency_of[lane].observe(seconds, tracing.exemplar())

    def observe_tokens(self, lane: Lane, seconds: float) -> None:
        """Count one call for vectors of tokens."""
        self._token_latency_of[lane].observe(seconds, tracing.exemplar())


@cache
def process_metrics() -> EmbedderMetrics:
    """The series of this process, in the default registry."""
    return EmbedderMetrics()
