"""Settings of the speller."""

from __future__ import annotations

from pydantic import Field

from services.chassis.settings import StageSettings


class SpellerSettings(StageSettings):
    """Port of the speller."""

    grpc_port: int = Field(50059, ge=0, le=65535, description="Port of the gRPC server; 0 lets the system choose.")
