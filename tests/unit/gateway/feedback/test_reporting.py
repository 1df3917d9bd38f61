from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from services.chassis.errors import Internal, InvalidArgument, SluiceError, Unavailable
from services.gateway.feedback import reporting
from services.gateway.feedback.reporting import MOST_FAULTS, MOST_IN_A_BATCH, MOST_WAITING, Reporting
from services.gateway.metrics import GatewayMetrics
from sluice.rollout.v1 import feedback_pb2 as pb
from sluice.type.v1.impression_pb2 import Impression


class Store:
    """Takes batches, and fails as it is told: over the first batches, and over all that hold certain impressions."""

    def __init__(self, failures: Sequence[Exception] = (), over: Mapping[str, SluiceError] | None = None) -> None:
        self.tried: list[list[str]] = []
        self.stored: list[str] = []
        self.registry = CollectorRegistry()
        self.reporting = Reporting(self, GatewayMetrics(self.registry))
        self._failures = list(failures)
        self._over = over or {}

    async def __call__(self, request: pb.StoreFeedbackRequest) -> None:
        ids = [served.impression.query_id for served in request.impressions]
        self.tried.append(ids)
        if self._failures:
            raise self._failures.pop(0)
        for query_id in ids:
            if query_id in self._over:
                raise self._over[query_id]
        self.stored += ids

    def add(self, *ids: str) -> None:
        for query_id in ids:
            self.reporting.add(pb.ServedImpression(impression=Impression(query_id=query_id)))

    def count(self, outcome: str) -> float:
        return self.registry.get_sample_value("sluice_feedback_impressions_total", {"outcome": outcome}) or 0

    async def until(self, *ids: str) -> None:
        async with asyncio.timeout(20):
            while self.stored != list(ids):
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.reporting.running():
            yield


async def test_impressions_are_sent_in_their_order_while_it_runs() -> None:
    store = Store()
    async with store.running():
        store.add("a", "b")
        await store.until("a", "b")
        store.add("c")
        await store.until("a", "b", "c")
    assert store.count("stored") == 3


async def test_what_waits_at_the_end_is_sent() -> None:
    store = Store()
    async with store.running():
        store.add("a")
    assert store.stored == ["a"]


async def test_a_batch_that_failed_is_sent_again_as_it_was() -> None:
    store = Store([Unavailable("the rollout service is away")])
    async with store.running():
        store.add("a", "b")
        async with asyncio.timeout(20):
            while not store.tried:
                await asyncio.sleep(0.01)
        store.add("c")
        await store.until("a", "b", "c")
    assert store.tried == [["a", "b"], ["a", "b"], ["c"]]
    assert (store.count("failed"), store.count("stored"), store.count("lost")) == (2, 3, 0)


@pytest.mark.parametrize("error", [InvalidArgument("impressions", "is wrong"), RuntimeError("a fault of ours")])
async def test_a_batch_that_is_refused_is_lost_and_counted(error: Exception) -> None:
    store = Store([error])
    async with store.running():
        store.add("a")
        async with asyncio.timeout(20):
            while not store.tried:
                await asyncio.sleep(0.01)
        store.add("b")
        await store.until("b")
    assert (store.count("lost"), store.count("stored")) == (1, 1)


@pytest.fixture
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(reporting, "_LONGEST_PAUSE_SECONDS", 0.002)


@pytest.mark.usefixtures("without_pauses")
@pytest.mark.parametrize("error", [Internal("it fails"), InvalidArgument("impressions[2]", "is wrong")])
async def test_an_impression_that_is_never_taken_is_lost_alone_and_blocks_nothing(error: SluiceError) -> None:
    store = Store(over={"c": error})
    with capture_logs() as lines:
        async with store.running():
            store.add("a", "b", "c", "d", "e")
            await store.until("a", "b", "d", "e")
            store.add("f")
            await store.until("a", "b", "d", "e", "f")
    assert (store.count("lost"), store.count("stored")) == (1, 5)
    assert [(line["event"], line["count"]) for line in lines if line["log_level"] == "error"] == [
        ("impressions lost", 1)
    ]


@pytest.mark.usefixtures("without_pauses")
async def test_what_is_lost_of_one_batch_is_logged_once() -> None:
    store = Store(over=dict.fromkeys(("a", "c"), InvalidArgument("impressions", "is wrong")))
    with capture_logs() as lines:
        async with store.running():
            store.add("a", "b", "c")
            await store.until("b")
            store.add("d")
            await store.until("b", "d")
    assert [line["count"] for line in lines if line["log_level"] == "error"] == [2]


@pytest.mark.usefixtures("without_pauses")
async def test_faults_that_pass_lose_nothing() -> None:
    away, fault = Unavailable("the rollout service is away"), Internal("it fails")
    store = Store([*[fault] * (MOST_FAULTS - 1), *[away] * (MOST_FAULTS + 1)])
    async with store.running():
        store.add("a", "b")
        await store.until("a", "b")
    assert store.tried == [["a", "b"]] * (2 * MOST_FAULTS + 1)
    assert store.count("lost") == 0


@pytest.mark.usefixtures("without_pauses")
async def test_a_part_waits_for_a_control_plane_that_is_away() -> None:
    away, fault = Unavailable("the rollout service is away"), Internal("it fails")
    store = Store([*[fault] * MOST_FAULTS, *[away] * (MOST_FAULTS + 1)])
    async with store.running():
        store.add("a", "b")
        await store.until("a", "b")
    assert store.count("lost") == 0


async def test_without_the_control_plane_the_end_does_not_wait_and_room_is_bounded() -> None:
    away = [Unavailable("the rollout service is away")] * 1000
    store = Store(away)
    async with store.running():
        store.add(*map(str, range(MOST_WAITING + 7)))
    assert store.count("lost") == 7
    assert all(len(batch) <= MOST_IN_A_BATCH for batch in store.tried)
