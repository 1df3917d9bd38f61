"""Settings of the reasoner."""

from __future__ import annotations

from pydantic import Field

from services.chassis.settings import StageSettings


class ReasonerSettings(StageSettings):
    """The language model behind it, and what a call of it may take."""

    grpc_port: int = Field(50058, ge=0, le=65535, description="Port of the gRPC server; 0 lets the system choose.")
