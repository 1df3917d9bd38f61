"""The table of RPCs, against the descriptors."""

from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor

from services.chassis.access.rpcs import RPCS, SERVICES, Rpc, rpc_of
from sluice.gateway.v1 import collections_pb2, search_pb2

PROTOS = Path(__file__).parents[4] / "protos"
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for file in sorted(PROTOS.glob("sluice/*/v1/*.proto"))
    for name in [".".join(file.relative_to(PROTOS).with_suffix("").parts)]
    for service in import_module(f"{name}_pb2").DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
SHOWN = {
    *("CollectionService/ListCollections", "StatusService/GetConfig", "AccessService/CheckAccess"),
    "FeedbackStoreService/ExportFeedback",
}
"""RPCs that may name a collection, and answer without it where the caller may not know of it."""


def test_every_rpc_of_gateway_and_rollout_and_of_the_stages_in_the_table_is_classified() -> None:
    ours = {path for path in METHODS if path.split("/")[1] in SERVICES or path.split(".")[1] in ("gateway", "rollout")}
    assert ours == set(RPCS)


def test_an_rpc_of_a_new_stage_is_for_gateways_and_one_that_a_known_service_lacks_for_nobody() -> None:
    speller = rpc_of("/sluice.speller.v1.SpellerService/SpellQuery")
    assert speller == Rpc("SpellerService/SpellQuery", "work", "sluice.speller.v1.SpellerService")
    assert rpc_of("/sluice.gateway.v1.SearchService/Nothing") is None


def field_at(method: MethodDescriptor, path: str) -> FieldDescriptor:
    message = method.input_type
    *above, last = path.split(".")
    for name in above:
        message = message.fields_by_name[name].message_type
    found: FieldDescriptor = message.fields_by_name[last]
    return found


@pytest.mark.parametrize("path", RPCS)
def test_the_collection_and_the_filter_of_a_request_decide_wherever_it_has_them(path: str) -> None:
    rpc, method = RPCS[path], METHODS[path]
    for field in (rpc.collection_field, rpc.filter_field):
        assert not field or field_at(method, field)
    if rpc.group == "work" or rpc.action in SHOWN:
        return
    names = set(method.input_type.fields_by_name)
    assert ("collection" in names) == (rpc.collection_field == "collection")
    assert ("filter" in names) == (rpc.filter_field == "filter")
    if "version" in names and rpc.group != "follow":
        assert "version" in (rpc.collection_field, rpc.version_field)


def test_a_version_stands_for_its_collection_wherever_it_is_named() -> None:
    delete = RPCS["/sluice.gateway.v1.CollectionService/DeleteVersion"]
    assert delete.collections_of(collections_pb2.DeleteVersionRequest(version="papers-v12"), "main") == ["papers"]
    assert delete.collections_of(collections_pb2.DeleteVersionRequest(version="papers"), "main") == ["papers"]
    search = RPCS["/sluice.gateway.v1.SearchService/Search"]
    assert search.collections_of(search_pb2.SearchRequest(collection="papers-v2"), "main") == ["papers"]


def test_a_version_of_another_collection_needs_a_right_to_that_one_too() -> None:
    rollback = RPCS["/sluice.gateway.v1.CollectionService/RollbackCollection"]
    request = collections_pb2.RollbackCollectionRequest(collection="papers", version="others-v1")
    assert rollback.collections_of(request, "main") == ["papers", "others"]
    own = collections_pb2.RollbackCollectionRequest(collection="papers", version="papers-v1")
    assert rollback.collections_of(own, "main") == ["papers"]


def test_a_request_without_a_collection_is_about_the_default_one() -> None:
    rpc = RPCS["/sluice.gateway.v1.SearchService/CompareSearch"]
    assert rpc.collections_of(search_pb2.CompareSearchRequest(), "main") == ["main"]
    named = search_pb2.CompareSearchRequest(search=search_pb2.SearchRequest(collection="papers"))
    assert rpc.collections_of(named, "main") == ["papers"]
    feature = RPCS["/sluice.rollout.v1.RolloutService/GetFeature"]
    assert feature.collections_of(None, "main") == [None]
