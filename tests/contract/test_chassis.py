"""The chassis, shown on a stage that does nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs
from structlog.typing import EventDict

from services.chassis import errors, status
from services.chassis.admission.cgroups import resident_bytes
from services.chassis.admission.concurrency import ConcurrencyLimit, LimitBounds
from services.chassis.breaker import Breaker
from services.chassis.client import StageChannel
from services.chassis.errors import SluiceError
from services.chassis.health import serves
from services.chassis.interceptors import REQUEST_ID, request_id
from services.chassis.metrics import ServerMetrics
from services.chassis.server import serving
from services.chassis.settings import StageSettings
from sluice.expander.v1 import expander_pb2, expander_pb2_grpc
from tests.contract.echo import METHOD, SERVICE, Counted, EchoServicer, echo_server, echo_stage

REQUEST = expander_pb2.ExpandQueryRequest(query="anything")
REPLY = expander_pb2.ExpandQueryResponse()


async def call(channel: StageChannel, seconds: float = 5.0) -> expander_pb2.ExpandQueryResponse:
    stub = expander_pb2_grpc.ExpanderServiceStub(channel.channel)
    return await channel.call(stub.ExpandQuery, REQUEST, deadline=time.monotonic() + seconds)


def raising(error: BaseException) -> Any:
    async def handler(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
        raise error

    return handler


ERRORS = [
    errors.InvalidArgument("query", "is empty"),
    errors.NotFound("no collection of that name", reason="UNKNOWN_COLLECTION", collection="docs"),
    errors.AlreadyExists("taken"),
    errors.FailedPrecondition("built by another model", reason="MODEL_MISMATCH"),
    errors.ResourceExhausted("full", retry_after=0.25),
    errors.Unavailable("Qdrant is down"),
    errors.DeadlineExceeded("too late"),
    errors.Unimplemented("not here"),
    errors.Cancelled("given up"),
    errors.Internal("ours"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_an_error_crosses_the_wire_and_comes_back_the_same(error: SluiceError) -> None:
    async with echo_server(raising(error)) as channel:
        with pytest.raises(SluiceError) as caught:
            await call(channel)
    assert type(caught.value) is type(error)
    assert caught.value.message == error.message
    assert caught.value.reason == error.reason
    assert caught.value.metadata == error.metadata


async def test_a_shed_call_carries_its_pushback() -> None:
    async with echo_server(raising(errors.ResourceExhausted("full", retry_after=0.25))) as channel:
        stub = expander_pb2_grpc.ExpanderServiceStub(channel.channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ExpandQuery(REQUEST, timeout=5)
        assert dict(caught.value.trailing_metadata() or ())["grpc-retry-pushback-ms"] == "250"
        with pytest.raises(errors.ResourceExhausted) as shed:
            await call(channel)
    assert shed.value.retry_after == pytest.approx(0.25)


async def test_an_open_breaker_says_when_to_come_back_and_is_not_retried_by_grpc_itself() -> None:
    async with echo_server(
        raising(errors.Unavailable("not called", reason="BREAKER_OPEN", retry_after=42.0))
    ) as channel:
        stub = expander_pb2_grpc.ExpanderServiceStub(channel.channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ExpandQuery(REQUEST, timeout=5)
        assert dict(caught.value.trailing_metadata() or ())["grpc-retry-pushback-ms"] == "-1"
        with pytest.raises(errors.Unavailable) as refused:
            await call(channel)
    assert refused.value.retry_after == pytest.approx(42.0)


async def test_a_field_with_an_endless_name_is_still_an_invalid_argument() -> None:
    async with echo_server(raising(errors.InvalidArgument("metadata." + "é" * 4000, "has no value"))) as channel:
        with pytest.raises(errors.InvalidArgument, match="metadata"):
            await call(channel)


def of_level(lines: list[EventDict], *levels: str) -> list[EventDict]:
    return [line for line in lines if line["log_level"] in levels]


async def test_the_details_of_an_unexpected_error_are_in_the_log_and_not_in_the_reply() -> None:
    fault = RuntimeError("the secret is swordfish")
    with capture_logs() as lines:
        async with echo_server(raising(fault)) as channel:
            with pytest.raises(errors.Internal) as caught:
                await call(channel)
    assert "swordfish" not in str(caught.value)
    (logged,) = of_level(lines, "error")
    assert logged["exc_info"] is fault


async def test_the_cause_of_an_error_is_logged_once_by_the_stage_that_met_it() -> None:
    async def failing(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
        raise errors.Unavailable("the database is down") from ConnectionRefusedError("port 5432")

    with capture_logs() as lines:
        async with echo_server(failing) as behind:

            async def passing_on(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
                return await call(behind)

            async with echo_server(passing_on) as channel:
                with pytest.raises(errors.Unavailable):
                    await call(channel)
    (logged,) = of_level(lines, "warning", "error")
    assert (logged["problem"], logged["cause"]) == ("the database is down", "ConnectionRefusedError: port 5432")


async def test_the_text_of_a_foreign_error_stays_out_of_the_log() -> None:
    async def failing(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
        raise errors.Internal("the database makes no sense") from ValueError("cannot store 'the secret is swordfish'")

    with capture_logs() as lines:
        async with echo_server(failing) as channel:
            with pytest.raises(errors.Internal):
                await call(channel)
    (logged,) = of_level(lines, "error")
    assert logged["cause"] == "ValueError"
    assert "swordfish" not in str(lines)


async def test_the_cause_of_an_unreachable_stage_is_logged_by_its_caller() -> None:
    async def passing_on(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
        async with StageChannel("127.0.0.1:1") as nowhere:
            return await call(nowhere)

    with capture_logs() as lines:
        async with echo_server(passing_on) as channel:
            with pytest.raises(errors.Unavailable):
                await call(channel)
    (logged,) = of_level(lines, "warning", "error")
    assert logged["cause"].startswith("UNAVAILABLE: ")


@pytest.mark.parametrize("code", [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED])
async def test_a_stage_that_does_not_take_its_caller_opens_no_breaker(code: grpc.StatusCode) -> None:
    async def refusing(_request: Any, context: Any) -> expander_pb2.ExpandQueryResponse:
        await context.abort(code, "not you")
        return REPLY

    server = grpc.aio.server()
    expander_pb2_grpc.add_ExpanderServiceServicer_to_server(EchoServicer(refusing), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with StageChannel(f"127.0.0.1:{port}", breaker=Breaker("expander", failures=5)) as channel:
            for _ in range(6):
                with pytest.raises(SluiceError) as caught:
                    await call(channel)
    finally:
        await server.stop(None)
    assert (status.code_of(caught.value), caught.value.reason) == (grpc.StatusCode.UNAVAILABLE, "STAGE_REFUSES")
    assert caught.value.message.endswith("not you")


async def test_the_errors_of_requests_name_the_field_in_a_bad_request_detail() -> None:
    async with echo_server(raising(errors.InvalidArgument("texts[3]", "is empty"))) as channel:
        stub = expander_pb2_grpc.ExpanderServiceStub(channel.channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ExpandQuery(REQUEST, timeout=5)
    raw = dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"]
    details = status_pb2.Status.FromString(raw).details
    bad_request = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad_request) for detail in details)
    assert bad_request.field_violations[0].field == "texts[3]"


async def test_text_that_is_not_utf8_is_refused_by_the_name_of_its_field() -> None:
    async with echo_server(raising(AssertionError("never called"))) as channel:
        raw = channel.channel.unary_unary(METHOD)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw(b"\x0a\x03\xff\xfe\xfd", timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "query: is not valid UTF-8; encode text as UTF-8"


async def test_bytes_that_are_no_message_are_refused_and_not_a_server_error() -> None:
    async with echo_server(raising(AssertionError("never called"))) as channel:
        raw = channel.channel.unary_unary(METHOD)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw(b"\xff\xff\xff\xff", timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("error", [None, *ERRORS], ids=lambda error: type(error).__name__)
async def test_every_call_is_counted_once_with_its_code_and_leaves_none_in_flight(error: SluiceError | None) -> None:
    counted = Counted()
    seen: list[float] = []

    async def handler(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
        seen.append(counted.in_flight)
        if error is not None:
            raise error
        return REPLY

    async with echo_server(handler, counted.metrics) as channel:
        with contextlib.suppress(SluiceError):
            await call(channel)
        await counted.all_ended()
    code = "OK" if error is None else status.code_of(error).name
    assert seen == [1]
    assert counted.handled(code) == counted.handled(*(each.name for each in grpc.StatusCode)) == 1


async def test_a_slow_call_ends_at_its_deadline_and_is_counted() -> None:
    counted = Counted()
    cancelled = asyncio.Event()

    async def slow(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
        try:
            await asyncio.sleep(30)
        finally:
            cancelled.set()
        return REPLY

    async with echo_server(slow, counted.metrics) as channel:
        with pytest.raises(errors.DeadlineExceeded):
            await call(channel, seconds=0.1)
        await asyncio.wait_for(cancelled.wait(), 5)
        await counted.all_ended()
    # The server sees its own deadline or the caller's end of the call, whichever comes first.
    assert counted.handled("DEADLINE_EXCEEDED", "CANCELLED") == 1


async def test_a_caller_that_leaves_cancels_the_work_and_is_counted() -> None:
    counted = Counted()
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def slow(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
        started.set()
        try:
            await asyncio.sleep(30)
        finally:
            cancelled.set()
        return REPLY

    async with echo_server(slow, counted.metrics) as channel:
        calling = asyncio.create_task(call(channel, seconds=20))
        await started.wait()
        assert counted.in_flight == 1
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await asyncio.wait_for(cancelled.wait(), 5)
        await counted.all_ended()
    assert counted.handled("CANCELLED") == 1


@pytest.mark.parametrize("bulk", [False, True])
async def test_a_call_over_the_limit_is_refused_before_its_handler_where_none_may_wait_and_says_when_to_come_back(
    bulk: bool,
) -> None:
    entered, release = list[int](), asyncio.Event()

    async def slow(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
        entered.append(1)
        await release.wait()
        return REPLY

    # Interactive calls may use all places, and bulk calls half of them.
    places = 4 if bulk else 2
    limit = ConcurrencyLimit(
        LimitBounds(places, places, places, bulk_share=0.5, queue=0), on_change=lambda _limit: None
    )
    async with echo_server(slow, limit=limit, bulk_methods=frozenset({"ExpandQuery"} if bulk else ())) as channel:
        calls = [asyncio.create_task(call(channel)) for _ in range(2)]
        async with asyncio.timeout(5):
            while len(entered) < 2:
                await asyncio.sleep(0.01)
        with pytest.raises(errors.ResourceExhausted) as refused:
            await call(channel)
        release.set()
        assert await asyncio.gather(*calls) == [REPLY, REPLY]
    assert refused.value.retry_after is not None
    assert len(entered) == 2


async def test_calls_over_the_limit_wait_for_their_turn_and_all_are_answered() -> None:
    busy = most = 0

    async def slow(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0.01)
        busy -= 1
        return REPLY

    limit = ConcurrencyLimit(LimitBounds(4, 4, 4), on_change=lambda _limit: None)
    async with echo_server(slow, limit=limit) as channel:
        assert await asyncio.gather(*(call(channel, seconds=10) for _ in range(100))) == [REPLY] * 100
    assert most == 4


async def test_a_large_message_is_refused_by_name_while_another_one_is_served() -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    async def slow(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
        entered.set()
        await release.wait()
        return REPLY

    large = expander_pb2.ExpandQueryRequest(query="x" * (10 * 2**20))
    settings = StageSettings(grpc_port=0, metrics_port=0, drain_seconds=0, memory_mib=resident_bytes() // 2**20 + 300)
    async with (
        serving(echo_stage(slow), settings, ServerMetrics(CollectorRegistry())) as server,
        StageChannel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = expander_pb2_grpc.ExpanderServiceStub(channel.channel)
        first = asyncio.create_task(channel.call(stub.ExpandQuery, large, deadline=time.monotonic() + 20))
        await asyncio.wait_for(entered.wait(), 20)
        with pytest.raises(errors.ResourceExhausted) as refused:
            await channel.call(stub.ExpandQuery, large, deadline=time.monotonic() + 20)
        small = asyncio.create_task(call(channel))
        await asyncio.sleep(0)
        release.set()
        assert await asyncio.gather(first, small) == [REPLY, REPLY]
    assert refused.value.reason == "MEMORY_BUDGET"


async def test_refused_calls_leave_nothing_of_their_messages_in_memory() -> None:
    large = expander_pb2.ExpandQueryRequest(query="x" * (8 * 2**20))

    async def handler(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
        raise errors.InvalidArgument("query", "is not liked")

    async with echo_server(handler) as channel:
        stub = expander_pb2_grpc.ExpanderServiceStub(channel.channel)

        async def refused() -> None:
            with pytest.raises(errors.InvalidArgument):
                await channel.call(stub.ExpandQuery, large, deadline=time.monotonic() + 20)

        for _ in range(3):
            await refused()
        gc.collect()
        gc.disable()  # memory must not wait for it
        try:
            before = resident_bytes()
            for _ in range(20):
                await refused()
            grown = resident_bytes() - before
        finally:
            gc.enable()
    assert grown < 6 * 8 * 2**20


async def test_a_call_without_a_message_is_an_invalid_argument() -> None:
    async with echo_server(raising(AssertionError("never called"))) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.channel.stream_unary(METHOD)(iter(()), timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_handler_that_cancels_itself_does_not_leave_the_caller_hanging() -> None:
    async with echo_server(raising(asyncio.CancelledError())) as channel:
        with pytest.raises(errors.Cancelled):
            await call(channel, seconds=5)


async def test_a_stage_that_is_not_there_is_unavailable() -> None:
    async with StageChannel("127.0.0.1:1") as channel:
        with pytest.raises(errors.Unavailable):
            await call(channel, seconds=2)


async def fine(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
    return REPLY


async def outcome(channel: StageChannel) -> str:
    """OK, or the reason of the error."""
    try:
        await call(channel)
    except SluiceError as error:
        return error.reason
    return "OK"


async def until(channel: StageChannel, wanted: str, seconds: float = 30.0) -> None:
    """Call until a call ends so."""
    async with asyncio.timeout(seconds):
        while await outcome(channel) != wanted:
            await asyncio.sleep(0.02)


async def test_a_stage_that_was_away_is_called_again_as_soon_as_it_serves() -> None:
    async with serving(echo_stage(fine), StageSettings(grpc_port=0, metrics_port=0, drain_seconds=0)) as running:
        settings = StageSettings(grpc_port=running.port, metrics_port=0, drain_seconds=0)
    breaker = Breaker("expander", reset_seconds=3600)
    async with StageChannel(f"127.0.0.1:{settings.grpc_port}", service=SERVICE, breaker=breaker) as channel:
        await until(channel, "BREAKER_OPEN")
        async with serving(echo_stage(fine), settings):
            await until(channel, "OK")
    assert breaker.state == "closed"


async def test_a_stage_that_says_that_it_does_not_serve_opens_no_breaker() -> None:
    problem: list[str | None] = [None]
    settings = StageSettings(grpc_port=0, metrics_port=0, drain_seconds=0)
    breaker = Breaker("expander")
    async with (
        serving(echo_stage(fine, problem=lambda: problem[0]), settings) as running,
        StageChannel(f"127.0.0.1:{running.port}", service=SERVICE, breaker=breaker) as channel,
    ):
        assert await outcome(channel) == "OK"
        problem[0] = "Qdrant is down"
        await until(channel, "NOT_SERVING")
        assert [await outcome(channel) for _ in range(10)] == ["NOT_SERVING"] * 10
        assert breaker.state == "closed"
        problem[0] = None
        await until(channel, "OK")


async def test_the_request_id_goes_along_and_strange_ones_are_replaced() -> None:
    seen: list[str] = []

    async def note(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
        seen.append(request_id.get())
        return REPLY

    async with echo_server(note) as channel:
        stub = expander_pb2_grpc.ExpanderServiceStub(channel.channel)
        await stub.ExpandQuery(REQUEST, timeout=5, metadata=((REQUEST_ID, "order-66"),))
        await stub.ExpandQuery(REQUEST, timeout=5, metadata=((REQUEST_ID, 'x" , "admin": "yes'),))
    assert seen[0] == "order-66"
    assert len(seen[1]) == 32


async def test_health_follows_the_stage_and_reflection_lists_it() -> None:
    problem: list[str | None] = [None]

    async def fine(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
        return REPLY

    service = "sluice.expander.v1.ExpanderService"
    async with echo_server(fine, problem=lambda: problem[0]) as channel:
        assert await channel.health(service, deadline=time.monotonic() + 5) is None
        problem[0] = "the index is gone"
        async with asyncio.timeout(5):
            while await channel.health(service, deadline=time.monotonic() + 5) is None:
                await asyncio.sleep(0.05)
        # What a liveness probe asks: no restart would bring the index back.
        assert await channel.health("grpc.health.v1.Health", deadline=time.monotonic() + 5) is None
        stub = reflection_pb2_grpc.ServerReflectionStub(channel.channel)
        listing = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        async for reply in listing:
            names = {found.name for found in reply.list_services_response.service}
            break
    assert {service, "grpc.health.v1.Health"} <= names


async def test_a_container_without_a_client_of_grpc_asks_for_health_by_the_images_own_python() -> None:
    problem: list[str | None] = [None]

    async def fine(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
        return REPLY

    settings = StageSettings(grpc_port=0, metrics_port=0, drain_seconds=0)
    async with serving(echo_stage(fine, problem=lambda: problem[0]), settings) as server:
        assert await asyncio.to_thread(serves, server.port)
        problem[0] = "the index is gone"
        async with asyncio.timeout(10):
            while await asyncio.to_thread(serves, server.port):
                await asyncio.sleep(0.05)
    assert not await asyncio.to_thread(serves, server.port)


async def test_calls_in_flight_finish_while_the_stage_drains() -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def slow(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
        started.set()
        await release.wait()
        return REPLY

    settings = StageSettings(grpc_port=0, metrics_port=0, drain_seconds=0.2)
    server = serving(echo_stage(slow), settings)
    running = await server.__aenter__()
    async with StageChannel(f"127.0.0.1:{running.port}") as channel:
        calling = asyncio.create_task(call(channel))
        await started.wait()
        stopping = asyncio.create_task(server.__aexit__(None, None, None))
        async with asyncio.timeout(5):
            while (await channel.health("", deadline=time.monotonic() + 1)) != "NOT_SERVING":
                await asyncio.sleep(0.02)
        release.set()
        assert await calling == REPLY
        await stopping


async def test_a_call_outlives_the_age_of_its_connection_however_long_it_takes() -> None:
    peers: list[str] = []
    began, release = asyncio.Event(), asyncio.Event()

    async def handler(request: Any, context: Any) -> expander_pb2.ExpandQueryResponse:
        peers.append(context.peer())
        if request.query == "long":
            began.set()
            await release.wait()
        return REPLY

    # Calls used to get as long as a stop gives them.
    settings = StageSettings(
        grpc_port=0, metrics_port=0, drain_seconds=0, max_connection_age_seconds=0.3, shutdown_grace_seconds=0.1
    )
    async with (
        serving(echo_stage(handler), settings) as running,
        StageChannel(f"127.0.0.1:{running.port}") as channel,
    ):
        stub = expander_pb2_grpc.ExpanderServiceStub(channel.channel)
        long = expander_pb2.ExpandQueryRequest(query="long")
        calling = asyncio.create_task(channel.call(stub.ExpandQuery, long, deadline=time.monotonic() + 60))
        await began.wait()
        async with asyncio.timeout(30):
            while len(set(peers)) < 4:  # three more connections have come, so the first was to go long ago
                await call(channel)
                await asyncio.sleep(0.02)
        release.set()
        assert await calling == REPLY


async def test_a_taken_port_is_a_clear_start_up_error() -> None:
    async def fine(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
        return REPLY

    first = StageSettings(grpc_port=0, metrics_port=0, drain_seconds=0)
    async with serving(echo_stage(fine), first) as running:
        second = StageSettings(grpc_port=running.port, metrics_port=0, drain_seconds=0)
        with pytest.raises(errors.StartupError, match="GRPC_PORT"):
            async with serving(echo_stage(fine), second):
                pass
