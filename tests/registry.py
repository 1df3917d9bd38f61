"""The stages, listed once; what is common to all of them is tested for each."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from services.chassis.server import Stage
from services.chassis.settings import StageSettings


@dataclass(frozen=True)
class Registered:
    """One stage, and the settings with which it starts fastest."""

    name: str
    settings: str
    environment: Mapping[str, str]
    metrics: tuple[str, ...]
    """Series that operators know by name."""
    light: bool
    """Whether it runs without an inference runtime."""

    def load_settings(self, **overrides: Any) -> StageSettings:
        """Settings as from the environment, with overrides."""
        kind: type[StageSettings] = getattr(import_module(f"services.{self.name}.settings"), self.settings)
        given = {name.lower(): value for name, value in self.environment.items()}
        return kind(**{"grpc_port": 0, "metrics_port": 0, "drain_seconds": 0, **given, **overrides})

    def compose(self, settings: StageSettings) -> AbstractAsyncContextManager[Stage]:
        """The stage, as its process composes it."""
        composed: AbstractAsyncContextManager[Stage] = import_module(f"services.{self.name}.__main__").compose(settings)
        return composed


STAGES = (
    Registered(
        name="embedder",
        settings="EmbedderSettings",
        environment={"EMBEDDING_MODEL": ""},
        metrics=("embedding_latency_seconds", "embedding_batch_size", "embedding_model_info"),
        light=False,
    ),
    Registered(
        name="reranker",
        settings="RerankerSettings",
        environment={},
        metrics=("reranker_latency_seconds", "reranker_score_distribution", "reranker_candidates_total"),
        light=False,
    ),
    Registered(
        name="expander",
        settings="ExpanderSettings",
        environment={"EXPANSION_STRATEGY": "multi_query"},
        metrics=("query_expansion_variants_total", "query_expansion_latency_seconds"),
        light=True,
    ),
    Registered(
        name="retriever",
        settings="RetrieverSettings",
        environment={},
        metrics=(
            "qdrant_pool_size",
            "qdrant_pool_waiting",
            "qdrant_circuit_breaker_open",
            "qdrant_retry_attempts_total",
        ),
        light=True,
    ),
    Registered(
        name="rollout",
        settings="RolloutSettings",
        environment={},
        metrics=("sluice_rollout_decisions_total", "sluice_rollout_log_evidence", "sluice_rollout_active"),
        light=True,
    ),
    Registered(
        name="gateway",
        settings="GatewaySettings",
        environment={},
        metrics=("sluice_search_latency_seconds", "sluice_searches_total", "sluice_stage_latency_seconds"),
        light=True,
    ),
)
