"""The pool against a server that speaks Qdrant's protocol, on real sockets."""

import asyncio
import time
from contextlib import suppress

import grpc
import pytest
from prometheus_client import CollectorRegistry
from qdrant_client import grpc as api

from services.chassis.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from services.retriever.engines.server import ServerStore
from services.retriever.engines.server.pool import QdrantPool
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings
from tests.qdrant_server import QdrantServer

# Seconds after which an open breaker lets a probe through.
AT_ONCE = 1e-6


@pytest.fixture
async def server():
    async with QdrantServer() as server:
        yield server


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
async def pool_with(server, registry):
    """Makes pools that fail fast, and closes them."""
    pools = []

    def make(**settings):
        fast = {"qdrant_pool_retry_enabled": False, "qdrant_pool_retry_delay": 0.01, "qdrant_pool_timeout": 5}
        where = {"qdrant_url": server.url, "qdrant_grpc_port": server.port}
        pools.append(QdrantPool(RetrieverSettings(**(where | fast | settings)), RetrieverMetrics(registry)))
        return pools[-1]

    yield make
    for pool in pools:
        await pool.close()


def ping(client):
    return client.ask(client.collections.List, api.ListCollectionsRequest())


async def call(pool, operation=ping, within=60.0):
    return await pool.call(operation, deadline=time.monotonic() + within)


class Gate:
    """A fault that holds every call until it is opened; questions for health are held and not counted."""

    def __init__(self, server):
        self.entered = 0
        self.open = asyncio.Event()
        server.fault = self

    async def __call__(self, method, _context):
        self.entered += method != "HealthCheck"
        await self.open.wait()

    async def holds(self, calls):
        async with asyncio.timeout(60):
            while self.entered < calls:
                await asyncio.sleep(0.001)


def fail_with(server, code, details="", trailers=(), times=None):
    """Lets the server answer the next calls, all of them or `times`, with a status."""
    left = times

    async def fault(_method, context):
        nonlocal left
        if left is None or left > 0:
            left = None if left is None else left - 1
            await context.abort(code, details, trailers)

    server.fault = fault


async def trip(pool, server, failures=5):
    fail_with(server, grpc.StatusCode.UNAVAILABLE)
    for _ in range(failures):
        with pytest.raises(Unavailable):
            await call(pool)


async def test_a_pool_of_n_is_n_connections(server, pool_with, registry):
    pool = pool_with(qdrant_pool_size=4)
    gate = Gate(server)
    calls = [asyncio.create_task(call(pool)) for _ in range(20)]
    await gate.holds(4)
    while registry.get_sample_value("qdrant_pool_waiting") < 16:  # the others are in the pool, and stay there
        await asyncio.sleep(0.001)
    assert gate.entered == 4
    assert len(server.peers) == 4
    assert registry.get_sample_value("qdrant_pool_size") == 4
    gate.open.set()
    await asyncio.gather(*calls)
    assert len(server.peers) == 4
    assert registry.get_sample_value("qdrant_pool_waiting") == 0


async def test_waiting_for_a_connection_ends_at_the_pool_s_timeout(server, pool_with):
    pool = pool_with(qdrant_pool_size=1, qdrant_pool_timeout=0.05)
    gate = Gate(server)
    held = asyncio.create_task(call(pool))
    await gate.holds(1)
    with pytest.raises(ResourceExhausted, match="QDRANT_POOL_SIZE") as refusal:
        await call(pool)
    assert refusal.value.reason == "POOL_EXHAUSTED"
    gate.open.set()
    await held
    await call(pool)


async def test_waiting_for_a_connection_ends_at_the_deadline(server, pool_with):
    pool = pool_with(qdrant_pool_size=1)
    gate = Gate(server)
    held = asyncio.create_task(call(pool))
    await gate.holds(1)
    with pytest.raises(DeadlineExceeded):
        await call(pool, within=0.05)
    gate.open.set()
    await held


async def test_no_connection_is_lost_to_cancellations_and_timeouts(server, pool_with, registry):
    pool = pool_with(qdrant_pool_size=2, qdrant_pool_timeout=0.001)
    gate = Gate(server)
    held = [asyncio.create_task(call(pool)) for _ in range(2)]
    await gate.holds(2)
    for round_ in range(50):
        waiting = [asyncio.create_task(call(pool)) for _ in range(20)]
        await asyncio.sleep(0.001 * (round_ % 3))
        for task in waiting[::2]:
            task.cancel()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {asyncio.CancelledError, ResourceExhausted}
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)

    assert registry.get_sample_value("qdrant_pool_waiting") == 0
    gate.entered = 0
    both = [asyncio.create_task(call(pool)) for _ in range(2)]
    await gate.holds(2)
    gate.open.set()
    await asyncio.gather(*both)


async def test_a_cancelled_call_is_cancelled_at_the_server(server, pool_with):
    pool = pool_with()
    gate = Gate(server)
    task = asyncio.create_task(call(pool))
    await gate.holds(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while not server.cancelled:
        await asyncio.sleep(0.001)


async def test_a_call_ends_at_its_deadline_on_both_sides(server, pool_with):
    pool = pool_with()
    Gate(server)
    with pytest.raises(DeadlineExceeded):
        await call(pool, within=0.1)
    while not server.cancelled:
        await asyncio.sleep(0.001)


async def test_a_call_without_a_deadline_ends_all_the_same(server, pool_with):
    pool = pool_with(qdrant_timeout=0.1)
    Gate(server)
    with pytest.raises(DeadlineExceeded):
        await pool.call(ping)


async def test_an_outage_is_retried(server, pool_with, registry):
    pool = pool_with(qdrant_pool_retry_enabled=True, qdrant_pool_max_retries=3)
    fail_with(server, grpc.StatusCode.UNAVAILABLE, times=3)
    await call(pool)
    assert server.calls["List"] == 4
    assert registry.get_sample_value("qdrant_retry_attempts_total") == 3


async def test_retries_end_with_the_error_of_the_last_try(server, pool_with):
    pool = pool_with(qdrant_pool_retry_enabled=True, qdrant_pool_max_retries=2)
    fail_with(server, grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(Unavailable) as failure:
        await call(pool)
    assert failure.value.reason == "DEPENDENCY_DOWN"
    assert server.calls["List"] == 3


async def test_retries_can_be_turned_off(server, pool_with):
    pool = pool_with(qdrant_pool_retry_enabled=False)
    fail_with(server, grpc.StatusCode.UNAVAILABLE, times=1)
    with pytest.raises(Unavailable):
        await call(pool)
    assert server.calls["List"] == 1


async def test_no_retry_begins_after_the_deadline(server, pool_with, monkeypatch):
    monkeypatch.setattr("random.uniform", lambda _low, high: high)
    pool = pool_with(qdrant_pool_retry_enabled=True, qdrant_pool_max_retries=10, qdrant_pool_retry_delay=60)
    fail_with(server, grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(Unavailable):
        await call(pool, within=30)
    assert server.calls["List"] == 1


async def test_no_connection_is_held_between_retries(server, pool_with):
    pool = pool_with(qdrant_pool_size=1, qdrant_pool_retry_enabled=True, qdrant_pool_retry_delay=60)
    fail_with(server, grpc.StatusCode.UNAVAILABLE, times=1)
    pausing = asyncio.create_task(call(pool, within=600))
    while not server.calls:
        await asyncio.sleep(0.001)
    await call(pool)
    pausing.cancel()


@pytest.mark.parametrize(
    ("code", "details", "trailers", "error", "reason"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "bad", (), InvalidArgument, "QDRANT_REFUSED"),
        (grpc.StatusCode.NOT_FOUND, "", (), NotFound, "NOT_FOUND"),
        (grpc.StatusCode.INTERNAL, "a panic", (), Internal, "INTERNAL"),
        (grpc.StatusCode.UNKNOWN, "", (), Internal, "INTERNAL"),
        (grpc.StatusCode.CANCELLED, "shutting down", (), Unavailable, "DEPENDENCY_DOWN"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", (), DeadlineExceeded, "DEADLINE_EXCEEDED"),
        (grpc.StatusCode.UNAUTHENTICATED, "", (), FailedPrecondition, "QDRANT_DENIED"),
        (grpc.StatusCode.PERMISSION_DENIED, "", (), FailedPrecondition, "QDRANT_DENIED"),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED, "Rate limiting exceeded", (("retry-after", "7"),),
            ResourceExhausted, "RATE_LIMITED",
        ),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Rate limiting exceeded", (), ResourceExhausted, "RATE_LIMITED"),
        (
            grpc.StatusCode.INTERNAL, "Failed to propose operation: leader is not established", (),
            Unavailable, "NO_MAJORITY",
        ),
        (
            grpc.StatusCode.PERMISSION_DENIED, "Max points count limit of 10 reached in strict mode", (),
            FailedPrecondition, "COLLECTION_LIMIT",
        ),
        (
            grpc.StatusCode.INTERNAL, "No space left on device: WAL buffer size exceeds available disk space", (),
            ResourceExhausted, "STORAGE_FULL",
        ),
    ],
)  # fmt: skip
async def test_what_qdrant_says_becomes_an_error_of_ours(server, pool_with, code, details, trailers, error, reason):
    pool = pool_with(qdrant_pool_retry_enabled=True)
    fail_with(server, code, details, trailers)
    with pytest.raises(error) as failure:
        await call(pool)
    assert failure.value.reason == reason
    assert details == "" or details not in failure.value.message
    assert server.calls["List"] == (4 if error is Unavailable else 1)


async def test_a_rate_limit_says_when_to_come_back_and_a_full_disk_does_not(server, pool_with):
    pool = pool_with()
    fail_with(server, grpc.StatusCode.RESOURCE_EXHAUSTED, "Rate limiting exceeded", (("retry-after", "7"),))
    with pytest.raises(ResourceExhausted) as limited:
        await call(pool)
    fail_with(server, grpc.StatusCode.INTERNAL, "No space left on device")
    with pytest.raises(ResourceExhausted) as full:
        await call(pool)
    assert (limited.value.retry_after, full.value.retry_after) == (7.0, None)


async def test_the_breaker_opens_when_qdrant_goes_away_and_closes_when_it_is_back(server, pool_with, registry):
    pool = pool_with(qdrant_breaker_reset_seconds=AT_ONCE)
    await call(pool)
    await server.stop()
    for _ in range(5):
        with pytest.raises(Unavailable) as failure:
            await call(pool)
        assert failure.value.reason == "DEPENDENCY_DOWN"
    assert registry.get_sample_value("qdrant_circuit_breaker_open") == 1

    await server.start()
    while registry.get_sample_value("qdrant_circuit_breaker_open"):  # gRPC has its own pause before it connects again
        with suppress(Unavailable):
            await call(pool)
        await asyncio.sleep(0.01)
    assert registry.get_sample_value("qdrant_circuit_breaker_transitions_total", {"state": "closed"}) == 1


async def test_the_breaker_lets_calls_through_as_soon_as_qdrant_answers_for_its_health(server, pool_with):
    pool = pool_with(qdrant_breaker_reset_seconds=3600)
    await call(pool)
    await server.stop()
    for _ in range(6):
        with pytest.raises(Unavailable) as failure:
            await call(pool)
    assert failure.value.reason == "BREAKER_OPEN"
    await server.start()
    async with asyncio.timeout(30):
        while True:
            with suppress(Unavailable):
                await call(pool)
                break
            await asyncio.sleep(0.01)


async def test_every_error_of_qdrant_names_it_so_that_no_breaker_further_out_counts_it(server, pool_with):
    pool = pool_with(qdrant_breaker_failures=1000)
    for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED):
        fail_with(server, code)
        with pytest.raises((Unavailable, Internal, DeadlineExceeded)) as failure:
            await call(pool)
        assert failure.value.metadata == {"dependency": "Qdrant"}
    Gate(server)
    with pytest.raises(DeadlineExceeded) as failure:
        await call(pool, within=0.2)
    assert failure.value.metadata == {"dependency": "Qdrant"}


async def test_an_open_breaker_leaves_qdrant_alone(server, pool_with):
    pool = pool_with(qdrant_pool_retry_enabled=True)
    await trip(pool, server)
    with pytest.raises(Unavailable) as refusal:
        await call(pool)
    assert refusal.value.reason == "BREAKER_OPEN"
    assert server.calls["List"] == 5


@pytest.mark.parametrize("size", [1, 5])
async def test_of_twenty_callers_one_probes_and_nineteen_are_refused_at_once(server, pool_with, size):
    pool = pool_with(qdrant_pool_size=size, qdrant_breaker_reset_seconds=AT_ONCE)
    await trip(pool, server)
    gate = Gate(server)
    callers = [asyncio.create_task(call(pool)) for _ in range(20)]
    refused, waiting = await asyncio.wait(callers, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    while len(waiting) > 1:
        more, waiting = await asyncio.wait(waiting, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        refused |= more

    assert {task.exception().reason for task in refused} == {"BREAKER_OPEN"}
    await gate.holds(1)
    gate.open.set()
    await asyncio.gather(*waiting)
    assert gate.entered == 1
    await asyncio.gather(*(call(pool) for _ in range(20)))


async def test_callers_that_wait_for_a_connection_are_refused_once_the_breaker_opens(server, pool_with):
    pool = pool_with(qdrant_pool_size=1, qdrant_breaker_failures=1)
    gate = Gate(server)
    callers = [asyncio.create_task(call(pool)) for _ in range(10)]
    await gate.holds(1)
    fail_with(server, grpc.StatusCode.UNAVAILABLE)
    callers[0].cancel()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    reasons = [outcome.reason for outcome in outcomes[1:]]
    assert reasons == ["DEPENDENCY_DOWN"] + ["BREAKER_OPEN"] * 8
    assert server.calls["List"] == 2


async def test_client_faults_and_cancellations_leave_the_breaker_alone(server, pool_with, registry):
    pool = pool_with(qdrant_breaker_failures=2)
    fail_with(server, grpc.StatusCode.INVALID_ARGUMENT)
    for _ in range(5):
        with pytest.raises(InvalidArgument):
            await call(pool)
    gate = Gate(server)
    for _ in range(5):
        gate.entered = 0
        task = asyncio.create_task(call(pool))
        await gate.holds(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert registry.get_sample_value("qdrant_circuit_breaker_open") == 0
    gate.open.set()
    await call(pool)


async def test_a_caller_in_a_hurry_says_nothing_about_qdrant(server, pool_with, registry):
    pool = pool_with(qdrant_breaker_failures=2)
    Gate(server)
    for _ in range(5):
        with pytest.raises(DeadlineExceeded):
            await call(pool, within=0.02)
    assert registry.get_sample_value("qdrant_circuit_breaker_open") == 0


async def test_a_qdrant_that_does_not_answer_in_a_fair_time_opens_the_breaker(server, pool_with, registry):
    pool = pool_with(qdrant_breaker_failures=2, qdrant_timeout=0.05)
    Gate(server)
    for _ in range(2):
        with pytest.raises(DeadlineExceeded):
            await call(pool)
    assert registry.get_sample_value("qdrant_circuit_breaker_open") == 1


async def test_a_qdrant_without_conditional_updates_is_refused(server):
    server.version = "1.16.3"
    settings = RetrieverSettings(qdrant_url=server.url, qdrant_grpc_port=server.port)
    store = ServerStore(settings, RetrieverMetrics(CollectorRegistry()))
    with pytest.raises(FailedPrecondition, match=r"1\.16\.3") as refusal:
        await store.check(None)
    assert refusal.value.reason == "QDRANT_TOO_OLD"
    await store.close()


async def test_a_qdrant_whose_connections_are_all_busy_is_healthy(server):
    entered, leave = asyncio.Event(), asyncio.Event()

    async def fault(method, _context):
        if method != "HealthCheck":
            entered.set()
            await leave.wait()

    server.fault = fault
    settings = RetrieverSettings(qdrant_url=server.url, qdrant_grpc_port=server.port, qdrant_pool_size=1)
    store = ServerStore(settings, RetrieverMetrics(CollectorRegistry()))
    held = asyncio.create_task(store.catalogue(None))
    await entered.wait()
    await store.check(time.monotonic() + 30)
    leave.set()
    await held
    await store.close()
