from __future__ import annotations

import pytest
from google.protobuf.message import Message

from services.chassis.errors import FailedPrecondition, InvalidArgument
from services.gateway.collections.store import Difference, Vectors
from services.gateway.rpc.retriever_client import COMPARED_IDS_A_CALL, RetrieverClient
from services.gateway.search.stages import SearchVariant
from sluice.retriever.v1 import retriever_pb2 as pb
from sluice.type.v1.filter_pb2 import Filter
from tests.unit.gateway.rpc.canned_channel import CannedChannel
from tests.unit.gateway.samples import passage


async def test_passages_are_read_in_as_many_calls_as_messages_have_room_for() -> None:
    def stored(request: pb.GetPassagesRequest) -> pb.GetPassagesResponse:
        some = request.ids[:2]
        return pb.GetPassagesResponse(passages=[passage(one) for one in some if one != "2"], read_count=len(some))

    channel = CannedChannel(stored)
    client = RetrieverClient(channel.as_channel())
    read = [found.id async for found in client.passages("docs", list("12345"), deadline=0)]
    assert read == list("1345")
    assert [list(request.ids) for request in channel.requests] == [list("12345"), list("345"), ["5"]]


async def test_a_check_names_the_passage_by_its_place_among_all() -> None:
    def refused(request: pb.CheckPassagesRequest) -> pb.CheckPassagesResponse:
        if any(one.id == "bad" for one in request.passages):
            place = [one.id for one in request.passages].index("bad")
            raise InvalidArgument(f"passages[{place}].metadata.year", "is of another type")
        assert not any(one.text for one in request.passages)
        return pb.CheckPassagesResponse()

    client = RetrieverClient(CannedChannel(refused).as_channel())
    passages = [passage("bad" if place == 1500 else str(place), text="text") for place in range(2000)]
    with pytest.raises(InvalidArgument) as told:
        await client.check("docs", passages, model_fingerprint="f00d", deadline=0)
    assert told.value.field == "passages[1500].metadata.year"


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
        await refused("passages[0].vector").upsert("docs", [], Vectors([], ""), deadline=0)
    with pytest.raises(InvalidArgument):
        await refused("passages[0].id").upsert("docs", [], Vectors([], ""), deadline=0)


async def test_what_is_wrong_with_a_caller_s_vector_is_named_by_the_caller_s_field() -> None:
    def refused(request: pb.SearchPassagesRequest) -> Message:
        assert (request.model, request.like_document_id) == ("mini", "a")
        raise InvalidArgument("variants[0].vector", "has 3 values, not 4", reason="WRONG_DIMENSION")

    with pytest.raises(InvalidArgument, match="has 3 values") as told:
        await RetrieverClient(CannedChannel(refused).as_channel()).search(
            "docs",
            [SearchVariant("", b"vector", 1.0)],
            filter=Filter(),
            limit=1,
            whole=1,
            dense_weight=1.0,
            lexical_weight=1.0,
            model_fingerprint="",
            model="mini",
            like="a",
            deadline=0,
        )
    assert (told.value.field, told.value.reason) == ("vector.values", "WRONG_DIMENSION")
