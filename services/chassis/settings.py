"""Typed settings, read once from the environment at start.

The field `rerank_top_k` is the variable `RERANK_TOP_K`. Every field has a description, from which `make docs` makes
the table of all variables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.chassis.admission.concurrency import LimitBounds
from services.chassis.errors import StartupError

OptionalFolder = Annotated[Path | None, BeforeValidator(lambda value: value or None)]
"""A folder, or None; an empty variable counts as unset."""
File = Annotated[Path, "file"]
"""A file."""
OptionalFile = Annotated[Path | None, BeforeValidator(lambda value: value or None), "file"]
"""A file, or None; an empty variable counts as unset."""


class StageSettings(BaseSettings):
    """Settings of every stage."""

    model_config = SettingsConfigDict(frozen=True, case_sensitive=False, extra="ignore")

    grpc_host: str = Field("127.0.0.1", description="Address that the gRPC server binds; `[::]` in a container.")
    grpc_port: int = Field(0, ge=0, le=65535, description="Port of the gRPC server; 0 lets the system choose.")
    metrics_port: int = Field(
        9103, ge=0, le=65535, description="Port of the Prometheus endpoint (`/metrics`); 0 turns it off."
    )
    metrics_tls: bool = Field(
        False,
        description="Serve metrics by TLS alone, with `GRPC_TLS_CERTIFICATE`, to those who show a certificate of "
        "`GRPC_TLS_AUTHORITY`.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severe level logged.")
    log_format: Literal["json", "console"] = Field(
        "json", description="`json`, one object a line, or `console`, to be read on a terminal."
    )
    drain_seconds: float = Field(
        0.5,
        ge=0,
        le=60,
        description="Time after SIGTERM in which the stage accepts calls while health says NOT_SERVING, so that load "
        "balancers notice. Seconds.",
    )
    shutdown_grace_seconds: float = Field(
        10, ge=0, le=300, description="Time after draining that calls in flight have to end. Seconds."
    )
    max_connection_age_seconds: float = Field(
        120,
        gt=0,
        le=86_400,
        description="Age at which a connection is closed, so that its client looks for new replicas. Seconds.",
    )
    max_connection_calls: int = Field(
        1000, ge=1, le=100_000, description="Most calls under way on one connection; a client holds back the others."
    )
    max_connection_idle_seconds: float = Field(
        300,
        gt=0,
        le=86_400,
        description="Time without a call after which a connection is closed, if its age has not closed it. Seconds.",
    )
    max_connections: int = Field(
        4096, ge=1, le=1_000_000, description="Most connections at once; further ones are closed at once."
    )
    max_metadata_kib: int = Field(
        16,
        ge=4,
        le=1024,
        description="Largest headers of a call, with its token; a call with larger ones is refused. KiB.",
    )
    max_message_mib: int = Field(16, ge=1, le=256, description="Largest message received or sent. MiB.")
    memory_mib: int = Field(
        0,
        ge=0,
        description="Memory that the process may use, from which the budget for messages is made; 0 means the limit "
        "of the container, or all of the machine's. MiB.",
    )
    grpc_tls_certificate: OptionalFile = Field(
        None, description="PEM file with the certificate of this stage; without it and the two below there is no TLS."
    )
    grpc_tls_key: OptionalFile = Field(None, description="PEM file with the certificate's private key.")
    grpc_tls_authority: OptionalFile = Field(
        None, description="PEM file with the authority of the certificates of callers and of called stages."
    )
    audit_dir: OptionalFolder = Field(
        None,
        description="Folder for the audit log, `STAGE.jsonl`: calls that change something, and refusals "
        "(docs/limits.md); empty writes none.",
    )
    audit_required: bool = Field(
        False,
        description="True if nothing may be changed while the audit log cannot be written, and no change is answered "
        "before its line is; else lines that find no room in its queue are lost, and counted.",
    )
    audit_searches: bool = Field(
        False, description="True if searches get a line, with a hash of the query and the ids that were returned."
    )
    audit_chain: bool = Field(
        False, description="True if each line carries a digest of those before, for `sluice audit verify`."
    )
    audit_key: SecretStr = Field(
        SecretStr(""),
        max_length=64,
        description="Key of these digests and hashes. Without one, whoever can write the log can make others, and a "
        "guessed query can be tested against its hash.",
    )
    grpc_token_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port of the same gRPC server for callers who show a token and no certificate, by TLS; 0 opens "
        "none. Without TLS they use `GRPC_PORT`.",
    )
    auth: Literal["auto", "on", "off"] = Field(
        "auto",
        description="`on`: callers show who they are, and policies say what they may; `off`: whoever reaches the stage "
        "may do everything; `auto`: `on` with `AUTH_CALLERS` or `AUTH_JWKS`, else `off` on this machine's own address "
        "alone, and no start elsewhere.",
    )
    auth_callers: OptionalFile = Field(
        None, description="TOML file of keys, certificates, tenants and tags (docs/access.md); read again on a change."
    )
    auth_policy: OptionalFile = Field(
        None, description="File of Cedar policies; unset means the default policies. Read again on a change."
    )
    auth_jwks: str = Field(
        "",
        description="JSON Web Key Set by which bearer tokens are checked: a file, read again on a change, or an "
        "`https://` address, fetched once a minute.",
    )
    auth_issuer: str = Field("", description="`iss` of the tokens that are taken.")
    auth_audience: str = Field("", description="`aud` that tokens must have.")
    health_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port of a second server that answers health alone, without TLS, for probes that have no "
        "certificate; 0 starts none.",
    )
    otel_exporter_otlp_endpoint: str = Field(
        "",
        description="OTLP/gRPC endpoint for traces, as `http://jaeger:4317`, or by TLS `https://jaeger:4317`; empty "
        "turns tracing off.",
    )
    otel_exporter_otlp_certificate: OptionalFile = Field(
        None, description="PEM file with the authority of that endpoint; by default those that gRPC brings along."
    )
    otel_exporter_otlp_client_certificate: OptionalFile = Field(
        None, description="PEM file with the certificate that is shown to that endpoint."
    )
    otel_exporter_otlp_client_key: OptionalFile = Field(None, description="PEM file with that certificate's key.")
    otel_traces_sampler: Literal[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ] = Field(
        "parentbased_traceidratio",
        description="OpenTelemetry's name of the trace sampler; those with `parentbased_` follow the caller's choice.",
    )
    otel_traces_sampler_arg: float = Field(
        1.0, ge=0, le=1, description="Share of the traces that the `traceidratio` samplers record."
    )

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        parts = ("grpc_tls_certificate", "grpc_tls_key", "grpc_tls_authority")
        missing = [name.upper() for name in parts if getattr(self, name) is None]
        if 0 < len(missing) < len(parts):
            raise ValueError(f"{' and '.join(missing)} missing: TLS needs all three, or none of them")
        if self.metrics_tls and missing:
            raise ValueError("METRICS_TLS needs GRPC_TLS_CERTIFICATE, GRPC_TLS_KEY and GRPC_TLS_AUTHORITY")
        if (self.otel_exporter_otlp_client_key is None) != (self.otel_exporter_otlp_client_certificate is None):
            raise ValueError("OTEL_EXPORTER_OTLP_CLIENT_KEY and OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE go together")
        if self.grpc_token_port and self.grpc_tls_certificate is None:
            raise ValueError("GRPC_TOKEN_PORT needs GRPC_TLS_CERTIFICATE; without TLS, tokens are taken on GRPC_PORT")
        return self

    @model_validator(mode="after")
    def _tokens_are_whole(self) -> Self:
        if self.auth_jwks and not (self.auth_issuer and self.auth_audience):
            raise ValueError("AUTH_JWKS needs AUTH_ISSUER and AUTH_AUDIENCE")
        return self


class SheddingSettings(StageSettings):
    """Settings of a stage that limits the calls under way."""

    concurrency_initial: int = Field(32, ge=1, le=100_000, description="Start value of the limit on calls under way.")
    concurrency_lowest: int = Field(8, ge=1, le=100_000, description="Lowest value of the limit.")
    concurrency_highest: int = Field(512, ge=1, le=100_000, description="Highest value of the limit.")
    concurrency_bulk_share: float = Field(
        0.5, gt=0, le=1, description="Share of the limit that bulk calls, as indexing, may use."
    )
    concurrency_queue: int = Field(
        1000,
        ge=0,
        le=100_000,
        description="Interactive calls, and as many bulk calls, that may wait for a place under the limit; 0 refuses "
        "at once.",
    )

    def limit_bounds(self) -> LimitBounds:
        """Start value and bounds of the limit, and the length of its queue."""
        return LimitBounds(
            self.concurrency_initial,
            self.concurrency_lowest,
            self.concurrency_highest,
            self.concurrency_bulk_share,
            self.concurrency_queue,
        )


SettingsT = TypeVar("SettingsT", bound=StageSettings)


def load_settings(settings_type: type[SettingsT]) -> SettingsT:
    """Read the environment. Raise StartupError with every variable that is wrong, and its problem."""
    try:
        return settings_type()
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in detail['loc']).upper() or 'settings'}: {_problem(detail)}"
            for detail in error.errors()
        )
        raise StartupError(
            f"wrong settings: {problems}",
            remedy="Correct the named variables; docs/configuration.md lists every variable with its values.",
        ) from None


def _problem(detail: ErrorDetails) -> str:
    secret = any("key" in str(part) for part in detail["loc"])
    shown = f" (got {detail['input']!r})" if isinstance(detail["input"], str) and not secret else ""
    return f"{detail['msg']}{shown}"
