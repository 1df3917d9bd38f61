"""The running processes as operators see them: one trace a search, the series they know, logs that tell no secrets."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from deploy.local.stack import SEARCHED, LocalStack
from drills.observe.collector import Collector, served
from services.chassis.client import StageChannel
from sluice.gateway.v1 import documents_pb2, search_pb2
from sluice.type.v1 import features_pb2
from tests.registry import STAGES
from tests.stubs import GatewayStubs

SECRET = "zanzibar"
LIGHT_STAGE_MIB = 200


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def collector() -> AsyncIterator[Collector]:
    async with Collector() as collector:
        yield collector


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalStack]:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "INFO",
    }
    data = tmp_path_factory.mktemp("observability")
    async with LocalStack(name="test-observability", environment=environment, data=data) as stack:
        yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def answer(stack: LocalStack) -> search_pb2.SearchResponse:
    """One search with every feature on, over a small index."""
    async with StageChannel(stack.address("gateway")) as channel:
        stubs = GatewayStubs(channel.channel)
        documents = [
            documents_pb2.Document(id=str(number), text=f"A sentence about {SECRET} number {number}.")
            for number in range(20)
        ]
        await channel.call(
            stubs.documents.IndexDocuments,
            documents_pb2.IndexDocumentsRequest(documents=documents),
            deadline=time.monotonic() + 60,
        )
        # The token model and the cross-encoder both have a part in a cascade.
        everything = features_pb2.Features(
            expansion=True,
            multi_hop=True,
            rerank=True,
            rerank_method=features_pb2.RERANK_METHOD_CASCADE,
        )
        request = search_pb2.SearchRequest(query=f"buy a used car in {SECRET}", features=everything)
        return await channel.call(stubs.search.Search, request, deadline=time.monotonic() + 60)


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_every_stage_runs_on_the_real_models(answer: search_pb2.SearchResponse) -> None:
    assert [report.outcome for report in answer.stages] == [search_pb2.STAGE_OUTCOME_RAN] * 5
    assert len(answer.results) == 10


async def test_one_search_is_one_trace_through_all_stages(
    collector: Collector, answer: search_pb2.SearchResponse
) -> None:
    services = {f"sluice-{stage}" for stage in SEARCHED}
    spans = await collector.search_of(answer.request_id, services)
    by_id = {each.span.span_id: each for each in spans}
    own = served(spans)
    assert set(own) == services
    for name, each in own.items():
        if name != "sluice-gateway":
            parent = by_id[each.span.parent_span_id]
            assert (parent.service, parent.span.kind) == ("sluice-gateway", Span.SPAN_KIND_CLIENT)
            assert by_id[parent.span.parent_span_id] is own["sluice-gateway"]


async def test_every_named_series_is_there(stack: LocalStack, answer: search_pb2.SearchResponse) -> None:
    for stage in STAGES:
        page = await asyncio.to_thread(read, stack.metrics_url(stage.name))
        for series in (*stage.metrics, "grpc_server_started_total", "grpc_server_handled_total"):
            assert f"# TYPE {series.removesuffix('_total')}" in page.replace("_total", ""), (stage.name, series)


async def test_logs_are_json_with_one_request_id_through_all_stages_and_no_query(
    stack: LocalStack, answer: search_pb2.SearchResponse
) -> None:
    for stage in SEARCHED:
        lines = [json.loads(line) for line in stack.log(stage).read_text().splitlines()]
        calls = [line for line in lines if line["event"] == "call" and line.get("request_id") == answer.request_id]
        assert calls, f"{stage} logged no call of request {answer.request_id}"
        assert all(line["stage"] == stage and line["trace_id"] and line["code"] == "OK" for line in calls)
        assert SECRET not in stack.log(stage).read_text()


async def test_light_stages_stay_light(stack: LocalStack, answer: search_pb2.SearchResponse) -> None:
    resident = {stage: resident_mib(stack.pid(stage)) for stage in ("gateway", "expander", "retriever")}
    assert all(mib < LIGHT_STAGE_MIB for mib in resident.values()), resident


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as page:
        content: bytes = page.read()
    return content.decode()


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return int(kilobytes) / 1024
