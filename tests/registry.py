"""The stages as tests start them; what is common to all of them is tested for each."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from deploy import stages
from deploy.stages import StageSpec
from services.chassis.server import Stage
from services.chassis.settings import StageSettings

# The settings with which a stage starts fastest, where these are not its defaults.
_FASTEST = {"embedder": {"EMBEDDING_MODEL": ""}, "expander": {"EXPANSION_STRATEGY": "multi_query"}}
# Series that operators know by name.
_KNOWN_SERIES = {
    "embedder": ("embedding_latency_seconds", "embedding_batch_size", "embedding_model_info"),
    "reranker": ("reranker_latency_seconds", "reranker_score_distribution", "reranker_candidates_total"),
    "expander": ("query_expansion_variants_total", "query_expansion_latency_seconds"),
    "retriever": (
        "qdrant_pool_size",
        "qdrant_pool_waiting",
        "qdrant_circuit_breaker_open",
        "qdrant_retry_attempts_total",
    ),
    "reasoner": ("reasoner_latency_seconds", "reasoner_tokens_total", "reasoner_fallbacks_total"),
    "rollout": ("sluice_rollout_decisions_total", "sluice_rollout_log_evidence", "sluice_rollout_active"),
    "gateway": ("sluice_search_latency_seconds", "sluice_searches_total", "sluice_stage_latency_seconds"),
}


@dataclass(frozen=True)
class Registered:
    """One stage of `deploy.stages`, for tests."""

    spec: StageSpec
    environment: Mapping[str, str] = field(default_factory=dict)
    """Settings with which it starts fastest."""
    metrics: tuple[str, ...] = ()
    """Series that operators know by name."""

    @property
    def name(self) -> str:
        """Name of the stage."""
        return self.spec.name

    @property
    def light(self) -> bool:
        """True if it runs without an inference runtime."""
        return not self.spec.model

    def load_settings(self, **overrides: Any) -> StageSettings:
        """Return settings as from the environment, with overrides."""
        given = {name.lower(): value for name, value in self.environment.items()}
        return self.spec.settings()(**{"grpc_port": 0, "metrics_port": 0, "drain_seconds": 0, **given, **overrides})

    def compose(self, settings: StageSettings) -> AbstractAsyncContextManager[Stage]:
        """Compose the stage as its process does."""
        composed: AbstractAsyncContextManager[Stage] = import_module(f"services.{self.name}.__main__").compose(settings)
        return composed


# The gateway last: it calls the others.
STAGES = tuple(
    Registered(spec, _FASTEST.get(spec.name, {}), _KNOWN_SERIES.get(spec.name, ()))
    for spec in sorted(stages.STAGES, key=lambda spec: spec.name == "gateway")
)
