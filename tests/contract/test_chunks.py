"""Long documents through the gateway: cut, found by their parts, replaced and deleted as a whole."""

from __future__ import annotations

import time
from typing import Any

import pytest

from services.chassis.errors import InvalidArgument
from sluice.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from sluice.gateway.v1 import documents_pb2, search_pb2, status_pb2
from sluice.type.v1 import filter_pb2
from tests.contract.conftest import Platform
from tests.stubs import GatewayStubs

CHUNKING = documents_pb2.Chunking(chunk_tokens=32, overlap_tokens=4)


def soon() -> float:
    return time.monotonic() + 20


def stubs(platform: Platform) -> GatewayStubs:
    return GatewayStubs(platform["gateway"].channel)


async def index(
    platform: Platform, *documents: documents_pb2.Document, chunking: documents_pb2.Chunking | None = CHUNKING
) -> documents_pb2.IndexDocumentsResponse:
    request = documents_pb2.IndexDocumentsRequest(documents=documents, chunking=chunking)
    return await platform["gateway"].call(stubs(platform).documents.IndexDocuments, request, deadline=soon())


async def search(platform: Platform, query: str, **request: Any) -> search_pb2.SearchResponse:
    question = search_pb2.SearchRequest(query=query, limit=100, **request)
    return await platform["gateway"].call(stubs(platform).search.Search, question, deadline=soon())


async def passages(platform: Platform) -> int:
    config = await platform["gateway"].call(
        stubs(platform).status.GetConfig, status_pb2.GetConfigRequest(), deadline=soon()
    )
    return config.collection.passage_count


def saga(identity: str, sentences: int) -> documents_pb2.Document:
    text = " ".join(f"Chapter {number} tells of ship{number} and of the storm." for number in range(sentences))
    return documents_pb2.Document(
        id=identity, title="A saga", text=text, metadata={"year": filter_pb2.Value(integer_value=1900)}
    )


async def test_a_long_document_is_found_by_its_parts(platform: Platform) -> None:
    document = saga("saga", 20)
    indexed = await index(platform, document, saga("tale", 2))
    assert (indexed.indexed_count, indexed.truncated_ids) == (2, [])
    assert indexed.passage_count == await passages(platform) > 5
    found = {result.passage.id: result for result in (await search(platform, "storm saga")).results}
    assert len(found) == indexed.passage_count
    assert not found["tale"].passage.HasField("chunk")
    chunks = sorted(
        (r for r in found.values() if r.passage.document_id == "saga"), key=lambda result: result.passage.chunk.number
    )
    assert [result.passage.id for result in chunks] == [
        "saga",
        *(f"saga##{number}" for number in range(2, len(chunks) + 1)),
    ]
    covered = 0
    for number, result in enumerate(chunks, start=1):
        chunk = result.passage.chunk
        assert (chunk.number, chunk.count) == (number, len(chunks))
        assert result.passage.text == document.text[chunk.start : chunk.end]
        assert result.passage.title == "A saga"
        assert result.passage.metadata["year"].integer_value == 1900
        assert chunk.start <= covered < chunk.end
        covered = chunk.end
    assert covered == len(document.text)
    (best, *_) = (await search(platform, "ship17")).results
    assert "ship17" in best.passage.text


async def test_by_document_only_the_best_chunk_is_a_result(platform: Platform) -> None:
    await index(platform, saga("saga", 20), saga("tale", 12), saga("note", 1))
    grouped = (await search(platform, "the storm of ship7", group_by_document=True)).results
    assert sorted(result.passage.document_id for result in grouped) == ["note", "saga", "tale"]
    assert [result.rank for result in grouped] == [1, 2, 3]
    everything = (await search(platform, "the storm of ship7")).results
    best: dict[str, str] = {}
    for result in everything:
        best.setdefault(result.passage.document_id, result.passage.id)
    assert [result.passage.id for result in grouped] == list(best.values())


async def test_pages_by_document_go_through_all_documents_once(platform: Platform) -> None:
    names = [f"saga-{number}" for number in range(7)]
    # The first has more chunks than all candidates that two results would take.
    await index(platform, *(saga(name, 3 if number else 90) for number, name in enumerate(names)))
    found: list[str] = []
    token = ""
    while True:
        question = search_pb2.SearchRequest(query="storm of ship", limit=2, group_by_document=True, page_token=token)
        page = await platform["gateway"].call(stubs(platform).search.Search, question, deadline=soon())
        found += [result.passage.document_id for result in page.results]
        token = page.next_page_token
        if not token:
            break
    assert sorted(found) == names


@pytest.mark.parametrize("chunking", [CHUNKING, None])
async def test_a_document_that_has_become_shorter_leaves_no_chunk_behind(
    platform: Platform, chunking: documents_pb2.Chunking | None
) -> None:
    await index(platform, saga("saga", 40))
    await index(platform, saga("saga", 1), chunking=chunking)
    assert await passages(platform) == 1


async def test_deleting_a_document_deletes_its_chunks(platform: Platform) -> None:
    await index(platform, saga("saga", 40), saga("tale", 1))
    request = documents_pb2.DeleteDocumentsRequest(ids=["saga"])
    reply = await platform["gateway"].call(stubs(platform).documents.DeleteDocuments, request, deadline=soon())
    assert (reply.deleted_count, await passages(platform)) == (1, 1)


async def test_very_many_chunks_are_stored_in_several_calls(platform: Platform) -> None:
    indexed = await index(platform, saga("saga", 3000))
    assert indexed.passage_count == await passages(platform) > 1000


async def test_what_is_wrong_with_a_long_document_is_told_before_anything_is_stored(platform: Platform) -> None:
    await index(platform, saga("first", 1))
    bad = saga("bad", 700)
    bad.metadata["year"].CopyFrom(filter_pb2.Value(string_value="soon"))
    with pytest.raises(InvalidArgument, match=r"documents\[1\]\.metadata\.year"):
        await index(platform, saga("good", 700), bad)
    assert await passages(platform) == 1
    assert await index(platform, saga("x" * 512, 20))


@pytest.mark.parametrize(
    ("chunking", "field"),
    [
        (documents_pb2.Chunking(chunk_tokens=8), "chunk_tokens"),
        (documents_pb2.Chunking(chunk_tokens=100_000), "chunk_tokens"),
        (documents_pb2.Chunking(chunk_tokens=64, overlap_tokens=32), "overlap_tokens"),
        (documents_pb2.Chunking(chunk_tokens=64, overlap_tokens=-1), "overlap_tokens"),
    ],
)
async def test_chunks_that_make_no_sense_are_refused_by_field(
    platform: Platform, chunking: documents_pb2.Chunking, field: str
) -> None:
    with pytest.raises(InvalidArgument, match=rf"chunking\.{field}") as refused:
        await index(platform, saga("saga", 1), chunking=chunking)
    assert refused.value.field == f"chunking.{field}"


async def test_the_embedder_says_where_to_cut(platform: Platform) -> None:
    embedder = embedder_pb2_grpc.EmbedderServiceStub(platform["embedder"].channel)
    text = "one two three four. " * 20
    request = embedder_pb2.SplitTextsRequest(
        texts=[embedder_pb2.TitledText(title="title", text=text), embedder_pb2.TitledText(text="short")],
        chunk_tokens=41,
        overlap_tokens=0,
    )
    reply = await platform["embedder"].call(embedder.SplitTexts, request, deadline=soon())
    assert [(chunk.start, chunk.end, chunk.token_count) for chunk in reply.texts[0].chunks] == [
        (0, 200, 41),
        (200, 400, 41),
    ]
    assert [(chunk.start, chunk.end) for chunk in reply.texts[1].chunks] == [(0, 5)]
    assert reply.model.pseudo
