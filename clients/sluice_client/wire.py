"""Between this package's values and the gateway's protobuf messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC

from sluice.gateway.v1 import gateway_pb2 as pb
from sluice_client.answers import (
    Answer,
    Arm,
    Chunk,
    FeatureArm,
    Features,
    Outcome,
    Policies,
    Policy,
    Result,
    Scores,
    Stage,
    StageReport,
    Strategy,
)
from sluice_client.comparisons import Comparison
from sluice_client.configuration import CollectionConfig, Config, StageConfig
from sluice_client.documents import Chunking, Document, Indexed, MetadataValue
from sluice_client.errors import invalid
from sluice_client.filters import Condition, Filter
from sluice_client.versions import (
    CollectionVersion,
    ReindexPhase,
    ReindexProgress,
    Snapshot,
    Switched,
    Verified,
    VersionCheck,
    VersionState,
)

_STRATEGIES = {
    Strategy.SYNONYMS: pb.EXPANSION_STRATEGY_SYNONYMS,
    Strategy.MULTI_QUERY: pb.EXPANSION_STRATEGY_MULTI_QUERY,
}
_POLICIES = {
    None: pb.STAGE_POLICY_UNSPECIFIED,
    Policy.REQUIRED: pb.STAGE_POLICY_REQUIRED,
    Policy.BEST_EFFORT: pb.STAGE_POLICY_BEST_EFFORT,
}
_STAGES = {
    pb.STAGE_EXPAND: Stage.EXPAND,
    pb.STAGE_EMBED: Stage.EMBED,
    pb.STAGE_RETRIEVE: Stage.RETRIEVE,
    pb.STAGE_RERANK: Stage.RERANK,
}
_OUTCOMES = {
    pb.STAGE_OUTCOME_RAN: Outcome.RAN,
    pb.STAGE_OUTCOME_SKIPPED: Outcome.SKIPPED,
    pb.STAGE_OUTCOME_DEGRADED: Outcome.DEGRADED,
    pb.STAGE_OUTCOME_FAILED: Outcome.FAILED,
}
_ARMS = {
    pb.ARM_TREATMENT: Arm.TREATMENT,
    pb.ARM_CONTROL: Arm.CONTROL,
    pb.ARM_STANDARD: Arm.STANDARD,
}
_VERSION_STATES = {
    pb.VERSION_STATE_BUILDING: VersionState.BUILDING,
    pb.VERSION_STATE_READY: VersionState.READY,
}
_PHASES = {
    pb.REINDEX_PHASE_COPY: ReindexPhase.COPY,
    pb.REINDEX_PHASE_SWEEP: ReindexPhase.SWEEP,
    pb.REINDEX_PHASE_VERIFY: ReindexPhase.VERIFY,
    pb.REINDEX_PHASE_SWITCHED: ReindexPhase.SWITCHED,
}
_BOUNDS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}


def sendable(path: str, text: str) -> str:
    """The text, if it can travel: half a surrogate pair, as from a broken decoder, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise invalid(path, "is not valid Unicode; decode it properly first", "NOT_UTF8") from None
    return text


def sendable_number(path: str, number: int | None) -> int | None:
    """The number, if it can travel; the gateway knows which numbers make sense."""
    if number is not None and not -(2**31) <= number < 2**31:
        raise invalid(path, f"{number} is out of range")
    return number


def to_value(path: str, value: MetadataValue) -> pb.Value:
    """One metadata value; `path` is where it stands in the request."""
    match value:
        case bool():
            return pb.Value(bool_value=value)
        case int():
            if not -(2**63) <= value < 2**63:
                raise invalid(path, "does not fit into 64 bits", "WRONG_TYPE")
            return pb.Value(integer_value=value)
        case float():
            return pb.Value(float_value=value)
        case str():
            return pb.Value(string_value=sendable(path, value))
        case [*items] if all(isinstance(item, str) for item in items):
            return pb.Value(string_list_value=pb.StringList(values=[sendable(path, item) for item in items]))
    raise invalid(path, f"is a {type(value).__name__}; send str, int, float, bool or a list of str", "WRONG_TYPE")


def from_value(value: pb.Value) -> MetadataValue | None:
    """One metadata value; None for a kind that a newer gateway has."""
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "integer_value":
            return value.integer_value
        case "float_value":
            return value.float_value
        case "bool_value":
            return value.bool_value
        case "string_list_value":
            return list(value.string_list_value.values)
    return None


def to_document(path: str, document: Document) -> pb.Document:
    """One document; `path` is where it stands in the request."""
    metadata = {
        sendable(f"{path}.metadata", name): to_value(f"{path}.metadata.{name}", value)
        for name, value in document.metadata.items()
    }
    return pb.Document(
        id=sendable(f"{path}.id", document.id),
        title=sendable(f"{path}.title", document.title),
        text=sendable(f"{path}.text", document.text),
        metadata=metadata,
    )


def to_chunking(chunking: Chunking) -> pb.Chunking:
    """How long documents are cut."""
    chunk_tokens = sendable_number("chunking.chunk_tokens", chunking.chunk_tokens)
    overlap_tokens = sendable_number("chunking.overlap_tokens", chunking.overlap_tokens)
    return pb.Chunking(chunk_tokens=chunk_tokens or 0, overlap_tokens=overlap_tokens)


def to_filter(given: Filter) -> pb.Filter:
    """A filter."""

    def group(name: str, conditions: Sequence[Condition]) -> list[pb.Condition]:
        return [_condition(f"filter.{name}[{place}]", condition) for place, condition in enumerate(conditions)]

    return pb.Filter(
        must=group("must", given.must),
        should=group("should", given.should),
        must_not=group("must_not", given.must_not),
    )


def _condition(path: str, condition: Condition) -> pb.Condition:
    message = pb.Condition(field=sendable(f"{path}.field", condition.field))
    match condition.operator, condition.value:
        case "exists", bool(exists):
            message.exists = exists
        case "==", str() | int() | float() as value:
            message.equals.CopyFrom(to_value(f"{path}.equals", value))
        case "any_of", tuple(values):
            members = [to_value(f"{path}.any_of[{place}]", value) for place, value in enumerate(values)]
            message.any_of.CopyFrom(pb.ValueList(values=members))
        case (">" | ">=" | "<" | "<=") as operator, int() | float() as bound:
            setattr(message.range, _BOUNDS[operator], bound)
        case operator, value:
            raise invalid(path, f"cannot test whether {condition.field} {operator} {value!r}", "WRONG_TYPE")
    return message


def to_features(features: Features) -> pb.Features:
    """What to switch on or off; what is None stays unset."""
    message = pb.Features(
        dense=features.dense,
        lexical=features.lexical,
        expansion=features.expansion,
        max_variant_count=sendable_number("features.max_variant_count", features.max_variant_count),
        rerank=features.rerank,
        rerank_candidate_count=sendable_number("features.rerank_candidate_count", features.rerank_candidate_count),
    )
    if features.expansion_strategy is not None:
        message.expansion_strategy = _STRATEGIES[features.expansion_strategy]
    return message


def from_features(features: pb.Features) -> Features:
    """What was or is on."""
    return Features(
        dense=features.dense,
        lexical=features.lexical,
        expansion=features.expansion,
        expansion_strategy=next(
            (strategy for strategy, number in _STRATEGIES.items() if number == features.expansion_strategy), None
        ),
        max_variant_count=features.max_variant_count,
        rerank=features.rerank,
        rerank_candidate_count=features.rerank_candidate_count,
    )


def to_policies(policies: Policies) -> pb.StagePolicies:
    """What happens when a stage fails."""
    return pb.StagePolicies(
        expansion=_POLICIES[policies.expansion],
        embedding=_POLICIES[policies.embedding],
        rerank=_POLICIES[policies.rerank],
    )


def from_search(reply: pb.SearchResponse) -> Answer:
    """An answer."""
    return Answer(
        results=[_result(result) for result in reply.results],
        stages=[_report(report) for report in reply.stages],
        next_page_token=reply.next_page_token,
        features=from_features(reply.features),
        collection=reply.collection,
        index_version=reply.index_version,
        request_id=reply.request_id,
        snapshot_version=reply.snapshot_version,
        arms=[
            FeatureArm(entry.feature, _ARMS.get(entry.arm, Arm.UNKNOWN), entry.ramp_id, entry.reason)
            for entry in reply.arms
        ],
    )


def from_comparison(reply: pb.CompareSearchResponse) -> Comparison:
    """Two answers, and how they differ."""
    return Comparison(
        standard=from_search(reply.standard),
        enhanced=from_search(reply.enhanced),
        standard_seconds=reply.standard_duration.ToNanoseconds() / 1e9,
        enhanced_seconds=reply.enhanced_duration.ToNanoseconds() / 1e9,
        depth=reply.depth,
        overlap=reply.overlap,
        rank_biased_overlap=reply.rank_biased_overlap,
        persistence=reply.persistence,
    )


def _result(result: pb.Result) -> Result:
    scores, part = result.scores, result.chunk
    values = {name: from_value(value) for name, value in result.metadata.items()}
    return Result(
        id=result.id,
        title=result.title,
        text=result.text,
        metadata={name: value for name, value in values.items() if value is not None},
        score=result.score,
        rank=result.rank,
        scores=Scores(
            retrieval=scores.retrieval,
            retrieval_rank=scores.retrieval_rank,
            rerank=scores.rerank if scores.HasField("rerank") else None,
        ),
        duplicate_count=result.duplicate_count,
        document_id=result.document_id or result.id,
        chunk=Chunk(part.number, part.count, part.start, part.end) if result.HasField("chunk") else None,
    )


def _report(report: pb.StageReport) -> StageReport:
    return StageReport(
        stage=_STAGES.get(report.stage, Stage.UNKNOWN),
        outcome=_OUTCOMES.get(report.outcome, Outcome.UNKNOWN),
        reason=report.reason,
        detail=report.detail,
        seconds=report.duration.ToNanoseconds() / 1e9,
        model=report.model,
        item_count=report.item_count,
    )


def from_indexed(reply: pb.IndexDocumentsResponse) -> Indexed:
    """What was stored."""
    return Indexed(
        count=reply.indexed_count,
        truncated_ids=list(reply.truncated_ids),
        index_version=reply.index_version,
        model=reply.model,
        passage_count=reply.passage_count,
    )


def from_config(reply: pb.GetConfigResponse) -> Config:
    """What is in effect."""
    collection = reply.collection
    return Config(
        default_features=from_features(reply.default_features),
        stages=[
            StageConfig(
                stage=_STAGES.get(stage.stage, Stage.UNKNOWN),
                address=stage.address,
                serving=stage.serving,
                problem=stage.problem,
                model=stage.model,
                model_fingerprint=stage.model_fingerprint,
                runtime=stage.runtime,
                pseudo=stage.pseudo,
            )
            for stage in reply.stages
        ],
        collection=CollectionConfig(
            name=collection.name,
            exists=collection.exists,
            index_version=collection.index_version,
            model=collection.model,
            model_fingerprint=collection.model_fingerprint,
            dimension=collection.dimension,
            document_count=collection.document_count,
            fields=dict(collection.fields),
            created=collection.create_time.ToDatetime(UTC) if collection.HasField("create_time") else None,
        ),
        release=reply.release,
    )


def from_version(version: pb.CollectionVersion) -> CollectionVersion:
    """One version."""
    return CollectionVersion(
        collection=version.collection,
        version=version.version,
        live=version.live,
        state=_VERSION_STATES.get(version.state, VersionState.UNKNOWN),
        model=version.model,
        model_fingerprint=version.model_fingerprint,
        model_served=version.model_served,
        dimension=version.dimension,
        precision=version.precision,
        lexical_settings=version.lexical_settings,
        source=version.source,
        document_count=version.document_count,
        created=version.create_time.ToDatetime(UTC),
        building_version=version.building_version,
        previous_version=version.previous_version,
    )


def from_reindex(reply: pb.ReindexCollectionResponse) -> ReindexProgress:
    """How far a rebuild is."""
    return ReindexProgress(
        version=reply.version,
        phase=_PHASES.get(reply.phase, ReindexPhase.UNKNOWN),
        done=reply.done_count,
        total=reply.total_count,
        copied=reply.copied_count,
        checks=_checks(reply.checks),
        previous_version=reply.previous_version,
    )


def from_verify(reply: pb.VerifyCollectionResponse) -> Verified:
    """What the checks found."""
    return Verified(reply.version, _checks(reply.checks))


def from_switch(reply: pb.RollbackCollectionResponse | pb.RestoreSnapshotResponse) -> Switched:
    """What is live, and was."""
    return Switched(from_version(reply.live), reply.previous_version)


def from_snapshot(snapshot: pb.Snapshot) -> Snapshot:
    """One copy."""
    return Snapshot(snapshot.name, snapshot.version, snapshot.create_time.ToDatetime(UTC), snapshot.size_bytes)


def _checks(checks: Iterable[pb.VersionCheck]) -> list[VersionCheck]:
    return [VersionCheck(check.name, check.passed, check.detail) for check in checks]
