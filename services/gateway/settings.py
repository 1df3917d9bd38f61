"""Gateway settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, SecretStr, create_model, model_validator

from services.chassis.settings import File, OptionalFile, SheddingSettings
from services.chassis.validation import MAX_QUERY_BYTES
from services.experiment.flags import FLAGS, Flag
from services.gateway.feedback.showing import KeptImpressions, KeptQueries
from services.gateway.quotas.book import Quota
from services.gateway.rollout.local_overrides import LocalOverrides, killed_names, problems_of
from services.gateway.search.flags import Features
from services.gateway.search.order.ranking import Weights
from services.gateway.search.query_log import LoggedQueries

MIN_KEY_CHARACTERS = 16


def _flag_fields() -> dict[str, Any]:
    """Make the settings of the flags: defaults, and shares of users."""
    defaults = Features()
    fields: dict[str, Any] = {
        flag.variable.lower(): (_type_of(flag), _default(flag, getattr(defaults, flag.name))) for flag in FLAGS.values()
    }
    for flag in FLAGS.values():
        if flag.share_variable:
            description = (
                f"Share of users that get {flag.name} where `{flag.variable}` is 0, for a machine without the rollout "
                "service. Percent."
            )
            fields[flag.share_variable.lower()] = (int, Field(0, ge=0, le=100, description=description))
    return fields


def _type_of(flag: Flag) -> Any:
    return Literal[flag.choices] if flag.choices else flag.kind


def _default(flag: Flag, value: Any) -> Any:
    number = flag.kind is int
    return Field(value, ge=flag.least if number else None, le=flag.most if number else None, description=flag.help)


if TYPE_CHECKING:
    FlagSettings = SheddingSettings
else:
    FlagSettings = create_model("FlagSettings", __base__=SheddingSettings, **_flag_fields())


class GatewaySettings(FlagSettings):
    """Addresses of the stages, default flags, and weights of evidence."""

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
    reasoner_address: str = Field("127.0.0.1:50058", description="Address of the reasoner, as `host:port`.")
    default_deadline_seconds: float = Field(
        10.0, gt=0, le=300, description="Deadline of a search whose caller sets none. Seconds."
    )
    answer_deadline_seconds: float = Field(
        60.0, gt=0, le=3600, description="Deadline of an answer in words whose caller sets none. Seconds."
    )
    index_deadline_seconds: float = Field(
        120.0, gt=0, le=3600, description="Deadline of an indexing call whose caller sets none. Seconds."
    )
    breaker_failures: int = Field(
        5, ge=1, le=1000, description="Consecutive failures of a stage after which it is not called for a while."
    )
    breaker_reset_seconds: float = Field(
        60, gt=0, le=3600, description="Time without calls to a failing stage, until one call probes it. Seconds."
    )
    log_queries: LoggedQueries = Field(
        "off",
        description="Content of a search's log line and span about its query: nothing (`off`), or a `hash` of it "
        "(BLAKE2b). Never its text.",
    )
    log_query_key: SecretStr = Field(
        SecretStr(""),
        max_length=64,
        description="Key of that hash, at most 64 characters. Without one, a guessed query can be tested against it.",
    )
    qdrant_collection: str = Field(
        "documents",
        pattern=r"^[A-Za-z0-9_-]{1,128}$",
        description="Collection (or alias) of requests that name none.",
    )
    token_vectors: bool = Field(
        True,
        description="True if a new collection gets token vectors, for reranking by late interaction, where the first "
        "embedder has a TOKEN_MODEL. They take about 10 KB a passage.",
    )
    query_max_characters: int = Field(
        MAX_QUERY_BYTES, ge=1, le=MAX_QUERY_BYTES, description="Longest query, in characters; never over 8192 bytes."
    )
    query_pattern: str = Field(
        "",
        description="Regular expression (of the library `regex`) that a whole query has to match; empty allows all.",
    )
    dense_weight: float = Field(1.0, gt=0, le=100, description="Weight of dense searches in the fusion.")
    lexical_weight: float = Field(0.67, gt=0, le=100, description="Weight of lexical searches in the fusion.")
    late_weight: float = Field(
        0.5, ge=0, le=1, description="Share of late interaction in the final score; the rest is the first stage's."
    )
    rerank_weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the cross-encoder in the final score; the rest is that of the stages before it.",
    )
    rollout_address: str = Field(
        "",
        pattern=r"^\S*$",
        description="Address of the rollout service, as `host:port`; empty means none: only the percentages of this "
        "table ramp.",
    )
    rollout_gateway_name: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._:-]{0,128}$",
        description="Name of this gateway for the rollout service, unique among replicas; empty means host name and "
        "process number.",
    )
    rollout_snapshot_path: File = Field(
        Path("data/rollout/snapshot.json"),
        description="File for the last good snapshot of the rollout service, for a start while the service is away.",
    )
    rollout_overrides_path: OptionalFile = Field(
        None,
        description="File of `NAME=VALUE` lines that is read four times a second: `ROLLOUT_KILL` and the percentages "
        "of this table, which it overrides while the gateway runs.",
    )
    rollout_report_seconds: float = Field(
        1.0, ge=0.05, le=60, description="Interval of the reports of evidence to the rollout service. Seconds."
    )
    rollout_kill: str = Field(
        "",
        description="Names of features that are off on this gateway for all users, separated by commas, whatever the "
        "rollout service says.",
    )

    feedback_keys: SecretStr = Field(
        SecretStr(""),
        description="Keys of impression tokens, separated by commas: the first signs, all verify, and the last makes "
        "hashes of users. The same for all gateways, at least 16 characters each; empty means that no feedback is "
        "taken (docs/experiments.md).",
    )
    feedback_impressions: KeptImpressions = Field(
        "experiments",
        description="Answers that the rollout service stores although nobody acts on them: those that are a part of "
        "`experiments`, or `all`, for judgments from clicks and samples of queries.",
    )
    feedback_queries: KeptQueries = Field(
        "off",
        description="Queries of these answers: not stored (`off`), as keyed hashes (`hashed`), or as they are "
        "(`clear`).",
    )
    feedback_days: int = Field(7, ge=1, le=90, description="Age of an answer up to which events on it are taken. Days.")

    quota_calls_per_second: float = Field(
        100, ge=0, le=1e6, description="Calls a second that a caller with an identity may make; 0 sets no limit."
    )
    quota_burst: int = Field(200, ge=0, le=10**7, description="Calls that a caller may make at once.")
    quota_concurrent_calls: int = Field(
        32, ge=0, le=10**6, description="Calls that a caller may have under way; 0 sets no limit."
    )
    quota_bytes_in_flight_mib: int = Field(
        64, ge=0, le=2**20, description="Size of all requests that a caller may have under way; 0 sets no limit. MiB."
    )
    quota_tokens_per_second: float = Field(
        0, ge=0, le=1e9, description="Tokens a second that models may read for a caller; 0 sets no limit."
    )
    quota_file: OptionalFile = Field(
        None,
        description="YAML file with the limits of callers, roles and tenants, read again when it changes "
        "(docs/limits.md).",
    )
    quota_replicas: int = Field(
        1, ge=1, le=10_000, description="Gateways that share the quotas; each has its part of them."
    )
    quota_store: SecretStr = Field(
        SecretStr(""),
        description="Redis in which gateways count calls and tokens together, as `redis://host:6379`; empty means that "
        "each counts its part.",
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        problems = [
            f"{flag.variable} and {FLAGS[flag.unless].variable} are both off; leave at least one on"
            for flag in FLAGS.values()
            if flag.name < flag.unless and not self._default_of(flag) and not self._default_of(FLAGS[flag.unless])
        ]
        if any(len(key) < MIN_KEY_CHARACTERS for key in self.keys_of_feedback()):
            problems.append(f"a key of FEEDBACK_KEYS is shorter than {MIN_KEY_CHARACTERS} characters")
        problems += killed_names(self.rollout_kill)[1]
        problems += problems_of(self.local_overrides(), self.default_features())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def default_features(self) -> Features:
        """Flags of a request that sets none."""
        return Features(**{flag.name: self._default_of(flag) for flag in FLAGS.values()})

    def local_overrides(self) -> LocalOverrides:
        """Kills and shares of users from the environment."""
        shares = [flag.share_variable for flag in FLAGS.values() if flag.share_variable]
        return LocalOverrides(
            killed=killed_names(self.rollout_kill)[0],
            percentages={variable: getattr(self, variable.lower()) for variable in shares},
        )

    def embedder_addresses(self) -> list[str]:
        """Addresses of all embedders; the first one serves new collections."""
        return [self.embedder_address, *filter(None, self.embedder_additional_addresses.split(","))]

    def keys_of_feedback(self) -> list[str]:
        """Keys of impression tokens; none where no feedback is taken."""
        return [key for part in self.feedback_keys.get_secret_value().split(",") if (key := part.strip())]

    def quota(self) -> Quota:
        """Limits of a caller of whom the file says nothing."""
        return Quota(
            self.quota_calls_per_second,
            self.quota_burst,
            self.quota_concurrent_calls,
            self.quota_bytes_in_flight_mib * 2**20,
            self.quota_tokens_per_second,
        )

    def weights(self) -> Weights:
        """Weights of the kinds of evidence."""
        return Weights(
            dense=self.dense_weight, lexical=self.lexical_weight, late=self.late_weight, rerank=self.rerank_weight
        )

    def _default_of(self, flag: Flag) -> Any:
        return getattr(self, flag.variable.lower())
