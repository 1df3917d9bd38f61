"""Every RPC: the group of actions that policies speak of, and where its request names a collection.

An RPC of these services that is not in the table is refused, and a test says so before that happens. A service that is
not in the table is that of a new stage, which works for gateways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.chassis.validation import split_version

_GROUPS: Mapping[str, Mapping[str, str]] = {
    # Find and read documents.
    "read": {
        "gateway.v1.SearchService": "Search CompareSearch CountByField",
        "gateway.v1.AnswerService": "Answer StreamAnswer",
        "gateway.v1.DocumentService": "GetDocuments ListDocuments",
    },
    # Say what was done with answers.
    "feedback": {"gateway.v1.FeedbackService": "RecordEvents"},
    # Store and delete documents.
    "write": {"gateway.v1.DocumentService": "IndexDocuments DeleteDocuments RelateDocuments"},
    # See what there is; the gateway shows only what the caller may read.
    "overview": {"gateway.v1.CollectionService": "ListCollections", "gateway.v1.StatusService": "GetConfig"},
    # Look after collections.
    "operate": {
        "gateway.v1.CollectionService": "CreateCollection TuneCollection DeleteCollection ReindexCollection "
        "VerifyCollection RollbackCollection DeleteVersion CreateSnapshot StreamCreateSnapshot ListSnapshots "
        "RestoreSnapshot StreamRestoreSnapshot DeleteSnapshot EnrichCollection",
        "gateway.v1.TransferService": "DescribeVersion ListKeys ReadRecords BeginTransfer WriteRecords "
        "CompleteTransfer",
    },
    # Ask who may do what.
    "audit": {"gateway.v1.AccessService": "CheckAccess"},
    # See rollouts and experiments.
    "observe": {
        "rollout.v1.RolloutService": "ListFeatures GetFeature ListHistory GetReport",
        "rollout.v1.ExperimentService": "GetExperiment ListExperiments GetExperimentReport",
    },
    # Command rollouts and experiments, and read all feedback.
    "steer": {
        "rollout.v1.RolloutService": "CreateFeature StartRamp PromoteFeature HoldFeature SetTreatmentShare "
        "HalveFeature RollBackFeature KillFeature RearmFeature",
        "rollout.v1.ExperimentService": "CreateExperiment StartExperiment StopExperiment AttachEvidence",
        "rollout.v1.FeedbackStoreService": "ExportFeedback",
    },
    # Take part in rollouts and experiments, as a gateway does.
    "follow": {
        "rollout.v1.SnapshotService": "WatchSnapshot AcknowledgeSnapshot ReportEvidence",
        "rollout.v1.FeedbackStoreService": "StoreFeedback",
    },
    # Have a stage work.
    "work": {
        "embedder.v1.EmbedderService": "EmbedTexts EmbedTokens SplitTexts GetModel",
        "expander.v1.ExpanderService": "ExpandQuery",
        "reasoner.v1.ReasonerService": "Reason StreamReason",
        "reranker.v1.RerankerService": "RerankPassages GetModel",
        "retriever.v1.RetrieverService": "SearchPassages ExpandRelations GetPassages CountByField DiversifyPassages "
        "HighlightTexts CheckPassages UpsertPassages DeletePassages GetDocuments ListDocuments CreateCollection "
        "GetCollection TuneCollection DeleteCollection ListCollections CreateVersion ComparePassages CopyPassages "
        "SamplePassages CompleteVersion AbandonVersion SwitchCollection DeleteVersion CreateSnapshot "
        "StreamCreateSnapshot ListSnapshots RestoreSnapshot StreamRestoreSnapshot DeleteSnapshot DescribeVersion "
        "ListKeys ReadRecords BeginTransfer CompleteTransfer EnrichCollection RelatePassages",
    },
}
# The request of the RPC names its collection here instead of in `collection`.
_COLLECTIONS = {
    "SearchService/CompareSearch": "search.collection",
    "AnswerService/Answer": "search.collection",
    "AnswerService/StreamAnswer": "answer.search.collection",
}
# The request names a version, as `papers-v3`.
_VERSIONS = frozenset(
    {
        "CollectionService/DeleteVersion",
        "TransferService/ListKeys",
        "TransferService/ReadRecords",
        "TransferService/WriteRecords",
        "TransferService/CompleteTransfer",
    }
)
# The request names a collection, and a version.
_WITH_VERSION = frozenset({"CollectionService/VerifyCollection", "CollectionService/RollbackCollection"})
# The request may name a collection, and the answer is made of what the caller may read.
_SHOWS_WHAT_IS_READABLE = frozenset(
    {"CollectionService/ListCollections", "StatusService/GetConfig", "FeedbackStoreService/ExportFeedback"}
)
# Stages serve the gateway, which asked for the caller's right; rollouts know no collections; what was done with an
# answer counts by the answer's token, which only a reader of the collection was given.
_WITHOUT_COLLECTION = frozenset({"feedback", "audit", "observe", "steer", "follow", "work"})
_FILTERS = {
    "SearchService/Search": "filter",
    "SearchService/CompareSearch": "search.filter",
    "SearchService/CountByField": "filter",
    "AnswerService/Answer": "search.filter",
    "AnswerService/StreamAnswer": "answer.search.filter",
    "DocumentService/ListDocuments": "filter",
}
_BY_ID = frozenset(
    {"DocumentService/GetDocuments", "DocumentService/IndexDocuments", "DocumentService/DeleteDocuments"}
)


@dataclass(frozen=True, slots=True)
class Rpc:
    """One RPC, as policies see it."""

    action: str
    """Service and method, as `SearchService/Search`."""
    group: str
    service: str
    """Full name of its service."""
    collection_field: str = ""
    """Path of the field that names the collection, or a version; empty where no such field decides."""
    version_field: str = ""
    """Field with a version beside the collection, which may be one of another collection; empty for none."""
    filter_field: str = ""
    """Path of the field with the filter on documents; empty for none."""
    by_id: bool = False
    """True if it is about documents by id, for which the gateway keeps the conditions of the policy."""

    @property
    def path(self) -> str:
        """Path of the call, as gRPC has it."""
        return f"/{self.service}/{self.action.partition('/')[2]}"

    def collections_of(self, request: Any, default: str) -> list[str | None]:
        """Names of the collections that a request is about; None alone where the RPC is about none.

        A version stands for its collection, wherever it is named: a right is never one to a version alone.
        """
        if not self.collection_field:
            return [None]
        names = [_at(request, self.collection_field) or default]
        if self.version_field and (version := getattr(request, self.version_field)):
            names.append(version)
        return [*dict.fromkeys(split_version(name)[0] for name in names)]

    def filter_of(self, request: Any) -> Any:
        """The filter of a request, to be written to."""
        return _at(request, self.filter_field)


def _at(message: Any, path: str) -> Any:
    for name in path.split("."):
        message = getattr(message, name)
    return message


def _rpc(group: str, service: str, method: str) -> Rpc:
    action = f"{service.rpartition('.')[2]}/{method}"
    version = action in _VERSIONS
    about = group not in _WITHOUT_COLLECTION and action not in _SHOWS_WHAT_IS_READABLE
    field = _COLLECTIONS.get(action, "version" if version else "collection")
    return Rpc(
        action,
        group,
        f"sluice.{service}",
        field if about else "",
        version_field="version" if action in _WITH_VERSION else "",
        filter_field=_FILTERS.get(action, ""),
        by_id=action in _BY_ID,
    )


RPCS: Mapping[str, Rpc] = {
    rpc.path: rpc
    for group, services in _GROUPS.items()
    for service, methods in services.items()
    for method in methods.split()
    for rpc in [_rpc(group, service, method)]
}
"""Every RPC by the path of its call."""
SERVICES = frozenset(rpc.service for rpc in RPCS.values())


def rpcs_named(name: str) -> list[Rpc]:
    """The RPCs that a method is the name of, as `Search`, or a service and a method, as `SearchService/Search`.

    Of several, those of the gateway come first.
    """
    wanted = name.strip("/").rpartition(".")[2]
    found = [rpc for rpc in RPCS.values() if wanted in (rpc.action, rpc.action.partition("/")[2])]
    return sorted(found, key=lambda rpc: not rpc.service.startswith("sluice.gateway."))


def rpc_of(path: str) -> Rpc | None:
    """The RPC of a path; None for one that nobody has classified."""
    service, _, method = path.strip("/").partition("/")
    if service in SERVICES:
        return RPCS.get(path)
    return _rpc("work", service.removeprefix("sluice."), method)


GROUPS = tuple(_GROUPS)
