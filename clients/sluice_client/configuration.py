"""What is in effect behind a gateway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sluice_client.answers import Features, Stage


@dataclass(frozen=True, slots=True)
class StageConfig:
    """One stage as it is now."""

    stage: Stage
    address: str
    """The address that the gateway calls."""
    serving: bool
    problem: str
    """Why it is not serving; empty when it is."""
    model: str
    model_fingerprint: str
    runtime: str
    """How it computes, as in "onnx fp32 on cpu"."""
    pseudo: bool
    """Whether pseudo-embeddings serve, which carry no meaning."""


@dataclass(frozen=True, slots=True)
class CollectionConfig:
    """A collection as it is now."""

    name: str
    exists: bool
    index_version: str
    model: str
    """The model whose vectors it holds."""
    model_fingerprint: str
    dimension: int
    document_count: int
    """Passages: documents, and chunks of documents."""
    fields: Mapping[str, str]
    """Metadata fields that can be filtered on, with their types in words."""
    created: datetime | None = None
    """When the index version was made; None where there is none."""


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration in effect."""

    default_features: Features
    """What is on for a request that says nothing."""
    stages: Sequence[StageConfig]
    collection: CollectionConfig
    release: str
    """Release of the gateway."""
