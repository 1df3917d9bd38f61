from __future__ import annotations

import pytest
from google.protobuf.message import Message

from services.chassis.errors import FailedPrecondition, InvalidArgument
from services.gateway.collections.store import Difference
from services.gateway.rpc.retriever_client import COMPARED_IDS_A_CALL, DOCUMENTS_A_CALL, RetrieverClient
from sluice.retriever.v1 import retriever_pb2 as pb
from tests.unit.gateway.rpc.canned_channel import CannedChannel
from tests.unit.gateway.samples import passage


async def test_many_documents_are_read_in_several_calls_in_the_order_of_their_ids() -> None:
    def stored(request: pb.GetDocumentsRequest) -> pb.GetDocumentsResponse:
        found = [pb.StoredDocument(passages=[passage(identity)]) for identity in request.ids if identity != "7"]
        return pb.GetDocumentsResponse(documents=found, missing_ids=["7"] if "7" in request.ids else [])

    channel = CannedChannel(stored)
    ids = [str(number) for number in range(DOCUMENTS_A_CALL + 5)]
    found = await RetrieverClient(channel.as_channel()).documents("docs", ids, deadline=0)
    assert [len(request.ids) for request in channel.requests] == [DOCUMENTS_A_CALL, 5]
    assert [passages[0].id for passages in found] == [identity for identity in ids if identity != "7"]


async def test_many_ids_are_compared_in_several_calls() -> None:
    def compared(request: pb.ComparePassagesRequest) -> pb.ComparePassagesResponse:
        difference = pb.Difference(id=request.ids[0], passage=passage(request.ids[0]), revision="1")
        gone = pb.Difference(id=request.ids[1], building_revision="2")
        return pb.ComparePassagesResponse(differences=[difference, gone])

    channel = CannedChannel(compared)
    ids = [str(number) for number in range(COMPARED_IDS_A_CALL + 2)]
    differences = await RetrieverClient(channel.as_channel()).compare("docs", "docs-v2", ids, deadline=0)
    assert len(channel.requests) == 2
    assert differences[:2] == [Difference("0", passage("0"), "1", ""), Difference("1", None, "", "2")]
    assert [difference.id for difference in differences[2:]] == ids[-2:]


async def test_vectors_that_do_not_fit_are_no_fault_of_the_caller() -> None:
    def refused(field: str) -> RetrieverClient:
        def answer(_request: object) -> Message:
            raise InvalidArgument(field, "has 3 values, not 4")

        return RetrieverClient(CannedChannel(answer).as_channel())

    with pytest.raises(FailedPrecondition, match="the embedder's vectors do not fit the collection"):
        await refused("passages[0].vector").upsert("docs", [], [], model_fingerprint="", deadline=0)
    with pytest.raises(InvalidArgument):
        await refused("passages[0].id").upsert("docs", [], [], model_fingerprint="", deadline=0)
