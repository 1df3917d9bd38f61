from __future__ import annotations

from services.chassis.access.rpcs import RPCS
from services.chassis.audit.methods import changes, object_reader
from sluice.gateway.v1 import collections_pb2 as collections
from sluice.gateway.v1 import documents_pb2 as documents
from sluice.rollout.v1 import rollout_pb2 as rollout

READING = {
    *("Search", "CompareSearch", "CountByField", "Answer", "StreamAnswer", "GetDocuments", "ListDocuments"),
    *("ListCollections", "GetConfig", "VerifyCollection", "ListSnapshots", "DescribeVersion", "ListKeys"),
    *("ReadRecords", "CheckAccess", "ListFeatures", "GetFeature", "ListHistory", "GetReport"),
    *("GetExperiment", "ListExperiments", "GetExperimentReport", "ExportFeedback"),
    *("WatchSnapshot", "AcknowledgeSnapshot", "ReportEvidence", "StoreFeedback", "RecordEvents"),
    *("EmbedTexts", "EmbedTokens", "SplitTexts", "GetModel", "ExpandQuery", "Reason", "StreamReason"),
    *("RerankPassages", "SearchPassages", "GetPassages", "DiversifyPassages", "HighlightTexts", "CheckPassages"),
    *("GetCollection", "ComparePassages", "SamplePassages", "ExpandRelations"),
}


def test_every_rpc_changes_something_but_those_that_are_known_to_read() -> None:
    methods = {path.rpartition("/")[2] for path in RPCS}
    assert {method for method in methods if not changes(method)} == READING


def test_a_verb_that_nobody_knows_may_change_something() -> None:
    assert changes("PurgeEverything")
    assert changes("Getaway")


def test_the_things_that_a_request_names_are_names_counts_and_the_first_ids() -> None:
    read = object_reader(collections.RestoreSnapshotRequest.DESCRIPTOR)
    assert read(collections.RestoreSnapshotRequest(collection="papers", snapshot="papers-v2")) == {
        "collection": "papers",
        "snapshot": "papers-v2",
    }
    read = object_reader(documents.DeleteDocumentsRequest.DESCRIPTOR)
    ids = [str(number) for number in range(1000)]
    assert read(documents.DeleteDocumentsRequest(ids=ids)) == {"ids": 1000, "first_ids": ids[:20]}
    read = object_reader(rollout.KillFeatureRequest.DESCRIPTOR)
    assert read(rollout.KillFeatureRequest(name="rerank")) == {"name": "rerank"}
