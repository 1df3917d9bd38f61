"""Recording of events by the clients, against a canned gateway."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest
from typer.testing import CliRunner, Result

from services.chassis import errors
from sluice.gateway.v1 import feedback_pb2, search_pb2
from sluice_cli import calls
from sluice_cli.main import app
from sluice_client import (
    AsyncClient,
    Client,
    Document,
    Event,
    EventAction,
    EventRejectionReason,
    SluiceError,
    indexing,
)
from tests.contract.canned_gateway import CannedGateway, canned_gateway


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


def events(count: int) -> list[Event]:
    return [Event(f"r{number // 3}", EventAction.CLICK, b"t%d" % (number // 3), "a", 1) for number in range(count)]


def requests(gateway: CannedGateway) -> list[feedback_pb2.RecordEventsRequest]:
    return [request for request in gateway.requests if isinstance(request, feedback_pb2.RecordEventsRequest)]


async def test_what_was_done_with_an_answer_is_recorded_with_its_token(
    gateway: CannedGateway, client: AsyncClient
) -> None:
    await client.index([Document("a", "A", "text"), Document("b", "B", "text")])
    answer = await client.search("why?", user_id="ada")
    clicked, rated = Event.click(answer, answer.results[1]), Event.thumbs(answer, up=True)
    recorded = await client.record_events([clicked, rated])
    assert (recorded.stored_count, recorded.duplicate_count, recorded.rejections) == (2, 0, ())
    (request,) = requests(gateway)
    assert list(request.impression_tokens) == [answer.impression_token]
    assert [(event.query_id, event.object_id, event.position) for event in request.events] == [
        (answer.request_id, "b", 2),
        (answer.request_id, "", 0),
    ]
    again = await client.record_events([clicked, rated])
    assert (again.stored_count, again.duplicate_count) == (0, 2)


async def test_many_events_go_in_batches_and_their_outcomes_come_together(
    gateway: CannedGateway, client: AsyncClient
) -> None:
    given = events(2500)
    gateway.refused_ids = {given[7].event_id, given[1999].event_id}
    recorded = await client.record_events(given)
    assert [len(request.events) for request in requests(gateway)] == [1000, 1000, 500]
    assert len(requests(gateway)[0].impression_tokens) == 334
    assert recorded.stored_count == 2498
    assert [(one.index, one.reason) for one in recorded.rejections] == [
        (7, EventRejectionReason.NOT_SERVED),
        (1999, EventRejectionReason.NOT_SERVED),
    ]
    assert recorded.rejected_counts == {EventRejectionReason.NOT_SERVED: 2}


@pytest.mark.usefixtures("quick_retries")
async def test_a_gateway_that_is_away_for_a_while_gets_the_same_events_again(
    gateway: CannedGateway, client: AsyncClient
) -> None:
    gateway.failures += [errors.Unavailable("not now"), errors.Unavailable("nor now"), None]
    recorded = await client.record_events(events(3))
    assert recorded.stored_count == 3
    first, second, third = requests(gateway)
    assert first == second == third


async def test_a_gateway_that_takes_no_feedback_says_so_at_once(gateway: CannedGateway, client: AsyncClient) -> None:
    gateway.failures.append(errors.FailedPrecondition("no keys", reason="FEEDBACK_OFF"))
    with pytest.raises(SluiceError) as caught:
        await client.record_events(events(1))
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "FEEDBACK_OFF")
    assert len(requests(gateway)) == 1


async def test_no_events_are_no_request(gateway: CannedGateway, client: AsyncClient) -> None:
    assert (await client.record_events([])).stored_count == 0
    assert not requests(gateway)


async def test_the_client_without_asyncio_records_as_well(gateway: CannedGateway) -> None:

    def record() -> int:
        with Client(gateway.address) as client:
            return client.record_events(event for event in events(5)).stored_count

    assert await asyncio.to_thread(record) == 5


# The command


@pytest.fixture
def search(gateway: CannedGateway) -> Callable[..., Awaitable[Result]]:
    async def run(*arguments: str) -> Result:
        said = ["--gateway", gateway.address, "search", *arguments]
        return await asyncio.to_thread(CliRunner().invoke, app, said)

    return run


async def test_a_search_shows_its_experiment_and_records_a_click_by_hand(
    gateway: CannedGateway, client: AsyncClient, search: Callable[..., Awaitable[Result]]
) -> None:
    await client.index([Document("a", "A", "text"), Document("b", "B", "text")])
    gateway.experiments = [search_pb2.ExperimentExposure(experiment="closer-look", run_id="closer-look.1")]
    gateway.teams = {"a": "standard"}
    found = await search("why?", "--user", "ada", "--explain", "--click", "2")
    assert found.exit_code == calls.DONE, found.stderr
    assert "experiment: closer-look (interleaved)" in found.stdout
    assert "team" in found.stdout
    assert "standard" in found.stdout
    assert "recorded: result 2 was opened" in found.stderr
    (request,) = requests(gateway)
    assert [(event.object_id, event.position) for event in request.events] == [("b", 2)]
    asked = [request for request in gateway.requests if isinstance(request, search_pb2.SearchRequest)]
    assert asked[-1].user_id == "ada"


async def test_a_click_on_nothing_is_refused(gateway: CannedGateway, search: Callable[..., Awaitable[Result]]) -> None:
    assert (await search("why?", "--click", "2")).exit_code == calls.WRONG_COMMAND_LINE
    assert not requests(gateway)


async def test_the_token_of_an_answer_is_text_in_json(
    gateway: CannedGateway, search: Callable[..., Awaitable[Result]]
) -> None:
    found = json.loads((await search("why?", "--json")).stdout)
    assert base64.b64decode(found["impression_token"]) == b"signed " + gateway.request_ids[-1].encode()
