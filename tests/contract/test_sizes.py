"""Documents, batches and pages that are legal one by one, and larger than a message between stages."""

from __future__ import annotations

import time

import pytest

from services.chassis.errors import InvalidArgument
from sluice.gateway.v1 import documents_pb2, search_pb2
from sluice.type.v1 import features_pb2, filter_pb2
from tests.contract.conftest import Platform
from tests.stubs import GatewayStubs

WORDS = features_pb2.Features(dense=False)


def filler(number: int, size: int) -> str:
    """A text of this many bytes that is like no other, and quick to index."""
    return f"lamp {number} ".ljust(size, f"{number % 10}")


async def index(
    platform: Platform, *documents: documents_pb2.Document, chunking: documents_pb2.Chunking | None = None
) -> documents_pb2.IndexDocumentsResponse:
    request = documents_pb2.IndexDocumentsRequest(documents=documents, chunking=chunking)
    stub = GatewayStubs(platform["gateway"].channel).documents
    return await platform["gateway"].call(stub.IndexDocuments, request, deadline=time.monotonic() + 120)


async def pages(platform: Platform, **question: bool) -> list[search_pb2.SearchResponse]:
    stub = GatewayStubs(platform["gateway"].channel).search
    answers: list[search_pb2.SearchResponse] = []
    token = ""
    while token or not answers:
        request = search_pb2.SearchRequest(query="lamp", limit=100, features=WORDS, page_token=token, **question)
        answers.append(await platform["gateway"].call(stub.Search, request, deadline=time.monotonic() + 120))
        token = answers[-1].next_page_token
    return answers


@pytest.mark.parametrize("question", [{}, {"collapse_duplicates": True}, {"group_by_document": True}])
async def test_pages_of_long_documents_show_them_all(platform: Platform, question: dict[str, bool]) -> None:
    for start in range(0, 240, 80):
        await index(
            platform,
            *(
                documents_pb2.Document(id=f"d{number}", text=filler(number, 140_000))
                for number in range(start, start + 80)
            ),
        )
    answers = await pages(platform, **question)
    shown = [result.passage.id for answer in answers for result in answer.results]
    assert len(shown) == len(set(shown)) == 240
    assert all(len(result.passage.text) == 140_000 for answer in answers for result in answer.results)
    # 100 of them have no room in a message of 16 MiB: the page ends early, and its token goes on.
    assert 80 < len(answers[0].results) < 100


async def test_a_batch_just_below_a_message_is_stored(platform: Platform) -> None:
    batch = [documents_pb2.Document(id=f"b{number}", text=filler(number, 32_000)) for number in range(512)]
    assert (await index(platform, *batch)).indexed_count == 512


async def test_a_document_of_many_chunks_with_much_metadata_is_stored(platform: Platform) -> None:
    text = "old lamp near the sea wall with warm yellow light " * 2_000
    note = filter_pb2.Value(string_value="m" * 39_000)
    document = documents_pb2.Document(id="long", text=text, metadata={"note": note})
    indexed = await index(platform, document, chunking=documents_pb2.Chunking(chunk_tokens=64))
    assert indexed.passage_count > 300
    stub = GatewayStubs(platform["gateway"].channel).documents
    request = documents_pb2.GetDocumentsRequest(ids=["long", "none"])
    found = await platform["gateway"].call(stub.GetDocuments, request, deadline=time.monotonic() + 60)
    assert (found.documents[0].document, list(found.missing_ids)) == (document, ["none"])
    assert len(found.documents[0].chunks) == indexed.passage_count


async def test_metadata_that_would_break_searches_is_refused_when_it_is_stored(platform: Platform) -> None:
    await index(platform, *(documents_pb2.Document(id=f"h{number}", text="honest lamp") for number in range(20)))
    heavy = documents_pb2.Document(
        id="p", text="honest lamp", metadata={"blob": filter_pb2.Value(string_value="x" * (2 << 20))}
    )
    with pytest.raises(InvalidArgument, match="at most 65536 are taken") as refused:
        await index(platform, documents_pb2.Document(id="a", text="lamp"), heavy)
    assert refused.value.field == "documents[1].metadata"
    [answer] = await pages(platform)
    assert len(answer.results) == 20
