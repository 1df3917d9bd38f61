from __future__ import annotations

import asyncio
import re
import textwrap
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sluice_client
from services.chassis import errors
from sluice.gateway.v1 import documents_pb2, search_pb2
from sluice.type.v1 import features_pb2, filter_pb2
from sluice_client import (
    AsyncClient,
    Chunk,
    Chunking,
    Counts,
    Document,
    Features,
    FieldCounts,
    FieldType,
    Filter,
    Indexed,
    NotStored,
    Outcome,
    Passage,
    Policies,
    Policy,
    QueryVector,
    SluiceError,
    Stage,
    ValueCount,
    field,
    indexing,
    none_of,
)
from tests.contract.canned_gateway import CannedGateway, canned_gateway

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
async def gateway() -> AsyncIterator[CannedGateway]:
    async with canned_gateway() as running:
        yield running


@pytest.fixture
async def client(gateway: CannedGateway) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(gateway.address) as opened:
        yield opened


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "FIRST_BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(indexing, "LONGEST_BACKOFF_SECONDS", 0.002)


def _documents(count: int) -> list[Document]:
    return [Document(f"d{number}", f"Title {number}", "some text") for number in range(count)]


# Searching


async def test_what_is_not_said_stays_unset_on_the_wire(gateway: CannedGateway, client: AsyncClient) -> None:
    await client.search("why?")
    (request,) = gateway.requests
    assert request == search_pb2.SearchRequest(query="why?")


async def test_everything_that_is_said_reaches_the_gateway(gateway: CannedGateway, client: AsyncClient) -> None:
    await client.search(
        "why?",
        limit=3,
        collection="papers",
        filter=Filter(
            must=[field("year") >= 2020, field("kind") == "class"],
            should=[field("lang").any_of("en", "de"), field("score") < 0.5],
            must_not=[field("draft") == True, field("note").exists(), field("title").missing()],  # noqa: E712
        ),
        user_id="ada",
        features=sluice_client.features(
            dense=False, rerank=True, expansion_strategy="multi_query", max_variant_count=4
        ),
        policies=Policies(rerank=Policy.REQUIRED, embedding=Policy.BEST_EFFORT),
        collapse_duplicates=True,
        page_token="7",
    )
    expected = search_pb2.SearchRequest(
        query="why?",
        limit=3,
        collection="papers",
        filter=filter_pb2.Filter(
            must=[
                filter_pb2.Condition(field="year", integer_range=filter_pb2.IntegerRange(gte=2020)),
                filter_pb2.Condition(field="kind", equals=filter_pb2.Value(string_value="class")),
            ],
            should=[
                filter_pb2.Condition(
                    field="lang",
                    any_of=filter_pb2.ValueList(values=[filter_pb2.Value(string_value=lang) for lang in ("en", "de")]),
                ),
                filter_pb2.Condition(field="score", range=filter_pb2.Range(lt=0.5)),
            ],
            must_not=[
                filter_pb2.Condition(field="draft", equals=filter_pb2.Value(bool_value=True)),
                filter_pb2.Condition(field="note", exists=True),
                filter_pb2.Condition(field="title", exists=False),
            ],
        ),
        user_id="ada",
        features=Features(
            dense=False,
            rerank=True,
            expansion_strategy=features_pb2.EXPANSION_STRATEGY_MULTI_QUERY,
            max_variant_count=4,
        ),
        policies=search_pb2.StagePolicies(
            rerank=search_pb2.STAGE_POLICY_REQUIRED, embedding=search_pb2.STAGE_POLICY_BEST_EFFORT
        ),
        page_token="7",
        collapse_duplicates=True,
    )
    assert gateway.requests == [expected]


async def test_an_answer_says_what_every_stage_thought_and_did(gateway: CannedGateway, client: AsyncClient) -> None:
    await client.index(_documents(2))
    answer = await client.search("why?")
    first, second = answer.results
    assert (first.passage, first.rank) == (Passage("d0", "d0", "Title 0", "some text", {}), 1)
    assert (first.scores.retrieval, first.scores.retrieval_rank, first.scores.rerank) == (0.5, 3, 4.5)
    assert (first.scores.late, first.scores.relevance) == (0.75, 0.5)
    assert (second.scores.rerank, second.scores.late, second.scores.relevance) == (None, None, None)
    expand, embed, _, rerank = answer.stages
    assert (expand.stage, expand.outcome, expand.reason) == (Stage.EXPAND, Outcome.DEGRADED, "OTHER_STRATEGY_SERVED")
    assert (embed.duration, embed.model, embed.item_count) == (timedelta(milliseconds=10.5), "all-MiniLM-L6-v2", 3)
    assert (rerank.stage, rerank.outcome) == ("rerank", "skipped")
    assert answer.features == gateway.config.default_features
    assert (answer.collection, answer.index_version) == ("documents", "documents@1")
    assert answer.request_id == gateway.request_ids[-1]


async def test_what_only_a_newer_gateway_knows_is_unknown_and_not_an_error(
    gateway: CannedGateway, client: AsyncClient
) -> None:
    gateway.stages = [search_pb2.StageReport(stage=99, outcome=98)]  # type: ignore[arg-type]
    (report,) = (await client.search("why?")).stages
    assert (report.stage, report.outcome) == (Stage.UNKNOWN, Outcome.UNKNOWN)


async def test_pages_follow_one_another_with_the_same_question(gateway: CannedGateway, client: AsyncClient) -> None:
    await client.index(_documents(5))
    gateway.requests.clear()
    pages = [page async for page in client.pages("why?", limit=2, features=Features(rerank=True))]
    assert [[result.passage.id for result in page.results] for page in pages] == [["d0", "d1"], ["d2", "d3"], ["d4"]]
    assert [request.page_token for request in gateway.requests] == ["", "2", "4"]
    for request in gateway.requests:
        request.page_token = ""
    assert gateway.requests == [gateway.requests[0]] * 3


async def test_all_results_come_in_one_row_and_only_wanted_pages_are_asked_for(
    gateway: CannedGateway, client: AsyncClient
) -> None:
    await client.index(_documents(9))
    ranks = []
    async for result in client.search_all("why?", limit=2):
        ranks.append(result.rank)
        if result.rank == 3:
            break
    assert ranks == [1, 2, 3]
    assert len(gateway.requests) == 3  # one stored, two pages read


# Metadata

_TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
_VALUES = st.one_of(
    _TEXTS,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.lists(_TEXTS, max_size=4),
)


@given(metadata=st.dictionaries(_TEXTS, _VALUES, max_size=6))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_metadata_comes_back_as_it_was_types_included(metadata: dict[str, sluice_client.MetadataValue]) -> None:
    async def there_and_back() -> sluice_client.Answer:
        async with canned_gateway() as gateway, AsyncClient(gateway.address) as client:
            await client.index([Document("d", text="text", metadata=metadata)])
            return await client.search("why?")

    found = asyncio.run(there_and_back()).results[0].passage.metadata
    assert found == metadata
    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in metadata.items()
    }


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "NoneType"),
        ({"a": 1}, "dict"),
        ([1, 2], "list of str"),
        (2**63, "64 bits"),
        ("\ud800", "Unicode"),
        (["fine", "\udcff"], "Unicode"),
    ],
)
async def test_a_value_that_cannot_travel_is_named_and_nothing_is_sent(
    gateway: CannedGateway, client: AsyncClient, value: sluice_client.MetadataValue, problem: str
) -> None:
    with pytest.raises(SluiceError, match=problem) as caught:
        await client.index([Document("fine", text="fine"), Document("bad", text="bad", metadata={"field": value})])
    assert caught.value.field == "documents[1].metadata.field"
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert not gateway.requests


async def test_a_question_that_cannot_travel_is_refused_with_its_field(client: AsyncClient) -> None:
    with pytest.raises(SluiceError) as caught:
        await client.search("\udcff")
    assert caught.value.field == "query"
    with pytest.raises(SluiceError) as caught:
        await client.search("why?", limit=2**40)
    assert caught.value.field == "limit"
    with pytest.raises(SluiceError) as caught:
        await client.search("why?", filter=Filter(must=[field("year") > "2020"]))  # type: ignore[operator]
    assert caught.value.field == "filter.must[0]"


# Errors


async def test_an_error_carries_code_reason_field_and_request_id(gateway: CannedGateway, client: AsyncClient) -> None:
    gateway.failures.append(errors.InvalidArgument("limit", "must be between 1 and 100, not 0", reason="OUT_OF_RANGE"))
    with pytest.raises(SluiceError) as caught:
        await client.search("why?", limit=0)
    error = caught.value
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "OUT_OF_RANGE")
    assert (error.field, error.message) == ("limit", "limit: must be between 1 and 100, not 0")
    assert error.retry_after is None
    assert error.request_id == gateway.request_ids[-1]
    assert error.request_id


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (errors.NotFound("no"), grpc.StatusCode.NOT_FOUND),
        (errors.FailedPrecondition("no", reason="MODEL_MISMATCH"), grpc.StatusCode.FAILED_PRECONDITION),
        (errors.Unavailable("no"), grpc.StatusCode.UNAVAILABLE),
        (errors.DeadlineExceeded("no"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (errors.Cancelled("no"), grpc.StatusCode.CANCELLED),
        (errors.Internal("no"), grpc.StatusCode.INTERNAL),
    ],
)
async def test_every_failure_of_the_gateway_keeps_its_code_and_reason(
    gateway: CannedGateway, client: AsyncClient, failure: errors.SluiceError, code: grpc.StatusCode
) -> None:
    gateway.failures.append(failure)
    with pytest.raises(SluiceError) as caught:
        await client.config()
    assert (caught.value.code, caught.value.reason, caught.value.message) == (code, failure.reason, "no")


async def test_a_pushback_is_waited_for_within_the_timeout_by_every_call(
    gateway: CannedGateway, client: AsyncClient
) -> None:
    busy = [errors.ResourceExhausted("busy", retry_after=0.02) for _ in range(3)]
    for call in (
        lambda: client.search("why?"),
        lambda: client.delete(["a"]),
        client.config,
        lambda: client.index([Document("a", "", "text")]),
    ):
        gateway.failures += busy
        await call()
        assert not gateway.failures


async def test_a_server_that_stays_busy_is_not_asked_beyond_the_timeout(
    gateway: CannedGateway, client: AsyncClient
) -> None:
    gateway.failures += [errors.ResourceExhausted("busy", retry_after=0.05) for _ in range(100)]
    with pytest.raises(SluiceError) as caught:
        await client.search("why?", timeout=0.5)
    assert caught.value.code in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}
    assert len(gateway.failures) > 80


async def test_a_server_without_room_is_not_asked_again(gateway: CannedGateway, client: AsyncClient) -> None:
    gateway.failures += [errors.ResourceExhausted("the disk is full") for _ in range(2)]
    with pytest.raises(SluiceError):
        await client.search("why?")
    assert len(gateway.failures) == 1


async def test_a_client_that_does_not_wait_leaves_a_busy_server_alone(gateway: CannedGateway) -> None:
    gateway.failures += [errors.ResourceExhausted("busy", retry_after=0.001) for _ in range(2)]
    async with AsyncClient(gateway.address, waits=False) as client:
        with pytest.raises(SluiceError) as caught:
            await client.search("why?")
    assert (caught.value.retry_after, len(gateway.failures)) == (0.001, 1)


async def test_pushback_is_told_in_seconds(gateway: CannedGateway, client: AsyncClient) -> None:
    gateway.failures.append(errors.ResourceExhausted("busy", retry_after=100.5))
    with pytest.raises(SluiceError) as caught:
        await client.search("why?")
    assert caught.value.retry_after == 100.5


async def test_a_gateway_that_is_not_there_is_unreachable(gateway: CannedGateway) -> None:
    async with AsyncClient("127.0.0.1:1", timeout=5) as client:
        with pytest.raises(SluiceError, match=r"127\.0\.0\.1:1 cannot be reached") as caught:
            await client.config()
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.UNAVAILABLE, "UNREACHABLE")


async def test_a_client_that_is_not_open_says_how_to_open_it() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await AsyncClient().search("why?")


# Reading back, and collections


async def test_documents_come_back_as_they_were_given_with_their_chunks(
    gateway: CannedGateway, client: AsyncClient
) -> None:
    given = Document("a", "Title", "text", {"year": 2020, "tags": ["x", "y"]})
    await client.index([given], chunking=Chunking(64))
    await client.index(_documents(1))
    found = await client.get_documents(["d0", "gone", "a"], collection="c")
    assert [stored.document for stored in found.documents] == [*_documents(1), given]
    assert [stored.chunks for stored in found.documents] == [(), (Chunk(1, 2, 0, 1),)]
    assert found.missing_ids == ("gone",)
    assert gateway.requests[-1].collection == "c"


async def test_lists_follow_their_pages_and_ask_for_no_more_than_is_wanted(
    gateway: CannedGateway, client: AsyncClient
) -> None:
    await client.index(_documents(5))
    listed = [stored.document.id async for stored in client.list_documents(page_size=2)]
    assert listed == ["d0", "d1", "d2", "d3", "d4"]
    gateway.requests.clear()
    async for _ in client.list_documents(page_size=2, filter=Filter(must=[field("year") >= 2020])):
        break
    (request,) = gateway.requests
    assert request.filter.must[0].integer_range.gte == 2020


async def test_a_collection_is_created_listed_and_deleted(gateway: CannedGateway, client: AsyncClient) -> None:
    created = await client.create_collection("papers", model="all-mpnet-base-v2")
    assert (created.collection, created.live, created.model.name) == ("papers", True, "all-MiniLM-L6-v2")
    assert gateway.requests[-1].model == "all-mpnet-base-v2"
    assert [listed.version.collection async for listed in client.list_collections()] == ["documents", "papers"]
    assert [listed.version.version async for listed in client.list_collections("papers")] == ["papers@1"]
    assert await client.delete_collection("papers") == ("papers@1",)
    assert [listed.version.collection async for listed in client.list_collections()] == ["documents"]


# Deadlines and cancellation


async def test_every_call_has_a_deadline(gateway: CannedGateway) -> None:
    async with AsyncClient(gateway.address, timeout=7, index_timeout=70) as client:
        await client.search("why?")
        await client.delete(["d0"])
        await client.config()
        await client.index(_documents(1))
        await client.search("why?", timeout=3)
    limits = [7, 7, 7, 70, 3]
    assert all(left < limit + 1 for left, limit in zip(gateway.deadlines, limits, strict=True))


async def test_a_gateway_that_does_not_answer_costs_no_more_than_the_deadline(
    gateway: CannedGateway, client: AsyncClient
) -> None:
    gateway.hang = True
    with pytest.raises(SluiceError) as caught:
        await client.search("why?", timeout=0.05)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_cancelling_the_caller_cancels_the_call_at_the_gateway(
    gateway: CannedGateway, client: AsyncClient
) -> None:
    gateway.hang = True
    asking = asyncio.create_task(client.search("why?"))
    await gateway.hanging.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.wait_for(gateway.cancelled.wait(), 10)


async def test_cancelling_a_long_storing_cancels_its_batches(gateway: CannedGateway, client: AsyncClient) -> None:
    gateway.hang = True
    storing = asyncio.create_task(client.index_all(_documents(10), batch_size=2))
    await gateway.hanging.wait()
    storing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await storing
    await asyncio.wait_for(gateway.cancelled.wait(), 10)


# Storing, deleting, configuration


async def test_one_batch_says_what_became_of_it(client: AsyncClient) -> None:
    indexed = await client.index([Document("long", text="x" * 1001), Document("short", text="x")], collection="c")
    assert indexed == Indexed(2, ("long",), "documents@1", "all-MiniLM-L6-v2")


async def test_how_documents_are_cut_is_said_and_results_say_which_part_they_are(
    gateway: CannedGateway, client: AsyncClient
) -> None:
    await client.index([Document("a", text="x")], chunking=Chunking(64, 0))
    await client.index_all([Document("b", text="x")], chunking=Chunking())
    answer = await client.search("why?", group_by_document=True)
    first, second, question = gateway.requests
    assert first.chunking == documents_pb2.Chunking(chunk_tokens=64, overlap_tokens=0)
    assert second.HasField("chunking")
    assert not second.chunking.HasField("overlap_tokens")
    assert question.group_by_document
    part, whole = answer.results
    assert part.passage.chunk == Chunk(1, 2, 0, 1)
    assert (whole.passage.document_id, whole.passage.chunk) == ("b", None)


async def test_deleting_tells_how_many_there_were(client: AsyncClient) -> None:
    await client.index(_documents(2))
    assert await client.delete(["d0", "d1", "d9"]) == 2


async def test_the_configuration_tells_what_serves(client: AsyncClient) -> None:
    config = await client.config()
    assert config.default_features.dense is True
    assert [stage.stage for stage in config.stages] == ["expand", "embed", "retrieve", "rerank"]
    assert config.stages[1].model is not None
    assert config.stages[1].model.name == "all-MiniLM-L6-v2"
    assert config.stages[3].problem == "UNAVAILABLE: nobody there"
    assert config.collection is not None
    assert config.collection.fields == {"year": "integer"}


async def _asynchronously(documents: list[Document]) -> AsyncIterator[Document]:
    for document in documents:
        yield document


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_any_number_of_documents_is_stored_in_batches(
    gateway: CannedGateway, client: AsyncClient, asynchronous: bool
) -> None:
    documents = _documents(25)
    progress: list[int] = []
    stored = await client.index_all(
        _asynchronously(documents) if asynchronous else iter(documents),
        collection="c",
        batch_size=10,
        on_progress=lambda batch, indexed: progress.append(len(batch) + indexed.indexed_count),
    )
    assert stored == 25
    assert gateway.documents.keys() == {document.id for document in documents}
    assert sorted(progress) == [10, 20, 20]
    assert {request.collection for request in gateway.requests} == {"c"}


async def test_batches_are_under_way_at_once_but_no_more_than_allowed() -> None:
    under_way = most = 0

    async def store(batch: Sequence[Document]) -> Indexed:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)  # the others begin
        under_way -= 1
        return Indexed(len(batch), (), "documents@1", "model")

    stored = await indexing.index_all(
        store, _documents(40), batch_size=2, concurrency=3, on_progress=None, on_rejected=None
    )
    assert (stored, most) == (40, 3)


async def test_no_more_is_read_than_is_about_to_be_sent(gateway: CannedGateway, client: AsyncClient) -> None:
    gateway.hang = True
    read = 0

    async def endless() -> AsyncIterator[Document]:
        nonlocal read
        while True:
            read += 1
            yield Document(f"d{read}", text="text")

    storing = asyncio.create_task(client.index_all(endless(), batch_size=10, concurrency=2))
    await gateway.hanging.wait()
    for _ in range(200):
        await asyncio.sleep(0)
    storing.cancel()
    await asyncio.wait([storing])
    assert read <= 31  # two batches under way, one waiting, and the document that showed it to be full


async def test_the_first_batches_are_small(gateway: CannedGateway, client: AsyncClient) -> None:
    await client.index_all(_documents(200), batch_size=100, concurrency=1)
    assert [len(request.documents) for request in gateway.requests] == [16, 32, 64, 88]


async def test_long_documents_make_small_batches(gateway: CannedGateway, client: AsyncClient) -> None:
    await client.index_all([Document(f"d{number}", text="x" * 45_000) for number in range(5)])
    assert sorted(len(request.documents) for request in gateway.requests) == [1, 2, 2]


async def test_a_batch_with_very_long_text_has_longer_time(gateway: CannedGateway, client: AsyncClient) -> None:
    await client.index([Document("short", text="x"), Document("long", text="x" * 1_000_000)])
    await client.index([Document("long", text="x" * 1_000_000)], timeout=30)
    assert gateway.deadlines[0] > 1000
    assert gateway.deadlines[1] < 31


async def test_a_document_that_comes_again_replaces_the_one_before(gateway: CannedGateway, client: AsyncClient) -> None:
    gateway.failures.append(errors.ResourceExhausted("busy", retry_after=0.001))
    first, again = Document("same", text="first"), Document("same", text="again")
    assert await client.index_all([first, replace(first, id="other"), again], concurrency=4) == 3
    assert gateway.documents["same"].text == "again"


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("failure", [errors.Unavailable("down"), errors.ResourceExhausted("busy", retry_after=0.001)])
async def test_a_batch_is_sent_again_while_the_gateway_is_down_or_busy(
    gateway: CannedGateway, client: AsyncClient, failure: errors.SluiceError
) -> None:
    gateway.failures.extend([failure] * 3)
    assert await client.index_all(_documents(3)) == 3
    assert len(gateway.requests) == 4


@pytest.mark.usefixtures("quick_retries")
async def test_patience_ends_and_the_error_says_what_is_not_stored(gateway: CannedGateway, client: AsyncClient) -> None:
    gateway.failures.extend([errors.Unavailable("down", reason="BREAKER_OPEN")] * 100)
    with pytest.raises(NotStored, match="3 documents, 'd0' to 'd2', could not be stored: down") as caught:
        await client.index_all(_documents(3))
    assert caught.value.reason == "BREAKER_OPEN"
    assert list(caught.value.documents) == _documents(3)
    assert len(gateway.requests) == indexing.MAX_ATTEMPTS


@pytest.mark.parametrize(
    "failure",
    [
        errors.ResourceExhausted("full"),  # no time to come back: waiting does not help
        errors.ResourceExhausted("busy", retry_after=3600),
        errors.FailedPrecondition("built by another model"),
        errors.DeadlineExceeded("late"),
        errors.Internal("our fault"),
    ],
)
async def test_what_does_not_pass_by_itself_is_not_tried_again(
    gateway: CannedGateway, client: AsyncClient, failure: errors.SluiceError
) -> None:
    gateway.failures.append(failure)
    with pytest.raises(NotStored):
        await client.index_all(_documents(3))
    assert len(gateway.requests) == 1


def test_a_pause_is_never_shorter_than_the_pushback_and_grows_without_one() -> None:
    def pause(attempt: int, retry_after: float | None) -> float | None:
        error = SluiceError(grpc.StatusCode.UNAVAILABLE, "DOWN", "down", retry_after=retry_after)
        return indexing.pause_before(error, attempt)

    assert (pause(1, 5) or 0) >= 5
    for attempt in range(1, indexing.MAX_ATTEMPTS):
        assert 0.25 <= (pause(attempt, None) or 0) <= 1.5 * indexing.LONGEST_BACKOFF_SECONDS
    assert (pause(6, None) or 0) > (pause(1, None) or 0)
    assert pause(indexing.MAX_ATTEMPTS, None) is None


async def test_the_first_refused_document_ends_a_storing(gateway: CannedGateway, client: AsyncClient) -> None:
    gateway.refused_ids = {"d4"}
    with pytest.raises(NotStored) as caught:
        await client.index_all(_documents(9), batch_size=3, concurrency=1)
    assert [document.id for document in caught.value.documents] == ["d3", "d4", "d5"]
    assert caught.value.field == "documents[1].metadata.year"
    assert list(gateway.documents) == ["d0", "d1", "d2"]


async def test_refused_documents_can_be_taken_out_while_the_others_are_stored(
    gateway: CannedGateway, client: AsyncClient
) -> None:
    gateway.refused_ids = {"d1", "d4"}
    unsendable = Document("d9", text="\ud800")
    rejected: list[tuple[str, str]] = []
    stored = await client.index_all(
        [*_documents(6), unsendable],
        batch_size=3,
        on_rejected=lambda document, error: rejected.append((document.id, error.reason)),
    )
    assert stored == 4
    assert set(gateway.documents) == {"d0", "d2", "d3", "d5"}
    assert sorted(rejected) == [("d1", "INVALID_FIELD"), ("d4", "INVALID_FIELD"), ("d9", "NOT_UTF8")]


async def test_a_source_that_breaks_breaks_the_storing_with_its_own_error(client: AsyncClient) -> None:
    def broken() -> Iterator[Document]:
        yield Document("d0", text="text")
        raise LookupError("the disk is gone")

    with pytest.raises(LookupError, match="the disk is gone"):
        await client.index_all(broken())


# Documentation


def _examples() -> list[str]:
    in_docstring = re.findall(r"(    from sluice_client import .*?)\n\n`", sluice_client.__doc__ or "", re.DOTALL)
    in_readme = [
        block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "sluice_client" in block
    ]
    assert in_docstring
    assert in_readme
    return [textwrap.dedent(in_docstring[0]), *in_readme]


async def test_the_examples_in_docstring_and_readme_run(
    gateway: CannedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    for example in _examples():
        assert "127.0.0.1:50051" in example
        here = example.replace("127.0.0.1:50051", gateway.address)
        await asyncio.to_thread(exec, here, {"__name__": "example"})
        assert "argparse" in capsys.readouterr().out, example


async def test_values_are_counted_by_field(gateway: CannedGateway, client: AsyncClient) -> None:
    counts = await client.count_by_field("kind", collection="c", filter=none_of(field("year") < 2020), limit=3)
    assert counts == Counts(
        (
            FieldCounts(
                "kind", FieldType.KEYWORD, (ValueCount("[b]class[/b]", 3), ValueCount(7, 2), ValueCount(True, 1))
            ),
        ),
        1200,
        "c",
        "documents@1",
    )
    assert gateway.requests[-1] == search_pb2.CountByFieldRequest(
        collection="c",
        fields=["kind"],
        filter=filter_pb2.Filter(
            must_not=[filter_pb2.Condition(field="year", integer_range=filter_pb2.IntegerRange(lt=2020))]
        ),
        limit=3,
    )


async def test_likeness_a_vector_diversity_and_highlights_are_sent(gateway: CannedGateway, client: AsyncClient) -> None:
    gateway.documents["d0"] = documents_pb2.Document(id="d0", text="Yes. It is so.")
    vector = QueryVector.of([1.0, -0.5], "mini")
    answer = await client.search(like_document_id="d1", vector=vector, diversity=0.0, highlights=True)
    assert answer.results[0].sentences == ["Yes."]
    assert gateway.requests[-1] == search_pb2.SearchRequest(
        like_document_id="d1",
        vector=search_pb2.QueryVector(values=b"\0\0\x80\x3f\0\0\0\xbf", model="mini"),
        diversity=0.0,
        highlights=True,
    )
    with pytest.raises(SluiceError) as refused:
        QueryVector.of([1e300], "mini")
    assert refused.value.field == "vector.values"
