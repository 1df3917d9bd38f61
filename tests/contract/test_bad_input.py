"""Bad input: the canonical code, the name of the field, and an index that stays as it was."""

from __future__ import annotations

import time
from typing import Any

import pytest

from services.chassis.errors import FailedPrecondition, InvalidArgument, NotFound, SluiceError
from sluice.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from sluice.expander.v1 import expander_pb2, expander_pb2_grpc
from sluice.gateway.v1 import (
    collections_pb2,
    collections_pb2_grpc,
    documents_pb2,
    documents_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
    status_pb2,
    status_pb2_grpc,
)
from sluice.gateway.v1.documents_pb2 import Document
from sluice.retriever.v1 import retriever_pb2, retriever_pb2_grpc
from sluice.type.v1 import filter_pb2, model_pb2, stage_pb2
from sluice.type.v1.features_pb2 import RERANK_METHOD_CROSS_ENCODER, Features
from sluice.type.v1.filter_pb2 import Condition, Filter, Range, Value
from tests.contract.conftest import Platform

BOOKS = [
    Document(
        id=f"book-{number}",
        title=f"Volume {number}",
        text=f"The sea, the ship and the storm, part {number}.",
        metadata={
            "year": Value(integer_value=1900 + number),
            "author": Value(string_value="Ada"),
        },
    )
    for number in range(6)
]


def soon() -> float:
    return time.monotonic() + 20


async def search(platform: Platform, **request: Any) -> search_pb2.SearchResponse:
    stub = search_pb2_grpc.SearchServiceStub(platform["gateway"].channel)
    return await platform["gateway"].call(stub.Search, search_pb2.SearchRequest(**request), deadline=soon())


async def index(platform: Platform, *documents: Document) -> documents_pb2.IndexDocumentsResponse:
    stub = documents_pb2_grpc.DocumentServiceStub(platform["gateway"].channel)
    request = documents_pb2.IndexDocumentsRequest(documents=documents)
    return await platform["gateway"].call(stub.IndexDocuments, request, deadline=soon())


async def configuration(platform: Platform) -> status_pb2.GetConfigResponse:
    stub = status_pb2_grpc.StatusServiceStub(platform["gateway"].channel)
    return await platform["gateway"].call(stub.GetConfig, status_pb2.GetConfigRequest(), deadline=soon())


async def count(platform: Platform) -> int:
    return (await configuration(platform)).collection.passage_count


async def test_near_duplicates_are_collapsed_on_request_and_pages_belong_to_that_request(platform: Platform) -> None:
    copies = [Document(id=f"copy-{number}", title="Volume 1", text=BOOKS[1].text.upper()) for number in range(2)]
    await index(platform, *BOOKS, *copies)
    answer = await search(platform, query="sea storm", limit=5, collapse_duplicates=True)
    assert sorted(result.duplicate_count for result in answer.results) == [0, 0, 0, 0, 2]
    with pytest.raises(InvalidArgument, match="another question"):
        await search(platform, query="sea storm", limit=5, page_token=answer.next_page_token)


async def test_documents_go_in_and_come_out(platform: Platform) -> None:
    indexed = await index(platform, *BOOKS)
    assert indexed.indexed_count == len(BOOKS)
    answer = await search(platform, query="a ship in a storm", limit=3)
    assert len(answer.results) == 3
    assert answer.results[0].passage.metadata["author"].string_value == "Ada"
    assert answer.index_version == indexed.index_version
    embed = next(report for report in answer.stages if report.stage == stage_pb2.STAGE_EMBED)
    assert (embed.outcome, embed.reason) == (search_pb2.STAGE_OUTCOME_DEGRADED, "PSEUDO_EMBEDDINGS")


@pytest.mark.parametrize(
    ("request_fields", "field"),
    [
        ({"query": ""}, "query"),
        ({"query": " \n\t"}, "query"),
        ({"query": "q" * 100_000}, "query"),
        ({"query": "sea", "limit": 0}, "limit"),
        ({"query": "sea", "limit": -1}, "limit"),
        ({"query": "sea", "limit": 10_000}, "limit"),
        ({"query": "sea", "features": Features(expansion_strategy=99)}, "features.expansion_strategy"),  # type: ignore[arg-type]
        ({"query": "sea", "features": Features(max_variant_count=0)}, "features.max_variant_count"),
        ({"query": "sea", "features": Features(dense=False, lexical=False)}, "features"),
        ({"query": "sea", "policies": search_pb2.StagePolicies(rerank=77)}, "policies.rerank"),  # type: ignore[arg-type]
        ({"query": "sea", "page_token": "bm90IGEgdG9rZW4="}, "page_token"),
        ({"query": "sea", "collection": "no such/name"}, "collection"),
    ],
)
async def test_a_bad_search_is_refused_by_the_name_of_its_field(
    platform: Platform, request_fields: dict[str, Any], field: str
) -> None:
    await index(platform, *BOOKS)
    with pytest.raises(InvalidArgument) as caught:
        await search(platform, **request_fields)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("condition", "field"),
    [
        (Condition(field="year", equals=Value(string_value="1903")), "filter.must[0].equals"),
        (Condition(field="author", range=Range(gte=1)), "filter.must[0].range"),
        (Condition(field="colour", exists=True), "filter.must[0].field"),
        (Condition(field="year"), "filter.must[0]"),
    ],
    ids=["text for a number", "range of text", "unknown field", "no test"],
)
async def test_a_filter_that_does_not_fit_is_refused_by_its_path(
    platform: Platform, condition: Condition, field: str
) -> None:
    await index(platform, *BOOKS)
    with pytest.raises(InvalidArgument) as caught:
        await search(platform, query="sea", filter=Filter(must=[condition]))
    assert caught.value.field == field


async def test_a_filter_that_fits_keeps_what_it_says(platform: Platform) -> None:
    await index(platform, *BOOKS)
    later = Condition(field="year", range=Range(gte=1904))
    answer = await search(platform, query="sea", filter=Filter(must=[later]))
    assert {result.passage.id for result in answer.results} == {"book-4", "book-5"}


async def test_snapshots_of_what_cannot_be_a_collection_are_refused_by_the_field(platform: Platform) -> None:
    stub = collections_pb2_grpc.CollectionServiceStub(platform["gateway"].channel)
    with pytest.raises(InvalidArgument) as caught:
        request = collections_pb2.ListSnapshotsRequest(collection="no such/name")
        await platform["gateway"].call(stub.ListSnapshots, request, deadline=soon())
    assert caught.value.field == "collection"


async def test_an_unknown_collection_is_not_found_by_name(platform: Platform) -> None:
    with pytest.raises(NotFound, match="atlantis"):
        await search(platform, query="sea", collection="atlantis")


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (Document(id="", text="no name"), "documents[1].id"),
        (Document(id="book-0", text="again"), "documents[1].id"),
        (Document(id="empty"), "documents[1].text"),
        (
            Document(id="typed", text="x", metadata={"year": Value(string_value="1999")}),
            "documents[1].metadata.year",
        ),
        (
            Document(id="valueless", text="x", metadata={"year": Value()}),
            "documents[1].metadata.year",
        ),
    ],
    ids=["no id", "duplicate id", "no text", "other type", "no value"],
)
async def test_a_bad_document_is_named_and_the_index_stays_as_it_was(
    platform: Platform, bad: Document, field: str
) -> None:
    await index(platform, *BOOKS)
    with pytest.raises(InvalidArgument) as caught:
        await index(platform, BOOKS[0], bad)
    assert caught.value.field == field
    assert await count(platform) == len(BOOKS)


async def test_a_call_that_is_not_utf8_is_refused_by_the_name_of_its_field(platform: Platform) -> None:
    raw = platform["gateway"].channel.unary_unary("/sluice.gateway.v1.DocumentService/IndexDocuments")
    bad = documents_pb2.IndexDocumentsRequest(documents=[Document(id="a", text="fine"), Document(id="b", text="QQQQ")])
    with pytest.raises(Exception, match=r"documents\[1\]\.text: is not valid UTF-8"):
        await raw(bad.SerializeToString().replace(b"QQQQ", b"\xc3\x28\xa0\xa1"), timeout=5)


async def test_text_in_metadata_that_is_not_utf8_is_found_too(platform: Platform) -> None:
    raw = platform["gateway"].channel.unary_unary("/sluice.gateway.v1.DocumentService/IndexDocuments")
    bad = Document(id="a", text="fine", metadata={"author": Value(string_value="QQQQ")})
    message = documents_pb2.IndexDocumentsRequest(documents=[bad]).SerializeToString()
    with pytest.raises(Exception, match=r"documents\[0\]\.metadata\.author\.string_value: is not valid UTF-8"):
        await raw(message.replace(b"QQQQ", b"\xc3\x28\xa0\xa1"), timeout=5)


async def create(platform: Platform, fingerprint: str, dimension: int = 384) -> None:
    stub = retriever_pb2_grpc.RetrieverServiceStub(platform["retriever"].channel)
    model = model_pb2.ModelInfo(name="other", fingerprint=fingerprint, dimension=dimension)
    request = retriever_pb2.CreateCollectionRequest(collection="documents", model=model)
    await platform["retriever"].call(stub.CreateCollection, request, deadline=soon())


async def test_an_index_built_by_another_model_gets_none_of_this_model_s_vectors(platform: Platform) -> None:
    await create(platform, fingerprint="made-by-another-model")
    by_words_alone = await search(platform, query="sea")
    assert [(stage.stage, stage.reason) for stage in by_words_alone.stages if stage.reason != "FEATURE_OFF"] == [
        (stage_pb2.STAGE_EMBED, "MODEL_MISMATCH"),
        (stage_pb2.STAGE_RETRIEVE, "LEXICAL_ONLY"),
    ]
    required = search_pb2.StagePolicies(embedding=search_pb2.STAGE_POLICY_REQUIRED)
    for call in (search(platform, query="sea", policies=required), index(platform, *BOOKS)):
        with pytest.raises(FailedPrecondition) as caught:
            await call
        assert caught.value.reason == "MODEL_MISMATCH"
    assert await count(platform) == 0


@pytest.mark.parametrize("size", [4 * 383, 4 * 384 + 1, 4 * 768])
async def test_a_vector_of_a_wrong_dimension_is_refused_by_its_position(platform: Platform, size: int) -> None:
    await create(platform, fingerprint="f")
    stub = retriever_pb2_grpc.RetrieverServiceStub(platform["retriever"].channel)
    request = retriever_pb2.SearchPassagesRequest(
        collection="documents",
        variants=[retriever_pb2.QueryVariant(text="sea", vector=b"\0" * size, weight=1)],
        limit=3,
        model_fingerprint="f",
    )
    with pytest.raises(InvalidArgument) as caught:
        await platform["retriever"].call(stub.SearchPassages, request, deadline=soon())
    assert caught.value.field == "variants[0].vector"


@pytest.mark.parametrize(
    ("request_fields", "field"),
    [
        ({"texts": [], "kind": 1}, "texts"),
        ({"texts": ["fine", ""], "kind": 1}, "texts[1]"),
        ({"texts": ["fine"]}, "kind"),
        ({"texts": ["fine"], "kind": 1, "priority": 9}, "priority"),
        ({"texts": ["x"] * 1025, "kind": 1}, "texts"),
        ({"texts": ["x" * 270_000], "kind": 1}, "texts[0]"),
    ],
)
async def test_the_embedder_names_what_it_refuses(
    platform: Platform, request_fields: dict[str, Any], field: str
) -> None:
    stub = embedder_pb2_grpc.EmbedderServiceStub(platform["embedder"].channel)
    request = embedder_pb2.EmbedTextsRequest(**request_fields)
    with pytest.raises(InvalidArgument) as caught:
        await platform["embedder"].call(stub.EmbedTexts, request, deadline=soon())
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("request_fields", "field"),
    [
        ({"query": ""}, "query"),
        ({"query": "sea", "strategy": 9}, "strategy"),
        ({"query": "sea", "max_variant_count": 0}, "max_variant_count"),
        ({"query": "sea", "max_variant_count": 17}, "max_variant_count"),
    ],
)
async def test_the_expander_names_what_it_refuses(
    platform: Platform, request_fields: dict[str, Any], field: str
) -> None:
    stub = expander_pb2_grpc.ExpanderServiceStub(platform["expander"].channel)
    request = expander_pb2.ExpandQueryRequest(**request_fields)
    with pytest.raises(InvalidArgument) as caught:
        await platform["expander"].call(stub.ExpandQuery, request, deadline=soon())
    assert caught.value.field == field


async def test_a_reranker_that_is_not_there_leaves_an_answer_and_a_report(platform: Platform) -> None:
    await index(platform, *BOOKS)
    read = Features(rerank=True, rerank_method=RERANK_METHOD_CROSS_ENCODER)
    answer = await search(platform, query="sea", features=read)
    assert answer.results
    assert answer.stages[-1].outcome == search_pb2.STAGE_OUTCOME_FAILED
    required = search_pb2.StagePolicies(rerank=search_pb2.STAGE_POLICY_REQUIRED)
    with pytest.raises(SluiceError):
        await search(platform, query="sea", features=read, policies=required)


async def test_pages_go_through_the_whole_answer(platform: Platform) -> None:
    await index(platform, *BOOKS)
    found: list[str] = []
    token = ""
    while True:
        page = await search(platform, query="sea", limit=4, page_token=token)
        found += [result.passage.id for result in page.results]
        token = page.next_page_token
        if not token:
            break
    assert sorted(found) == sorted(book.id for book in BOOKS)


async def test_the_configuration_in_effect_can_be_read(platform: Platform) -> None:
    await index(platform, *BOOKS)
    config = await configuration(platform)
    stages = {stage.stage: stage for stage in config.stages}
    assert config.default_features.dense
    assert not config.default_features.rerank
    assert stages[stage_pb2.STAGE_EMBED].serving
    assert stages[stage_pb2.STAGE_EMBED].model.pseudo
    assert not stages[stage_pb2.STAGE_RERANK].serving
    assert "UNAVAILABLE" in stages[stage_pb2.STAGE_RERANK].problem
    assert config.collection.passage_count == len(BOOKS)
    assert config.collection.model.fingerprint == stages[stage_pb2.STAGE_EMBED].model.fingerprint
    assert dict(config.collection.fields) == {
        "year": filter_pb2.FIELD_TYPE_INTEGER,
        "author": filter_pb2.FIELD_TYPE_KEYWORD,
    }


async def test_deleted_documents_are_gone(platform: Platform) -> None:
    await index(platform, *BOOKS)
    stub = documents_pb2_grpc.DocumentServiceStub(platform["gateway"].channel)
    request = documents_pb2.DeleteDocumentsRequest(ids=["book-1", "book-2", "never-was"])
    reply = await platform["gateway"].call(stub.DeleteDocuments, request, deadline=soon())
    assert reply.deleted_count == 2
    assert await count(platform) == len(BOOKS) - 2


@pytest.mark.parametrize(
    ("fingerprint", "dimension", "reason"), [(None, 8, "WRONG_DIMENSION"), ("other", 384, "MODEL_MISMATCH")]
)
async def test_a_collection_that_the_vectors_do_not_fit_takes_none_of_them(
    platform: Platform, fingerprint: str | None, dimension: int, reason: str
) -> None:
    embedder = embedder_pb2_grpc.EmbedderServiceStub(platform["embedder"].channel)
    served = await platform["embedder"].call(embedder.GetModel, embedder_pb2.GetModelRequest(), deadline=soon())
    model = model_pb2.ModelInfo(
        name="mini", fingerprint=fingerprint or served.model.fingerprint, dimension=dimension, precision="fp32"
    )
    retriever = retriever_pb2_grpc.RetrieverServiceStub(platform["retriever"].channel)
    request = retriever_pb2.CreateCollectionRequest(collection="documents", model=model)
    await platform["retriever"].call(retriever.CreateCollection, request, deadline=soon())
    with pytest.raises(FailedPrecondition) as refused:
        await index(platform, *BOOKS)
    assert refused.value.reason == reason
    assert await count(platform) == 0
