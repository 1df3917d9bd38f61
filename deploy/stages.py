"""Stages of Sluice: one StageSpec each, from which all that lists stages is derived.

The local stack, images, the compose stack with its Prometheus, tests and generated documents read `STAGES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from services.chassis.settings import StageSettings

_FIRST_GRPC_PORT = 50051
_FIRST_METRICS_PORT = 9103


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One stage. Its name is also its proto package, folder, extra, image and Kubernetes name."""

    name: str
    place: int
    """Offset of its ports from 50051 (gRPC) and, on one machine, from 9103 (metrics)."""
    service: str
    """gRPC service, without its package."""
    model: str = ""
    """Model that its image holds; empty for a stage without a model."""
    model_setting: str = ""
    """Variable that names its model."""
    token_model: str = ""
    """Model of token vectors that its image holds as well."""
    set_up: str = ""
    """Program of tools/ that fetches the data of its image."""
    searched: bool = True
    """True if a search goes through it."""

    @property
    def grpc_port(self) -> int:
        """Well-known port of its gRPC server."""
        return _FIRST_GRPC_PORT + self.place

    @property
    def metrics_port(self) -> int:
        """Well-known port of its metrics if all stages run on one machine."""
        return _FIRST_METRICS_PORT + self.place

    @property
    def full_service(self) -> str:
        """gRPC service with its package."""
        return f"sluice.{self.name}.v1.{self.service}"

    @property
    def address_variable(self) -> str:
        """Variable by which the gateway finds it."""
        return f"{self.name.upper()}_ADDRESS"

    def settings(self) -> type[StageSettings]:
        """Import and return the class of its settings."""
        kind: type[StageSettings] = getattr(
            import_module(f"services.{self.name}.settings"), f"{self.name.capitalize()}Settings"
        )
        return kind


# Place 5 is left for a second embedder, with which an index is rebuilt.
STAGES = (
    StageSpec("gateway", 0, "SearchService"),
    StageSpec(
        "embedder",
        1,
        "EmbedderService",
        model="all-MiniLM-L6-v2",
        model_setting="EMBEDDING_MODEL",
        token_model="answerai-colbert-small-v1",  # noqa: S106  no secret
    ),
    StageSpec("reranker", 2, "RerankerService", model="ms-marco-MiniLM-L-12-v2", model_setting="RERANK_MODEL"),
    StageSpec("expander", 3, "ExpanderService", set_up="tools/fetch_wordnet.py"),
    StageSpec("retriever", 4, "RetrieverService"),
    StageSpec("rollout", 6, "RolloutService", searched=False),
    StageSpec("reasoner", 7, "ReasonerService", searched=False),
)
