"""The clients for code without asyncio: the same surface, errors and deadlines."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from services.chassis import errors
from sluice_client import (
    AsyncClient,
    AsyncRolloutClient,
    Client,
    Document,
    Features,
    RolloutClient,
    SluiceError,
    Tls,
)
from tests.contract.canned_gateway import CannedGateway, canned_gateway
from tests.contract.canned_operations import canned_operations


@pytest.fixture
async def gateway() -> AsyncIterator[CannedGateway]:
    async with canned_gateway() as running:
        yield running


@pytest.mark.parametrize(("sync", "asynchronous"), [(Client, AsyncClient), (RolloutClient, AsyncRolloutClient)])
def test_both_clients_have_the_same_methods_with_the_same_arguments(sync: type, asynchronous: type) -> None:
    def surface(client: type) -> dict[str, inspect.Signature]:
        methods = inspect.getmembers(client, inspect.isfunction)
        return {name: inspect.signature(method) for name, method in methods if not name.startswith("_")}

    assert surface(sync) == surface(asynchronous)
    assert inspect.signature(sync) == inspect.signature(asynchronous)


async def test_a_search_and_a_storing_need_no_event_loop(gateway: CannedGateway) -> None:
    def work() -> list[str]:
        with Client(gateway.address) as client:
            stored = client.index_all(Document(f"d{number}", text="text") for number in range(5))
            assert stored == 5
            answer = client.search("why?", features=Features(rerank=True), timeout=7)
            assert answer.results[0].passage.id == "d0"
            assert client.count_by_field("kind").fields[0].field == "kind"
            return [result.passage.id for result in client.search_all("why?", limit=2)]

    assert await asyncio.to_thread(work) == ["d0", "d1", "d2", "d3", "d4"]
    assert gateway.deadlines[1] < 8
    assert gateway.requests[1].features.rerank


async def test_an_error_is_the_same_as_with_asyncio(gateway: CannedGateway) -> None:
    gateway.failures.append(errors.InvalidArgument("limit", "must be between 1 and 100, not 0", reason="OUT_OF_RANGE"))

    def work() -> SluiceError:
        with Client(gateway.address) as client, pytest.raises(SluiceError) as caught:
            client.search("why?", limit=0)
        return caught.value

    error = await asyncio.to_thread(work)
    assert (error.code, error.reason, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "OUT_OF_RANGE", "limit")


async def test_several_threads_share_a_client(gateway: CannedGateway) -> None:
    def work() -> list[str]:
        with Client(gateway.address) as client, futures.ThreadPoolExecutor(8) as pool:
            client.index([Document("d0", text="text")])
            answers = pool.map(lambda number: client.search(f"question {number}"), range(40))
            return [answer.results[0].passage.id for answer in answers]

    assert await asyncio.to_thread(work) == ["d0"] * 40


async def test_closing_ends_the_thread_and_the_calls_of_others(gateway: CannedGateway) -> None:
    gateway.hang = True
    client = Client(gateway.address)
    client.__enter__()
    names = {thread.name for thread in threading.enumerate()}
    asking = asyncio.create_task(asyncio.to_thread(client.search, "why?"))
    await gateway.hanging.wait()
    await asyncio.to_thread(client.__exit__)
    with pytest.raises((SluiceError, futures.CancelledError, asyncio.CancelledError)):
        await asking
    assert "sluice-client" in names
    assert "sluice-client" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(RuntimeError, match="with Client"):
        client.search("why?")


def test_a_client_that_cannot_open_says_so_and_leaves_nothing() -> None:
    gone = Path("/nowhere/ca.pem")
    with pytest.raises(FileNotFoundError), Client(tls=Tls(gone, gone, gone)):
        raise AssertionError("unreachable")
    assert "sluice-client" not in {thread.name for thread in threading.enumerate()}


async def test_rollouts_are_commanded_without_an_event_loop() -> None:
    async with canned_operations() as service:

        def work() -> list[str]:
            with RolloutClient(service.address, actor="ann") as rollout:
                for name in ("a", "b", "c"):
                    rollout.create(name, Features(rerank=True), reason="x")
                rollout.kill("b", reason="enough")
                assert list(rollout.history()) == []
                return [f"{feature.name} {feature.state}" for feature in rollout.features().features]

        assert await asyncio.to_thread(work) == ["a ready", "b killed", "c ready"]
