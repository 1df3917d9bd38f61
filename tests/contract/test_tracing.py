"""Traces through a real server and a real client, and the metrics that go with them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan, sampling
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_trace_id
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.openmetrics.exposition import generate_latest

from services.chassis import errors, tracing
from services.chassis.client import StageChannel
from services.inference.metrics import InferenceMetrics, SchedulerTelemetry
from services.inference.scheduling import Lane, Scheduler, SchedulerLimits, Work
from sluice.expander.v1 import expander_pb2, expander_pb2_grpc
from tests.contract.echo import Counted, echo_server

REQUEST = expander_pb2.ExpandQueryRequest(query="anything")
REPLY = expander_pb2.ExpandQueryResponse()
METHOD = "sluice.expander.v1.ExpanderService/ExpandQuery"
TRACE = "ab" * 16
SAMPLED = f"00-{TRACE}-{'cd' * 8}-01"
UNSAMPLED = f"00-{TRACE}-{'cd' * 8}-00"


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    """Recorded spans: all but those of a caller that does not sample."""
    exporter = InMemorySpanExporter()
    with tracing.recording("test", SimpleSpanProcessor(exporter), sampling.DEFAULT_ON):
        yield exporter


async def call(channel: StageChannel, seconds: float = 5.0) -> None:
    stub = expander_pb2_grpc.ExpanderServiceStub(channel.channel)
    await channel.call(stub.ExpandQuery, REQUEST, deadline=time.monotonic() + seconds)


async def fine(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
    return REPLY


async def ended(exporter: InMemorySpanExporter, count: int) -> list[ReadableSpan]:
    async with asyncio.timeout(5):
        while len(exporter.get_finished_spans()) < count:
            await asyncio.sleep(0.01)
    return list(exporter.get_finished_spans())


async def test_a_call_below_another_is_one_trace_of_three_spans(exported: InMemorySpanExporter) -> None:
    async with echo_server(fine) as behind:

        async def passing_on(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
            await call(behind)
            return REPLY

        async with echo_server(passing_on) as channel:
            await call(channel)
    inner, out, outer = await ended(exported, 3)
    assert [span.kind for span in (inner, out, outer)] == [SpanKind.SERVER, SpanKind.CLIENT, SpanKind.SERVER]
    assert inner.parent is not None
    assert out.parent is not None
    assert (inner.parent.span_id, out.parent.span_id) == (out.context.span_id, outer.context.span_id)
    assert {span.name for span in (inner, out, outer)} == {METHOD}
    assert {dict(span.attributes or {})["rpc.response.status_code"] for span in (inner, out, outer)} == {"OK"}


async def test_a_caller_that_leaves_ends_all_spans_as_cancelled(exported: InMemorySpanExporter) -> None:
    started = asyncio.Event()

    async def slow(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
        started.set()
        await asyncio.sleep(30)
        return REPLY

    async with echo_server(slow) as behind:

        async def passing_on(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
            await call(behind, 20)
            return REPLY

        async with echo_server(passing_on) as channel:
            calling = asyncio.create_task(call(channel, 20))
            await started.wait()
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
            spans = await ended(exported, 3)
    assert {dict(span.attributes or {})["rpc.response.status_code"] for span in spans} == {"CANCELLED"}
    assert {span.status.status_code for span in spans} == {StatusCode.ERROR}


@pytest.mark.parametrize("recording", [True, False])
async def test_a_trace_that_is_not_recorded_here_still_reaches_the_next_stage(recording: bool) -> None:
    seen: list[str] = []
    exporter = InMemorySpanExporter()

    async def note(_request: Any, context: grpc.aio.ServicerContext) -> expander_pb2.ExpandQueryResponse:
        seen.extend(str(text) for key, text in context.invocation_metadata() or () if key == "traceparent")
        return REPLY

    async def drive() -> None:
        async with echo_server(note) as behind:

            async def passing_on(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
                await call(behind)
                return REPLY

            async with echo_server(passing_on) as channel:
                stub = expander_pb2_grpc.ExpanderServiceStub(channel.channel)
                given = UNSAMPLED if recording else SAMPLED
                await stub.ExpandQuery(REQUEST, timeout=5, metadata=(("traceparent", given),))

    if recording:
        with tracing.recording("test", SimpleSpanProcessor(exporter), sampling.DEFAULT_ON):
            await drive()
    else:
        await drive()
    (passed,) = seen
    assert passed.split("-")[1::2] == [TRACE, "00" if recording else "01"]
    assert exporter.get_finished_spans() == ()


async def test_a_call_outside_of_a_trace_carries_no_trace_header() -> None:
    seen: list[str] = []

    async def note(_request: Any, context: grpc.aio.ServicerContext) -> expander_pb2.ExpandQueryResponse:
        seen.extend(key for key, _ in context.invocation_metadata() or ())
        return REPLY

    async with echo_server(note) as channel:
        await call(channel)
    assert "traceparent" not in seen


async def test_a_retry_of_grpc_is_counted_as_one() -> None:
    counted = Counted()
    answers = iter([True, False])

    async def once_unavailable(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
        if next(answers):
            raise errors.Unavailable("a moment")
        return REPLY

    async with echo_server(once_unavailable, counted.metrics) as server:
        retrying = {"name": [{}], "retryPolicy": {
            "maxAttempts": 2, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }}  # fmt: skip
        options = [("grpc.service_config", json.dumps({"methodConfig": [retrying]}))]
        async with grpc.aio.insecure_channel(server.address, options=options) as channel:
            await expander_pb2_grpc.ExpanderServiceStub(channel).ExpandQuery(REQUEST, timeout=5)
    assert counted.value("grpc_server_retried_total") == 1


async def test_what_a_deadline_leaves_is_counted_where_there_is_one() -> None:
    counted = Counted()
    async with echo_server(fine, counted.metrics) as channel:
        await call(channel)
        await expander_pb2_grpc.ExpanderServiceStub(channel.channel).ExpandQuery(REQUEST)
    assert counted.value("sluice_deadline_left_seconds_count") == 1
    assert counted.value("grpc_server_started_total") == 2


async def test_calls_at_the_same_time_are_all_counted_and_none_stays_in_flight() -> None:
    counted = Counted()
    async with echo_server(fine, counted.metrics) as channel:
        await asyncio.gather(*(call(channel) for _ in range(5)))
        await counted.all_ended()
    assert (counted.handled("OK"), counted.in_flight) == (5, 0)


async def test_latencies_carry_recorded_traces_as_exemplars(exported: InMemorySpanExporter) -> None:
    counted = Counted()
    async with echo_server(fine, counted.metrics) as channel:
        await call(channel)
    (span,) = await ended(exported, 1)
    page = generate_latest(counted.registry).decode()
    assert f'trace_id="{format_trace_id(span.context.trace_id)}"' in page


async def test_calls_and_the_batch_that_serves_them_are_linked_both_ways(exported: InMemorySpanExporter) -> None:
    def compute(rows: Sequence[str]) -> list[str]:
        return [row.upper() for row in rows]

    registry = CollectorRegistry()
    telemetry = SchedulerTelemetry(InferenceMetrics(registry), Histogram("rows", "Rows.", registry=registry))
    async with Scheduler(compute, SchedulerLimits(), telemetry, on_death=print) as scheduler:
        with tracing.server_span("test/Call", [("traceparent", SAMPLED)], "r1"):
            works = [Work(key=text, payload=text, token_count=1) for text in ("a", "b")]
            assert await scheduler.submit(works, lane=Lane.INTERACTIVE, caller="me") == ["A", "B"]
    spans = {span.name: span for span in exported.get_finished_spans()}
    batch, served = spans["batch"], spans["test/Call"]
    assert [link.context.span_id for link in batch.links] == [served.context.span_id]
    assert [link.context.span_id for link in served.links] == [batch.context.span_id]
    assert batch.parent is None
    assert dict(batch.attributes or {})["sluice.rows"] == 2


class Broken(SpanExporter):
    """A collector that takes nothing."""

    def __init__(self) -> None:
        self.asked = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked += 1
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        pass


def test_a_collector_that_is_down_gets_every_span_counted_as_lost_and_is_not_waited_for() -> None:
    fates: list[tuple[str, int]] = []
    broken = Broken()
    processor = tracing.BoundedProcessor(broken, lambda fate, count: fates.append((fate, count)))
    with tracing.recording("test", processor, sampling.DEFAULT_ON):
        for number in range(3 * tracing.SPANS_AN_EXPORT):
            with tracing.server_span("test/Call", (), str(number)):
                pass
        processor.shutdown()
    assert sum(count for _, count in fates) == 3 * tracing.SPANS_AN_EXPORT
    assert {fate for fate, _ in fates} == {"lost"}
