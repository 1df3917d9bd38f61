"""Searches with more than a question, through all stages: likeness, own vectors, diversity, highlights, counts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from services.chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from services.chassis.validation import MAX_QUERY_BYTES
from sluice.gateway.v1 import search_pb2, search_pb2_grpc
from sluice.gateway.v1.documents_pb2 import Document
from sluice.retriever.v1 import retriever_pb2, retriever_pb2_grpc
from sluice.type.v1 import stage_pb2
from sluice.type.v1.filter_pb2 import Condition, Filter, Value
from sluice_cli.search.conditions import parse_filter
from tests.contract.conftest import Platform
from tests.contract.test_bad_input import BOOKS, index, search, soon

VECTOR = np.linspace(-1, 1, 384, dtype="<f4").tobytes()


ASKED = (stage_pb2.STAGE_EXPAND, stage_pb2.STAGE_EMBED, stage_pb2.STAGE_RETRIEVE, stage_pb2.STAGE_RERANK)


def outcomes(answer: search_pb2.SearchResponse) -> list[str]:
    """The reasons of the stages that these tests speak of; a platform may have more (see the recipe of a stage)."""
    assert [report.stage for report in answer.stages if report.stage in ASKED] == list(ASKED)
    return [report.reason for report in answer.stages if report.stage in ASKED]


async def model(platform: Platform) -> str:
    await index(platform, *BOOKS)
    return next(report.model for report in (await search(platform, query="sea")).stages if report.model)


async def test_what_is_like_a_document_is_found_without_a_question(platform: Platform) -> None:
    await index(platform, *BOOKS)
    answer = await search(platform, like_document_id="book-1", highlights=True, limit=3)
    assert len(answer.results) == 3
    assert "book-1" not in [result.passage.id for result in answer.results]
    assert outcomes(answer) == ["NO_QUERY", "NO_QUERY", "", "FEATURE_OFF"]
    following = await search(
        platform, like_document_id="book-1", highlights=True, limit=3, page_token=answer.next_page_token
    )
    found = [result.passage.id for page in (answer, following) for result in page.results]
    assert sorted(found) == [book.id for book in BOOKS if book.id != "book-1"]
    with pytest.raises(NotFound, match="'book-77'") as missing:
        await search(platform, like_document_id="book-77")
    assert missing.value.reason == "DOCUMENT_NOT_FOUND"


async def test_a_vector_of_the_caller_s_own_is_searched_by(platform: Platform) -> None:
    name = await model(platform)
    own = search_pb2.QueryVector(values=VECTOR, model=name)
    answer = await search(platform, vector=own)
    assert (len(answer.results), outcomes(answer)[1]) == (len(BOOKS), "CALLER_VECTOR")
    for wrong, field in ((b"123", "vector.values"), (VECTOR[:8], "vector.values"), (bytes(1536), "vector.values")):
        with pytest.raises(InvalidArgument) as refused:
            await search(platform, vector=search_pb2.QueryVector(values=wrong, model=name))
        assert refused.value.field == field
    with pytest.raises(FailedPrecondition, match="not of 'another'") as other:
        await search(platform, vector=search_pb2.QueryVector(values=VECTOR, model="another"))
    assert other.value.reason == "MODEL_MISMATCH"


async def test_results_are_diversified_and_their_sentences_named(platform: Platform) -> None:
    await index(platform, *BOOKS)
    plain = await search(platform, query="storm part 3", limit=6)
    diverse = await search(platform, query="storm part 3", limit=6, diversity=1.0, highlights=True)
    assert {one.passage.id: one.score for one in diverse.results} == {
        one.passage.id: one.score for one in plain.results
    }
    assert diverse.results[0].passage.id == plain.results[0].passage.id
    best = diverse.results[0]
    assert [best.passage.text[one.start : one.end] for one in best.highlights] == [best.passage.text]
    assert best.highlights[0].score == pytest.approx(1.0)


async def test_two_searches_in_one_call_of_the_retriever_are_answered_as_two(platform: Platform) -> None:
    await index(platform, *BOOKS)
    retriever = platform["retriever"]
    stub = retriever_pb2_grpc.RetrieverServiceStub(retriever.channel)

    async def found(request: retriever_pb2.SearchPassagesRequest) -> retriever_pb2.SearchPassagesResponse:
        reply: retriever_pb2.SearchPassagesResponse = await retriever.call(
            stub.SearchPassages, request, deadline=soon()
        )
        for one in (reply, reply.beside):
            one.ClearField("search_duration")
        return reply

    def searching(text: str, limit: int) -> retriever_pb2.SearchPassagesRequest:
        variants = [retriever_pb2.QueryVariant(text=text, weight=1.0)]
        return retriever_pb2.SearchPassagesRequest(collection="documents", variants=variants, limit=limit)

    one, other = searching("storm", 3), searching("sea", 2)
    expected = await found(one)
    expected.beside.CopyFrom(await found(other))
    expected.beside.ClearField("beside")
    one.beside.CopyFrom(other)
    assert await found(one) == expected
    one.beside.limit = 0
    with pytest.raises(InvalidArgument) as refused:
        await found(one)
    assert refused.value.field == "limit"


async def test_passages_are_counted_by_field(platform: Platform) -> None:
    await index(platform, *BOOKS)
    stub = search_pb2_grpc.SearchServiceStub(platform["gateway"].channel)
    recent = Condition(filter=Filter(must_not=[Condition(field="year", equals=Value(integer_value=1900))]))
    request = search_pb2.CountByFieldRequest(fields=["author", "year"], filter=Filter(must=[recent]), limit=2)
    counted = await platform["gateway"].call(stub.CountByField, request, deadline=soon())
    author, year = counted.fields
    assert [(one.value.string_value, one.passage_count) for one in author.values] == [("Ada", 5)]
    assert (len(year.values), counted.passage_count, counted.collection) == (2, 5, "documents")
    with pytest.raises(InvalidArgument) as refused:
        await platform["gateway"].call(
            stub.CountByField, search_pb2.CountByFieldRequest(fields=["pages"]), deadline=soon()
        )
    assert refused.value.field == "fields[0]"


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (["n>=9007199254740993"], ["b"]),
        (["n<9007199254740993"], ["a"]),
        (["day>=2024-05-01"], ["b"]),
        (["day<2024-05-01T00:00:00Z", "n>0"], ["a"]),
    ],
)
async def test_dates_and_wide_whole_numbers_are_told_apart_from_the_command_line_to_the_engine(
    platform: Platform, conditions: list[str], expected: list[str]
) -> None:
    days = {"a": ("2024-04-30", 2**53), "b": ("2024-05-01", 2**53 + 1)}
    documents = [
        Document(id=name, text="sea", metadata={"day": Value(string_value=day), "n": Value(integer_value=number)})
        for name, (day, number) in days.items()
    ]
    await index(platform, *documents)
    parsed = parse_filter(conditions)
    assert parsed is not None
    answer = await search(platform, query="sea", filter=parsed.to_proto("filter"))
    assert [result.passage.id for result in answer.results] == expected


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({}, "query"),
        ({"query": " ", "like_document_id": "a"}, "query"),
        ({"query": "x" * (MAX_QUERY_BYTES + 1), "like_document_id": "a"}, "query"),
        ({"like_document_id": "a##2"}, "like_document_id"),
        ({"like_document_id": "a" * 600}, "like_document_id"),
        ({"vector": search_pb2.QueryVector(model="m")}, "vector.values"),
        ({"vector": search_pb2.QueryVector(values=VECTOR)}, "vector.model"),
        ({"query": "sea", "diversity": 1.1}, "diversity"),
        ({"query": "sea", "diversity": math.nan}, "diversity"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_its_field(
    platform: Platform, request_: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await search(platform, **request_)
    assert refused.value.field == field
