"""Server streams through the chassis: counted, logged, their errors told, and ended when the stage stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from services.chassis import errors, status
from services.chassis.client import StageChannel
from services.chassis.interceptors import REQUEST_ID, request_id
from services.chassis.metrics import ServerMetrics
from services.chassis.server import Stage, serving
from services.chassis.settings import StageSettings
from sluice.rollout.v1 import rollout_pb2 as pb
from sluice.rollout.v1 import rollout_pb2_grpc
from tests.contract.echo import Counted

SERVICE, NAME = "sluice.rollout.v1.SnapshotService", "WatchSnapshot"
METHOD = f"/{SERVICE}/{NAME}"
REQUEST = pb.WatchSnapshotRequest(gateway="g1")
Handler = Callable[[pb.WatchSnapshotRequest, Any], AsyncIterator[pb.WatchSnapshotResponse]]


class Servicer(rollout_pb2_grpc.SnapshotServiceServicer):
    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def WatchSnapshot(  # noqa: N802
        self, request: pb.WatchSnapshotRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.WatchSnapshotResponse]:
        async for reply in self._handler(request, context):
            yield reply


SETTINGS = StageSettings(grpc_port=0, metrics_port=0, drain_seconds=0, shutdown_grace_seconds=5)


def stage_of(handler: Handler, **options: Any) -> Stage:
    return Stage(
        service=pb.DESCRIPTOR.services_by_name["SnapshotService"],
        register=lambda server: rollout_pb2_grpc.add_SnapshotServiceServicer_to_server(Servicer(handler), server),
        **options,
    )


@asynccontextmanager
async def served(handler: Handler, counted: ServerMetrics | None = None) -> AsyncIterator[StageChannel]:
    async with (
        serving(stage_of(handler), SETTINGS, counted or ServerMetrics(CollectorRegistry())) as server,
        StageChannel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield channel


def watch(channel: StageChannel, seconds: float = 10, **options: Any) -> Any:
    return rollout_pb2_grpc.SnapshotServiceStub(channel.channel).WatchSnapshot(REQUEST, timeout=seconds, **options)


async def three(request: pb.WatchSnapshotRequest, _context: Any) -> AsyncIterator[pb.WatchSnapshotResponse]:
    for version in (1, 2, 3):
        yield pb.WatchSnapshotResponse(version=version, content_hash=request_id.get())


async def test_all_of_a_stream_arrives_under_one_request_id_and_is_counted_once() -> None:
    counted = Counted(SERVICE, NAME)
    async with served(three, counted.metrics) as channel:
        replies = [reply async for reply in watch(channel, metadata=((REQUEST_ID, "order-66"),))]
    assert [(reply.version, reply.content_hash) for reply in replies] == [(n, "order-66") for n in (1, 2, 3)]
    assert counted.handled("OK") == 1
    assert counted.value("grpc_server_handling_seconds_count") == 0  # the length of a stream has no meaning


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize(
    "error",
    [errors.Unavailable("a standby", reason="STANDBY", retry_after=0.5), errors.InvalidArgument("gateway", "?")],
)
async def test_an_error_in_a_stream_crosses_the_wire(error: errors.SluiceError, after: int) -> None:
    async def failing(_request: Any, _context: Any) -> AsyncIterator[pb.WatchSnapshotResponse]:
        for _ in range(after):
            yield pb.WatchSnapshotResponse()
        raise error

    seen = 0
    async with served(failing) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in watch(channel):
                seen += 1
    found = status.error_from(caught.value)
    assert (seen, type(found), found.message, found.reason) == (after, type(error), error.message, error.reason)


async def test_an_unexpected_error_in_a_stream_keeps_its_details() -> None:
    async def failing(_request: Any, _context: Any) -> AsyncIterator[pb.WatchSnapshotResponse]:
        yield pb.WatchSnapshotResponse()
        raise RuntimeError("the secret is swordfish")

    async with served(failing) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [reply async for reply in watch(channel)]
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "swordfish" not in (caught.value.details() or "")


async def test_bytes_that_are_no_request_are_refused_before_the_stream_begins() -> None:
    async with served(three) as channel:
        raw = channel.channel.unary_stream(METHOD)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [reply async for reply in raw(b"\x0a\x03\xff\xfe\xfd", timeout=5)]
    assert caught.value.details() == "gateway: is not valid UTF-8; encode text as UTF-8"


@pytest.mark.parametrize("busy", [False, True], ids=["waiting", "sending"])
async def test_a_watcher_that_leaves_ends_the_handler(busy: bool) -> None:
    ended = asyncio.Event()

    async def endless(_request: Any, _context: Any) -> AsyncIterator[pb.WatchSnapshotResponse]:
        try:
            while True:
                yield pb.WatchSnapshotResponse(content_hash="x" * 10_000)
                await asyncio.sleep(0 if busy else 30)
        finally:
            ended.set()

    counted = Counted(SERVICE, NAME)
    async with served(endless, counted.metrics) as channel:
        stream = watch(channel)
        await stream.read()
        assert counted.in_flight == 1
        stream.cancel()
        await asyncio.wait_for(ended.wait(), 5)
        await counted.all_ended()
    assert counted.handled("CANCELLED") == 1


async def test_a_stage_that_stops_ends_its_streams_and_does_not_sit_out_the_grace() -> None:
    stopping = asyncio.Event()

    async def until_stopped(_request: Any, _context: Any) -> AsyncIterator[pb.WatchSnapshotResponse]:
        yield pb.WatchSnapshotResponse(version=1)
        await stopping.wait()
        raise errors.Unavailable("this replica stops", reason="STANDBY")

    stage = stage_of(until_stopped, end_streams=stopping.set)
    server = serving(stage, SETTINGS)
    running = await server.__aenter__()
    async with StageChannel(f"127.0.0.1:{running.port}") as channel:
        stream = watch(channel, seconds=60)
        await stream.read()
        reading = asyncio.create_task(stream.read())
        await server.__aexit__(None, None, None)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reading
    assert status.error_from(caught.value).reason == "STANDBY"


async def test_a_stream_past_its_deadline_is_told_so() -> None:
    async def endless(_request: Any, _context: Any) -> AsyncIterator[pb.WatchSnapshotResponse]:
        yield pb.WatchSnapshotResponse()
        await asyncio.sleep(30)

    async with served(endless) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [reply async for reply in watch(channel, seconds=0.2)]
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
