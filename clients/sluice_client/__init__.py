"""Sluice for Python: ask questions, store documents, see what is on.

    import asyncio
    from sluice_client import Document, Features, Filter, SluiceClient, field

    async def main() -> None:
        async with SluiceClient("127.0.0.1:50051") as client:
            await client.index(
                [
                    Document("argparse", "argparse", "Parses command line options.", {"year": 2011, "kind": "module"}),
                    Document("difflib", "difflib", "Compares sequences, and files line by line.", {"year": 2001}),
                ],
                collection="example",
            )
            answer = await client.search(
                "how do I read the options of a command?",
                collection="example",
                filter=Filter(must=[field("year") >= 2005, field("kind") == "module"]),
                features=Features(rerank=True),
            )
            for result in answer.results:
                print(result.rank, result.title, round(result.score, 3))
            for stage in answer.stages:
                print(stage.stage, stage.outcome, stage.reason)

    asyncio.run(main())

Every call has a deadline. Whatever fails, fails as a `SluiceError`.
"""

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
from sluice_client.client import SluiceClient
from sluice_client.comparisons import Comparison
from sluice_client.configuration import CollectionConfig, Config, StageConfig
from sluice_client.documents import Chunking, Document, Indexed, MetadataValue
from sluice_client.errors import Blame, NotStored, SluiceError
from sluice_client.filters import Condition, Filter, field
from sluice_client.rollout_client import RolloutClient
from sluice_client.rollouts import (
    EVERYBODY_PPM,
    ArmTotals,
    Criteria,
    EvidencePoint,
    Feature,
    FeatureList,
    FeatureState,
    FeatureStatus,
    Guardrail,
    GuardrailEvidence,
    HistoryEntry,
    LatencyBucket,
    LimitEvidence,
    Plan,
    PlanStep,
    Replica,
    RolloutReport,
    StepReport,
)
from sluice_client.tls import Tls
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

__all__ = [
    "EVERYBODY_PPM",
    "Answer",
    "Arm",
    "ArmTotals",
    "Blame",
    "Chunk",
    "Chunking",
    "CollectionConfig",
    "CollectionVersion",
    "Comparison",
    "Condition",
    "Config",
    "Criteria",
    "Document",
    "EvidencePoint",
    "Feature",
    "FeatureArm",
    "FeatureList",
    "FeatureState",
    "FeatureStatus",
    "Features",
    "Filter",
    "Guardrail",
    "GuardrailEvidence",
    "HistoryEntry",
    "Indexed",
    "LatencyBucket",
    "LimitEvidence",
    "MetadataValue",
    "NotStored",
    "Outcome",
    "Plan",
    "PlanStep",
    "Policies",
    "Policy",
    "ReindexPhase",
    "ReindexProgress",
    "Replica",
    "Result",
    "RolloutClient",
    "RolloutReport",
    "Scores",
    "SluiceClient",
    "SluiceError",
    "Snapshot",
    "Stage",
    "StageConfig",
    "StageReport",
    "StepReport",
    "Strategy",
    "Switched",
    "Tls",
    "Verified",
    "VersionCheck",
    "VersionState",
    "field",
]
