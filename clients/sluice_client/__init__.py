"""Sluice for Python: ask questions, store documents, follow rollouts.

    from sluice_client import Client, Document, Features, Filter, field

    with Client("127.0.0.1:50051") as client:
        client.index(
            [
                Document("argparse", "argparse", "Parses command line options.", {"year": 2011, "kind": "module"}),
                Document("difflib", "difflib", "Compares sequences, and files line by line.", {"year": 2001}),
            ],
            collection="example",
        )
        answer = client.search(
            "how do I read the options of a command?",
            collection="example",
            filter=Filter(must=[field("year") >= 2005, field("kind") == "module"]),
            features=Features(rerank=True),
        )
        for result in answer.results:
            print(result.rank, result.passage.title, round(result.score, 3))
        for stage in answer.stages:
            print(stage.stage, stage.outcome, stage.reason)

`AsyncClient` has the same methods for asyncio. Every call has a deadline, and fails with a `SluiceError`.
"""

from sluice.type.v1.features_pb2 import Features
from sluice_client.answering import AnswerOptions, AnswerReply, Bounds, Citation, Method, WrittenAnswer
from sluice_client.answers import (
    Answer,
    Arm,
    ArmReason,
    Comparison,
    Counts,
    ExperimentExposure,
    FeatureArm,
    FieldCounts,
    Highlight,
    InterleavedArm,
    Outcome,
    Policies,
    Policy,
    QueryVector,
    RelationKind,
    RelationStep,
    Result,
    Scores,
    SearchOptions,
    Stage,
    StageReport,
    ValueCount,
)
from sluice_client.channel import Credentials, Tls
from sluice_client.client import AsyncClient
from sluice_client.copying import AsyncTransferClient, CopyProgress, copy_collection
from sluice_client.documents import (
    Chunk,
    Chunking,
    Document,
    FoundDocuments,
    Indexed,
    Passage,
    Relations,
    StoredDocument,
)
from sluice_client.enrichment import Enriched, EnrichmentProgress, EnrichmentReport, KeyConcern, KeyCount, Related
from sluice_client.errors import Blame, SluiceError
from sluice_client.experiment.client import AsyncExperimentClient
from sluice_client.experiment.experiments import (
    ArmGuardrail,
    AttachedEvidence,
    Experiment,
    ExperimentArm,
    ExperimentArmTotals,
    ExperimentFindings,
    ExperimentMethod,
    ExperimentMetric,
    ExperimentPlan,
    ExperimentReport,
    ExperimentState,
    ExperimentStatus,
    LadderStep,
    MetricFinding,
    MetricGuardrail,
    Verdict,
)
from sluice_client.feedback.events import Event, EventAction, EventRejection, EventRejectionReason, Recorded, Visit
from sluice_client.feedback.served import AnswerFeedback, Exposure, Impression, ImpressionEnding, ServedImpression
from sluice_client.filters import Condition, Filter, all_of, any_of, field, none_of
from sluice_client.flags import FLAGS, Flag, FlagValue, features, flag_values
from sluice_client.indexing import NotStored
from sluice_client.messages import MetadataValue
from sluice_client.rollout.client import AsyncRolloutClient
from sluice_client.rollout.features import (
    EVERYBODY_PPM,
    ArmTotals,
    BadEventCount,
    Criteria,
    EvidencePoint,
    Feature,
    FeatureList,
    FeatureState,
    FeatureStatus,
    Gateway,
    Guardrail,
    GuardrailEvidence,
    HistoryAction,
    HistoryEntry,
    LatencyBucket,
    LimitEvidence,
    Plan,
    PlanStep,
    QuarantinedFeature,
    RolloutReport,
    StepReport,
)
from sluice_client.status import AccessCondition, AccessDecision, Config, StageConfig
from sluice_client.sync import Client, ExperimentClient, RolloutClient
from sluice_client.versions import (
    CollectionVersion,
    FieldType,
    Layout,
    ListedVersion,
    ModelInfo,
    Quantization,
    ReindexPhase,
    ReindexProgress,
    Snapshot,
    SnapshotPhase,
    SnapshotProgress,
    Switched,
    Verified,
    VersionCheck,
    VersionCheckKind,
    VersionState,
)

__version__ = "0.1.0"

__all__ = [
    "EVERYBODY_PPM", "FLAGS", "AccessCondition", "AccessDecision", "Answer", "AnswerFeedback", "AnswerOptions",
    "AnswerReply", "Arm", "ArmGuardrail", "ArmReason", "ArmTotals", "AsyncClient", "AsyncExperimentClient",
    "AsyncRolloutClient", "AsyncTransferClient", "AttachedEvidence", "BadEventCount", "Blame", "Bounds", "Chunk",
    "Chunking", "Citation", "Client", "CollectionVersion", "Comparison", "Condition", "Config", "CopyProgress",
    "Counts", "Credentials", "Criteria", "Document", "Enriched", "EnrichmentProgress", "EnrichmentReport", "Event",
    "EventAction", "EventRejection", "EventRejectionReason", "EvidencePoint", "Experiment", "ExperimentArm",
    "ExperimentArmTotals", "ExperimentClient", "ExperimentExposure", "ExperimentFindings", "ExperimentMethod",
    "ExperimentMetric", "ExperimentPlan", "ExperimentReport", "ExperimentState", "ExperimentStatus", "Exposure",
    "Feature", "FeatureArm", "FeatureList", "FeatureState", "FeatureStatus", "Features", "FieldCounts", "FieldType",
    "Filter", "Flag", "FlagValue", "FoundDocuments", "Gateway", "Guardrail", "GuardrailEvidence", "Highlight",
    "HistoryAction", "HistoryEntry", "Impression", "ImpressionEnding", "Indexed", "InterleavedArm", "KeyConcern",
    "KeyCount", "LadderStep", "LatencyBucket", "Layout", "LimitEvidence", "ListedVersion", "MetadataValue", "Method",
    "MetricFinding", "MetricGuardrail", "ModelInfo", "NotStored", "Outcome", "Passage", "Plan", "PlanStep", "Policies",
    "Policy", "Quantization", "QuarantinedFeature", "QueryVector", "Recorded", "ReindexPhase", "ReindexProgress",
    "Related", "RelationKind", "RelationStep", "Relations", "Result", "RolloutClient", "RolloutReport", "Scores",
    "SearchOptions", "ServedImpression", "SluiceError", "Snapshot", "SnapshotPhase", "SnapshotProgress", "Stage",
    "StageConfig", "StageReport", "StepReport", "StoredDocument", "Switched", "Tls", "ValueCount", "Verdict",
    "Verified", "VersionCheck", "VersionCheckKind", "VersionState", "Visit", "WrittenAnswer", "all_of", "any_of",
    "copy_collection", "features", "field", "flag_values", "none_of",
]  # fmt: skip
