"""The configuration in effect behind a gateway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sluice.gateway.v1 import status_pb2 as pb
from sluice.type.v1.features_pb2 import Features
from sluice_client.answers import Stage
from sluice_client.messages import Received
from sluice_client.versions import CollectionVersion, ModelInfo


@dataclass(frozen=True, slots=True)
class StageConfig(Received, proto=pb.StageConfig):
    """One stage as it is now."""

    stage: Stage
    address: str
    """The address that the gateway calls."""
    serving: bool
    problem: str
    """Reason for not serving; empty when it serves."""
    model: ModelInfo | None
    """The model that serves; None where the stage has none, or did not tell."""
    token_model: ModelInfo | None = None
    """The model of token vectors; None where the stage has none."""


@dataclass(frozen=True, slots=True)
class Config(Received, proto=pb.GetConfigResponse):
    """The configuration in effect."""

    default_features: Features
    """The flags of a request that sets none, all of them set."""
    stages: Sequence[StageConfig]
    collection: CollectionVersion | None
    """The live version of the collection that was asked for; None where there is none yet."""
    release: str
    """Release of the gateway."""
