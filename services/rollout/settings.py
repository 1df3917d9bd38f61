"""Settings of the rollout service."""

from __future__ import annotations

from typing import Self

from pydantic import Field, SecretStr, model_validator

from services.chassis.settings import OptionalFile, StageSettings


class RolloutSettings(StageSettings):
    """Database, lease and patience of the control plane."""

    grpc_port: int = Field(50057, ge=0, le=65535, description="Port of the gRPC server; 0 lets the system choose.")
    rollout_database_url: SecretStr = Field(
        SecretStr("sqlite:///data/rollout.db"),
        description="Where features, ramps and their history are kept: `sqlite:///FILE`, or "
        "`postgresql://USER:PASSWORD@HOST/DATABASE` where several replicas run.",
    )
    rollout_database_ca_file: OptionalFile = Field(
        None,
        description="Certificates (PEM) of those who sign PostgreSQL's: with it the connection is TLS, and the server "
        "has to show a certificate for its host name. Without it the URL's `sslmode` counts.",
    )
    rollout_decision_seconds: float = Field(0.5, gt=0, le=60, description="How often ramps are decided upon. Seconds.")
    rollout_lease_seconds: float = Field(
        1.5,
        ge=0.2,
        le=3600,
        description="Without a word from this service, gateways fall back to standard after so long. Seconds.",
    )
    rollout_gateway_live_seconds: float = Field(
        5.0,
        gt=0,
        le=3600,
        description="After this long a silent gateway no longer counts as live; at least twice "
        "ROLLOUT_LEASE_SECONDS, so that it exposes nobody by then. Seconds.",
    )
    rollout_latency_window_seconds: float = Field(
        60.0,
        gt=0,
        le=86_400,
        description="How often control's P95 becomes the threshold of slow requests. Seconds.",
    )
    rollout_no_data_seconds: float = Field(
        30.0, gt=0, le=86_400, description="A ramp holds when an arm has had no request for so long. Seconds."
    )
    rollout_stale_seconds: float = Field(
        15.0, gt=0, le=86_400, description="Ramps hold when no gateway has reported for so long. Seconds."
    )
    rollout_feedback_days: int = Field(
        90,
        ge=1,
        le=3650,
        description="How long answers and events are kept: as many days (UTC), with the present one. Older ones are "
        "deleted, and refused. Days.",
    )

    rollout_experiment_seconds: float = Field(
        5.0,
        gt=0,
        le=3600,
        description="How often running experiments are analysed, at most: analyses take no more than a tenth of the "
        "time. Seconds.",
    )

    @model_validator(mode="after")
    def _live_outlasts_the_lease(self) -> Self:
        if self.rollout_gateway_live_seconds < 2 * self.rollout_lease_seconds:
            raise ValueError("ROLLOUT_GATEWAY_LIVE_SECONDS must be at least twice ROLLOUT_LEASE_SECONDS")
        return self
