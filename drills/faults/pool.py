"""Qdrant and the pool of connections to it: away, back, busy, limited and full."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from drills.faults.drill import Group, Seen, ms
from drills.parts.proxy import Proxy
from drills.parts.qdrant import pool_at, qdrant_behind_a_proxy, rate_limited, storage_full
from services.chassis.errors import DeadlineExceeded, ResourceExhausted, SluiceError, Unavailable
from services.retriever.engines.server.pool import QdrantPool
from tests.qdrant_server import QdrantServer

group: Group[Proxy] = Group("Qdrant and its pool", qdrant_behind_a_proxy)

OPEN = "qdrant_circuit_breaker_open"
CHANGES = "qdrant_circuit_breaker_transitions_total"
WAITING = "qdrant_pool_waiting"
FAST_SECONDS = 0.005
TRIES = 10_000


async def ping(client: Any) -> None:
    await client.version()


async def reason(pool: QdrantPool, within: float = 10.0) -> str:
    """Outcome of a call: OK, or the reason of its error."""
    try:
        await pool.call(ping, deadline=time.monotonic() + within)
    except SluiceError as error:
        return error.reason
    return "OK"


async def fall(proxy: Proxy) -> None:
    """Qdrant is gone."""
    await proxy.refuse()
    proxy.reset()


async def rise(proxy: Proxy) -> None:
    """Qdrant is back, and no toxics are left."""
    proxy.heal()
    await proxy.accept()


@group.row(
    "pool size N", "N TCP connections at the server, for N = 1, 4 and 8, each under 40 concurrent calls", quick=True
)
async def pool_size(proxy: Proxy) -> Seen:
    sizes, seen = (1, 4, 8), []
    for size in sizes:
        before = proxy.connections
        async with pool_at(proxy.address, qdrant_pool_size=size) as (pool, _read):
            await asyncio.gather(*(pool.call(ping) for _ in range(40)))
        seen.append(proxy.connections - before)
    return Seen(seen == list(sizes), f"pools of {sizes} made {tuple(seen)} connections")


@group.row(
    "Qdrant down",
    "the breaker opens after exactly 5 failures, and every call then fails in <= 5 ms without touching Qdrant",
)
async def qdrant_down(proxy: Proxy) -> Seen:
    async with pool_at(proxy.address) as (pool, read):
        up = await reason(pool)
        await fall(proxy)
        failures = 0
        while await reason(pool) == "DEPENDENCY_DOWN" and failures < 100:
            failures += 1
        times, reasons = [], set()
        for _ in range(100):
            started = time.perf_counter()
            reasons.add(await reason(pool))
            times.append(time.perf_counter() - started)
        opened = read(OPEN) == 1
        await rise(proxy)
    ok = up == "OK" and failures == 5 and opened and reasons == {"BREAKER_OPEN"} and max(times) <= FAST_SECONDS
    words = (
        f"opened after {failures} failures; the next 100 calls: {', '.join(sorted(reasons))}, slowest {ms(max(times))}"
    )
    return Seen(ok, words)


@group.row("recovery with 20 waiting callers", "exactly one probe reaches Qdrant; then all are served", quick=True)
async def recovery(proxy: Proxy) -> Seen:
    reset_seconds = 0.3
    async with pool_at(proxy.address, qdrant_breaker_reset_seconds=reset_seconds, qdrant_pool_size=5) as (pool, read):
        await reason(pool)
        await fall(proxy)
        while await reason(pool) == "DEPENDENCY_DOWN":
            pass
        await rise(proxy)
        # gRPC has its own pause before it connects again: the probe is to meet a Qdrant that answers.
        proxy.down.latency = 0.1
        await asyncio.sleep(max(reset_seconds, 1.0))
        sent = 0

        async def counted(client: Any) -> None:
            nonlocal sent
            sent += 1
            await client.version()

        outcomes = await asyncio.gather(
            *(pool.call(counted, deadline=time.monotonic() + 10) for _ in range(20)), return_exceptions=True
        )
        refused = sum(isinstance(error, Unavailable) and error.reason == "BREAKER_OPEN" for error in outcomes)
        proxy.heal()
        after = await asyncio.gather(*(reason(pool) for _ in range(20)))
        closed = read(OPEN) == 0
    ok = sent == 1 and outcomes.count(None) == 1 and refused == 19 and closed and set(after) == {"OK"}
    words = f"{sent} of 20 calls was sent, {refused} were refused at once; then the breaker is "
    return Seen(ok, f"{words}{'closed' if closed else 'open'}, and {after.count('OK')} of the next 20 were served")


@group.row(
    "cancellations through the breaker",
    "200 cancelled calls (threshold 2) leave it closed; a cancelled probe leaves it half-open, and the next call "
    "probes",
    quick=True,
)
async def cancellations(proxy: Proxy) -> Seen:
    settings = {"qdrant_breaker_failures": 2, "qdrant_breaker_reset_seconds": 0.3, "qdrant_pool_size": 10}
    async with pool_at(proxy.address, **settings) as (pool, read):
        await reason(pool)
        proxy.down.blackhole = True
        for _ in range(20):
            await _cancel_in_flight(pool, 10)
        still_closed = read(OPEN) == 0
        proxy.heal()
        served = await reason(pool)
        await fall(proxy)
        while await reason(pool) == "DEPENDENCY_DOWN":
            pass
        await rise(proxy)
        await asyncio.sleep(1.0)
        proxy.down.blackhole = True
        await _cancel_in_flight(pool, 1)
        half_open = read(OPEN) == 1 and read(CHANGES, state="closed") == 0
        proxy.heal()
        next_one = await reason(pool)
        closed = read(OPEN) == 0
    ok = still_closed and served == "OK" and half_open and next_one == "OK" and closed
    return Seen(
        ok,
        f"after 200 cancellations {'closed' if still_closed else 'open'}, next call {served}; after a cancelled "
        f"probe {'not closed' if half_open else 'closed'}, next call {next_one} and the breaker "
        f"{'closed' if closed else 'open'}",
    )


async def _cancel_in_flight(pool: QdrantPool, calls: int) -> None:
    sent = asyncio.Event()

    async def send(client: Any) -> None:
        sent.set()
        await client.version()

    tasks = [asyncio.create_task(pool.call(send, deadline=time.monotonic() + 10)) for _ in range(calls)]
    await sent.wait()
    await asyncio.sleep(0.002)
    await _cancel(tasks)


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@group.row(
    "pool exhausted",
    f"RESOURCE_EXHAUSTED (POOL_EXHAUSTED) at the wait timeout of 100 ms; no permit lost over {TRIES:,} tries that time "
    "out, or are cancelled, waiting and in flight",
)
async def pool_exhausted(proxy: Proxy) -> Seen:
    size = 4
    async with pool_at(proxy.address, qdrant_pool_size=size, qdrant_pool_timeout=0.1) as (pool, read):
        await reason(pool)
        proxy.down.blackhole = True
        held = [asyncio.create_task(pool.call(ping, deadline=time.monotonic() + 60)) for _ in range(size)]
        await asyncio.sleep(0.05)
        started = time.monotonic()
        refusal = await reason(pool)
        waited = time.monotonic() - started
        await _cancel(held)
    async with pool_at(proxy.address, qdrant_pool_size=size, qdrant_pool_timeout=0.004) as (pool, read):
        outcomes: dict[str, int] = {}
        for round_ in range(TRIES // 200):
            tasks = [asyncio.create_task(reason(pool, within=0.001 * (number % 9))) for number in range(200)]
            await asyncio.sleep(0.001 * (round_ % 3))
            for task in tasks[::2]:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                name = outcome if isinstance(outcome, str) else type(outcome).__name__
                outcomes[name] = outcomes.get(name, 0) + 1
        proxy.heal()
        waiting = read(WAITING)
        left = await _lent_at_once(pool, size)
    ok = refusal == "POOL_EXHAUSTED" and 0.1 <= waited <= 0.25 and left == size and waiting == 0
    ended = ", ".join(f"{count:,} {name}" for name, count in sorted(outcomes.items()))
    words = f"{refusal} after {ms(waited)}; {sum(outcomes.values()):,} tries: {ended}; afterwards {left} of {size} "
    return Seen(ok, f"{words}connections can be lent at once, {waiting:.0f} calls wait")


async def _lent_at_once(pool: QdrantPool, size: int) -> int:
    """Number of operations that the pool runs at the same time."""
    running, most, release = 0, 0, asyncio.Event()

    async def hold(_client: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await release.wait()
        running -= 1

    tasks = [asyncio.create_task(pool.call(hold, deadline=time.monotonic() + 5)) for _ in range(size + 2)]
    await asyncio.sleep(0.05)
    release.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    return most


@group.row(
    "Qdrant rate limit against storage full",
    "both RESOURCE_EXHAUSTED: RATE_LIMITED with Qdrant's retry-after, STORAGE_FULL without one; neither counts as "
    "an outage",
    quick=True,
)
async def limited_or_full(_proxy: Proxy) -> Seen:
    async with QdrantServer() as server, pool_at(f"127.0.0.1:{server.port}", qdrant_breaker_failures=1) as (pool, read):
        seen = []
        for fault in (rate_limited(7), storage_full()):
            server.fault = fault
            try:
                await pool.call(ping, deadline=time.monotonic() + 5)
            except ResourceExhausted as error:
                seen.append((error.reason, error.retry_after))
        opened = read(OPEN)
    words = "; ".join(f"{name}, retry after {'never' if after is None else f'{after:g} s'}" for name, after in seen)
    ok = seen == [("RATE_LIMITED", 7.0), ("STORAGE_FULL", None)] and opened == 0
    return Seen(ok, f"{words}; breaker {'open' if opened else 'closed'}")


@group.row("Qdrant blackholed", "DEADLINE_EXCEEDED just before the caller's deadline of 300 ms, so that it hears of it")
async def blackholed(proxy: Proxy) -> Seen:
    async with pool_at(proxy.address) as (pool, _read):
        await reason(pool)
        proxy.down.blackhole = True
        started = time.monotonic()
        try:
            await pool.call(ping, deadline=started + 0.3)
            ended = "OK"
        except DeadlineExceeded as error:
            ended = error.reason
        took = time.monotonic() - started
        proxy.heal()
        after = await reason(pool)
    ok = ended == "DEADLINE_EXCEEDED" and 0.27 <= took <= 0.4 and after == "OK"
    return Seen(ok, f"{ended} after {ms(took)}; once lifted, the next call: {after}")
