"""What the gateway can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator

from services.chassis.settings import OptionalFolder, SheddingSettings
from services.gateway.rollout.local_overrides import PERCENTAGES, LocalOverrides, killed_names, problems_of
from services.gateway.rollout.table import MAX_RERANK_CANDIDATES, MAX_VARIANTS, ExpansionStrategy, Features
from services.gateway.search.pipeline import Weights
from services.gateway.search.query_log import LoggedQueries


class GatewaySettings(SheddingSettings):
    """Where the stages are, what is on by default, and how evidence is weighed."""

    grpc_port: int = Field(50051, ge=0, le=65535, description="Port of the gRPC server; 0 lets the system choose.")
    embedder_address: str = Field("127.0.0.1:50052", description="Address of the embedder, as `host:port`.")
    embedder_additional_addresses: str = Field(
        "",
        pattern=r"^([^\s,]+(,[^\s,]+)*)?$",
        description="Addresses of further embedders, each with another model, separated by commas: for collections "
        "by these models, and for reindexing to them.",
    )
    reranker_address: str = Field("127.0.0.1:50053", description="Address of the reranker, as `host:port`.")
    expander_address: str = Field("127.0.0.1:50054", description="Address of the expander, as `host:port`.")
    retriever_address: str = Field("127.0.0.1:50055", description="Address of the retriever, as `host:port`.")
    default_deadline_seconds: float = Field(
        10.0, gt=0, le=300, description="Deadline of a search whose caller sets none. Seconds."
    )
    index_deadline_seconds: float = Field(
        120.0, gt=0, le=3600, description="Deadline of an indexing call whose caller sets none. Seconds."
    )
    breaker_failures: int = Field(
        5, ge=1, le=1000, description="Failures of a stage in a row after which it is left alone for a while."
    )
    breaker_reset_seconds: float = Field(
        60, gt=0, le=3600, description="How long a stage is left alone, until one call probes it. Seconds."
    )
    log_queries: LoggedQueries = Field(
        "off",
        description="What the log line and the span of a search show of its query: nothing (`off`), or a `hash` of it "
        "(BLAKE2b). Never its text.",
    )
    log_query_key: SecretStr = Field(
        SecretStr(""),
        max_length=64,
        description="Key of that hash, 64 characters at most. Without one, whoever guesses a query can tell its hash.",
    )
    qdrant_collection: str = Field(
        "documents",
        pattern=r"^[A-Za-z0-9_-]{1,128}$",
        description="Collection (or alias) of requests that name none.",
    )
    dense_enabled: bool = Field(True, description="Search by dense vectors by default.")
    lexical_enabled: bool = Field(True, description="Search by words (BM25) by default.")
    query_expansion_enabled: bool = Field(False, description="Expand queries by default.")
    expansion_strategy: ExpansionStrategy = Field(
        ExpansionStrategy.SYNONYMS,
        description="How variants are made: `synonyms` (WordNet) or `multi_query` (templates).",
    )
    expansion_max_variants: int = Field(
        5, ge=1, le=MAX_VARIANTS, description="Most variants of a query, the query itself included."
    )
    rerank_enabled: bool = Field(False, description="Rerank by default.")
    rerank_top_k: int = Field(
        20, ge=1, le=MAX_RERANK_CANDIDATES, description="How many of the best candidates the cross-encoder reads."
    )
    dense_weight: float = Field(1.0, gt=0, le=100, description="Weight of dense searches in the fusion.")
    lexical_weight: float = Field(0.67, gt=0, le=100, description="Weight of lexical searches in the fusion.")
    rerank_weight: float = Field(
        0.5, ge=0, le=1, description="Share of the cross-encoder in the final score; the rest is the first stage's."
    )
    enable_multi_hop: bool = Field(
        False, description="Reserved for enrichment; anything but 0 is refused until it exists."
    )
    enable_reasoning: bool = Field(
        False, description="Reserved for enrichment; anything but 0 is refused until it exists."
    )
    max_hops: int = Field(2, ge=1, le=5, description="Reserved for enrichment; has no effect yet.")
    rollout_address: str = Field(
        "",
        pattern=r"^\S*$",
        description="Address of the rollout service, as `host:port`; empty does without: nothing ramps but by the "
        "percentages below.",
    )
    rollout_gateway_name: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._:-]{0,128}$",
        description="Name of this gateway for the rollout service, unique among replicas; empty means host name and "
        "process number.",
    )
    rollout_snapshot_path: Path = Field(
        Path("data/rollout/snapshot.json"),
        description="File for the last good snapshot of the rollout service, for a start while the service is away.",
    )
    rollout_overrides_path: OptionalFolder = Field(
        None,
        description="File of `NAME=VALUE` lines that is looked at four times a second: `ROLLOUT_KILL` and the "
        "percentages below, which it overrides while the gateway runs.",
    )
    rollout_report_seconds: float = Field(
        1.0, ge=0.05, le=60, description="How often evidence is reported to the rollout service. Seconds."
    )
    rollout_kill: str = Field(
        "",
        description="Names of features that are off on this gateway for everybody, separated by commas, whatever the "
        "rollout service says.",
    )
    rerank_rollout_percentage: int = Field(
        0,
        ge=0,
        le=100,
        description="Share of users that get reranking where `RERANK_ENABLED` is 0, for a machine without the rollout "
        "service.",
    )
    expansion_rollout_percentage: int = Field(
        0,
        ge=0,
        le=100,
        description="Share of users that get expansion where `QUERY_EXPANSION_ENABLED` is 0, for a machine without the "
        "rollout service.",
    )
    enrichment_rollout_percentage: int = Field(
        0,
        ge=0,
        le=100,
        description="Reserved for enrichment: taken, and reported in the log as without effect as long as enrichment "
        "is not built.",
    )

    @model_validator(mode="after")
    def _refuse_what_is_not_built(self) -> Self:
        for name in ("enable_multi_hop", "enable_reasoning"):
            if getattr(self, name):
                raise ValueError(f"{name.upper()} is on, but enrichment is not built yet; set it to 0")
        if not (self.dense_enabled or self.lexical_enabled):
            raise ValueError("DENSE_ENABLED and LEXICAL_ENABLED are both off; leave at least one on")
        return self

    @model_validator(mode="after")
    def _refuse_what_does_not_go_together(self) -> Self:
        problems = killed_names(self.rollout_kill)[1]
        problems += problems_of(self.local_overrides(), self.default_features())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def default_features(self) -> Features:
        """What is on for a request that says nothing."""
        return Features(
            dense=self.dense_enabled,
            lexical=self.lexical_enabled,
            expansion=self.query_expansion_enabled,
            expansion_strategy=self.expansion_strategy,
            max_variant_count=self.expansion_max_variants,
            rerank=self.rerank_enabled,
            rerank_candidate_count=self.rerank_top_k,
        )

    def local_overrides(self) -> LocalOverrides:
        """What this machine decides, as the environment says it."""
        return LocalOverrides(
            killed=killed_names(self.rollout_kill)[0],
            percentages={variable: getattr(self, variable.lower()) for variable in PERCENTAGES},
        )

    def embedder_addresses(self) -> list[str]:
        """The addresses of all embedders; the first serves what has no collection yet."""
        return [self.embedder_address, *filter(None, self.embedder_additional_addresses.split(","))]

    def weights(self) -> Weights:
        """How evidence is weighed."""
        return Weights(dense=self.dense_weight, lexical=self.lexical_weight, rerank=self.rerank_weight)
