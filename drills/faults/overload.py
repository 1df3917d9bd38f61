"""More work than there is machine for: what is refused, who waits, and whether the stage can still say how it is."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from drills.faults.drill import Group, Seen, ms
from drills.faults.replicas import expanding, words_for
from drills.parts.flood import embed, flood, passage
from drills.parts.processes import LIGHT, StageProcess, running
from drills.parts.proxy import Proxy
from drills.parts.scripted import scripted_stages, slow
from services.chassis.client import StageChannel
from sluice.type.v1 import model_pb2
from sluice_client import AsyncClient
from sluice_client import SluiceError as ClientError
from sluice_statistics.percentiles import percentile

HEALTH_SECONDS = 1.0
FLOOD_SECONDS = 12.0
INTERACTIVE_MARGIN_SECONDS = 0.05


@dataclass(frozen=True)
class Embedder:
    """A real model in a process of its own, with a short queue, and a channel to it."""

    process: StageProcess
    channel: StageChannel


@asynccontextmanager
async def platform() -> AsyncIterator[Embedder]:
    """The embedder."""
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(running("embedder", {"QUEUED_TOKENS": "32768"}))
        channel = await stack.enter_async_context(StageChannel(process.address))
        yield Embedder(process, channel)


group: Group[Embedder] = Group("overload", platform)


@asynccontextmanager
async def calling(call: Callable[[], Awaitable[str]], callers: int) -> AsyncIterator[Counter[str]]:
    """So many callers that never let up; how their calls ended."""
    ended: Counter[str] = Counter()

    async def caller() -> None:
        while True:
            ended[await call()] += 1

    tasks = [asyncio.create_task(caller()) for _ in range(callers)]
    try:
        yield ended
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def health_for(address: str, seconds: float) -> tuple[int, int, float]:
    """Ask for health ten times a second, on a connection of its own: how often, how often SERVING, the slowest."""
    times, serving = [], 0
    end = time.monotonic() + seconds
    async with StageChannel(address) as channel:
        while time.monotonic() < end:
            started = time.perf_counter()
            serving += await channel.health("", deadline=time.monotonic() + 5) is None
            times.append(time.perf_counter() - started)
            await asyncio.sleep(0.1)
    return len(times), serving, max(times)


@group.row(
    "saturation",
    "64 callers with more texts than the queue holds: RESOURCE_EXHAUSTED with a pushback, never anything worse; "
    "some are served; health says SERVING throughout, each time within 1 s",
)
async def saturation(embedder: Embedder) -> Seen:
    async with flood(embedder.process.address, 64, 32, 40, model_pb2.PRIORITY_INTERACTIVE) as ended:
        asked, serving, slowest = await health_for(embedder.process.address, 6)
    ok = ended["RESOURCE_EXHAUSTED with pushback"] > 0 and ended["OK"] > 0
    ok = (
        ok
        and set(ended) == {"OK", "RESOURCE_EXHAUSTED with pushback"}
        and serving == asked
        and slowest < HEALTH_SECONDS
    )
    return Seen(ok, f"{words_for(ended)}; health {serving} of {asked} times SERVING, slowest {ms(slowest)}")


@group.row(
    "saturated gateway",
    "300 callers of a gateway whose stages slowed down: what cannot be served within its 5 s is refused "
    "(RESOURCE_EXHAUSTED with a pushback), the rest is answered; health says SERVING throughout, each time within 1 "
    "s",
)
async def saturated_gateway(_embedder: Embedder) -> Seen:
    async with scripted_stages() as stages:
        addresses = {f"{name.upper()}_ADDRESS": stage.address for name, stage in stages.items()}
        async with running("gateway", addresses) as gateway, AsyncClient(gateway.address, timeout=5) as client:
            refusals: list[float] = []

            async def search() -> str:
                started = time.perf_counter()
                try:
                    await client.search("what")
                except ClientError as error:
                    if error.code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                        return f"{error.code.name} {error.reason}"
                    refusals.append(time.perf_counter() - started)
                    await asyncio.sleep(error.retry_after or 0)
                    return f"RESOURCE_EXHAUSTED{'' if error.retry_after is None else ' with pushback'}"
                return "OK"

            for _ in range(100):
                await search()
            stages["retriever"].behaviour = slow(0.3)
            async with calling(search, 300) as ended:
                asked, serving, slowest = await health_for(gateway.address, 6)
    ok = set(ended) == {"OK", "RESOURCE_EXHAUSTED with pushback"} and serving == asked and slowest < HEALTH_SECONDS
    told = f", half of the refusals within {ms(percentile(refusals, 50))}" if refusals else ""
    return Seen(ok, f"{words_for(ended)}{told}; health {serving} of {asked} times SERVING, slowest {ms(slowest)}")


@group.row(
    "bulk flood",
    "24 callers that store in bulk without end: the p99 of single interactive queries is at most 50 ms above that "
    "of an idle embedder, none of them fails, and bulk calls are shed",
)
async def bulk_flood(embedder: Embedder) -> Seen:
    failed: Counter[str] = Counter()

    async def interactive(seconds: float) -> list[float]:
        times = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            started = time.perf_counter()
            outcome = await embed(embedder.channel, [f"{passage(6)} {random.random()}"], model_pb2.PRIORITY_INTERACTIVE)
            times.append(time.perf_counter() - started)
            failed[outcome] += outcome != "OK"
            await asyncio.sleep(0.02)
        return times

    await interactive(1)
    idle = await interactive(FLOOD_SECONDS / 2)
    async with flood(embedder.process.address, 24, 64, 40, model_pb2.PRIORITY_BULK) as ended:
        await asyncio.sleep(2)
        flooded = await interactive(FLOOD_SECONDS)
    idle += await interactive(FLOOD_SECONDS / 2)
    before, during = percentile(idle, 99), percentile(flooded, 99)
    shed = sum(count for outcome, count in ended.items() if outcome.startswith("RESOURCE_EXHAUSTED"))
    ok = during <= before + INTERACTIVE_MARGIN_SECONDS and shed > 0 and not failed.total()
    words = (
        f"interactive p99 {ms(before)} idle ({len(idle)} calls), {ms(during)} under the flood ({len(flooded)} calls), "
    )
    return Seen(
        ok,
        f"{words}medians {ms(percentile(idle, 50))} and {ms(percentile(flooded, 50))}, {failed.total()} failed; bulk: "
        f"{words_for(ended)}",
    )


@group.row(
    "CPU-bound work",
    "while the model computes 512 long passages at a time and texts of 60 KiB are tokenized, health answers every "
    "time, within 1 s",
)
async def cpu_bound(embedder: Embedder) -> Seen:
    async with (
        flood(embedder.process.address, 2, 512, 100, model_pb2.PRIORITY_BULK),
        flood(embedder.process.address, 2, 100, 12_000, model_pb2.PRIORITY_BULK),
    ):
        asked, serving, slowest = await health_for(embedder.process.address, 8)
    return Seen(
        serving == asked and slowest < HEALTH_SECONDS,
        f"health {serving} of {asked} times SERVING, slowest {ms(slowest)}",
    )


class _Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.spans = 0

    async def Export(self, request: Any, _context: Any) -> Any:  # noqa: N802  # gRPC's name
        self.spans += sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)
        return trace_service_pb2.ExportTraceServiceResponse()


@group.row(
    "OTLP collector down",
    "of two replicas that trace, one has a collector and the other a refused and then a swallowed connection: over "
    "3,000 paired calls the median differs by less than 0.2 ms, and none fails; the process still ends within its "
    "grace",
)
async def collector_down(_embedder: Embedder) -> Seen:
    collector, server = _Collector(), grpc.aio.server()
    add_collector: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add_collector(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with Proxy(f"127.0.0.1:{port}") as proxy:
        with_collector = LIGHT | {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
        without = LIGHT | {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{proxy.address}"}
        await proxy.refuse()
        async with (
            running("expander", with_collector) as up,
            running("expander", without) as down,
            StageChannel(up.address) as up_channel,
            StageChannel(down.address) as down_channel,
        ):
            calls = (expanding(up_channel), expanding(down_channel))
            times: tuple[list[float], list[float]] = ([], [])
            ended: Counter[str] = Counter()
            for count in range(3300):
                if count == 1500:
                    await proxy.accept()
                    proxy.down.blackhole = True
                for which in (0, 1) if count % 2 else (1, 0):
                    started = time.perf_counter()
                    ended[await calls[which]()] += 1
                    if count >= 300:
                        times[which].append(time.perf_counter() - started)
            stopping = time.monotonic()
            down.terminate()
            status = await down.ended()
            stopped = time.monotonic() - stopping
            spans = collector.spans
    await server.stop(grace=None)
    difference = percentile([without - within for within, without in zip(*times, strict=True)], 50)
    ok = set(ended) == {"OK"} and abs(difference) < 0.0002 and spans > 0 and status == 0 and stopped < 6
    words = f"median {ms(percentile(times[0], 50))} with and {ms(percentile(times[1], 50))} without, "
    words += f"paired difference {difference * 1e6:+.0f} µs"
    return Seen(
        ok, f"{words}; p99 {ms(percentile(times[0], 99))} and {ms(percentile(times[1], 99))}; {words_for(ended)}; "
        f"the collector that is up got {spans:,} spans; stopped in {stopped:.1f} s"
    )  # fmt: skip
