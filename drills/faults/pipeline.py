"""Faults of stages, as the caller of a real gateway sees them: slow, gone or strange."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from drills.faults.drill import Group, Seen, ms
from drills.parts.processes import running
from drills.parts.proxy import Proxy
from drills.parts.scripted import ScriptedStage, at_once, hanging, scripted_stages, slow
from sluice_client import Answer, AsyncClient, Policies, Policy, SluiceError, features

EVERYTHING = features(dense=True, lexical=True, expansion=True, rerank=True, rerank_method="cross_encoder")
# What a caller may see of its own deadline: gRPC's timer, and a busy machine.
LATE_SECONDS = 0.15
CANCELLED_WITHIN_SECONDS = 0.2


@dataclass(frozen=True)
class Platform:
    """A gateway in a process of its own; every stage of it is scripted, and behind a proxy."""

    client: AsyncClient
    stages: dict[str, ScriptedStage]
    proxies: dict[str, Proxy]

    async def search(self, seconds: float, **options: Any) -> tuple[Answer | SluiceError, float]:
        """The answer to a question with everything on, or the error, and how long that took."""
        started = time.monotonic()
        options = {"features": EVERYTHING, **options}
        try:
            ended: Answer | SluiceError = await self.client.search("what", timeout=seconds, **options)
        except SluiceError as error:
            ended = error
        return ended, time.monotonic() - started

    async def healthy(self) -> None:
        """Heal everything, and return when all of it runs again and the gateway trusts it to be quick."""
        for stage in self.stages.values():
            stage.behaviour = at_once
        for proxy in self.proxies.values():
            proxy.heal()
            await proxy.accept()
        well = 0
        async with asyncio.timeout(60):
            while well < 30:
                answer, _seconds = await self.search(10)
                ran = isinstance(answer, Answer) and all(report.outcome == "ran" for report in answer.stages)
                well = well + 1 if ran else 0
                await asyncio.sleep(0 if ran else 0.1)


@asynccontextmanager
async def platform() -> AsyncIterator[Platform]:
    """Five servers and four proxies."""
    async with AsyncExitStack() as stack:
        stages = await stack.enter_async_context(scripted_stages())
        proxies = {name: await stack.enter_async_context(Proxy(stage.address)) for name, stage in stages.items()}
        addresses = {f"{name.upper()}_ADDRESS": proxy.address for name, proxy in proxies.items()}
        environment = {**addresses, "BREAKER_RESET_SECONDS": "0.5"}
        gateway = await stack.enter_async_context(running("gateway", environment))
        client = await stack.enter_async_context(AsyncClient(gateway.address))
        made = Platform(client, stages, proxies)
        await made.healthy()
        yield made


group: Group[Platform] = Group("gateway and its stages", platform)


def told(answer: Answer | SluiceError, stage: str) -> str:
    """Report of a stage in an answer."""
    if isinstance(answer, SluiceError):
        return f"{answer.code.name} {answer.reason}"
    report = next(report for report in answer.stages if report.stage == stage)
    return f"{report.outcome} {report.reason}".strip()


@group.row(
    "stage latency above its budget",
    "an embedder that is 3 s late leaves 20 searches with deadlines of 500 ms answered in time by words alone: "
    "first it is given up (FAILED), then left out (SKIPPED, NO_TIME); an expander and a reranker that are late are "
    "left out, too",
)
async def slow_stage(platform: Platform) -> Seen:
    said: dict[str, Counter[str]] = {}
    slowest, answered = 0.0, 0
    for name, stage in (("embedder", "embed"), ("expander", "expand"), ("reranker", "rerank")):
        await platform.healthy()
        platform.proxies[name].down.latency = 3.0
        said[stage] = Counter()
        for _ in range(20):
            answer, seconds = await platform.search(0.5)
            answered += isinstance(answer, Answer)
            slowest = max(slowest, seconds)
            said[stage][told(answer, stage)] += 1
            if stage == "embed":
                said.setdefault("retrieve", Counter())[told(answer, "retrieve")] += 1
    await platform.healthy()
    given_up = all(
        counts["failed DEADLINE_EXCEEDED"] and set(counts) <= {"failed DEADLINE_EXCEEDED", "skipped NO_TIME"}
        for stage, counts in said.items()
        if stage != "retrieve"
    )
    ok = answered == 60 and slowest <= 0.5 and given_up and set(said["retrieve"]) == {"degraded LEXICAL_ONLY"}
    words = "; ".join(
        f"{stage}: " + ", ".join(f"{count} {what}" for what, count in counts.items()) for stage, counts in said.items()
    )
    return Seen(ok, f"{answered} of 60 answered, slowest {ms(slowest)}; {words}")


@group.row(
    "caller cancels", "the work of every stage is cancelled within 200 ms of the caller's leaving, 10 times each"
)
async def caller_cancels(platform: Platform) -> Seen:
    slowest: dict[str, float] = {}
    lost = 0
    for name, stage in platform.stages.items():
        await platform.healthy()
        stage.behaviour = hanging
        for _ in range(10):
            calling = asyncio.create_task(platform.search(30))
            await stage.called()
            await asyncio.sleep(0.02)
            waiting = asyncio.create_task(stage.cancelled(2))
            await asyncio.sleep(0)
            left = time.monotonic()
            calling.cancel()
            when = await waiting
            if when is None:
                lost += 1
            else:
                slowest[name] = max(slowest.get(name, 0.0), when - left)
    await platform.healthy()
    words = ", ".join(f"{name} {ms(seconds)}" for name, seconds in slowest.items())
    ok = not lost and len(slowest) == 4 and max(slowest.values()) <= CANCELLED_WITHIN_SECONDS
    return Seen(ok, f"slowest of 10: {words}" + (f"; {lost} were never told" if lost else ""))


@group.row(
    "blackhole",
    "an embedder that swallows everything: the answer comes within the deadline of 1 s, by words alone, DEGRADED; "
    "where it is REQUIRED, DEADLINE_EXCEEDED at the deadline; a swallowed retriever, too",
)
async def blackhole(platform: Platform) -> Seen:
    platform.proxies["embedder"].down.blackhole = True
    answer, seconds = await platform.search(1.0)
    best_effort = f"{told(answer, 'embed')}, {told(answer, 'retrieve')} after {ms(seconds)}"
    await platform.healthy()
    platform.proxies["embedder"].down.blackhole = True
    required, took = await platform.search(1.0, policies=Policies(embedding=Policy.REQUIRED))
    await platform.healthy()
    platform.proxies["retriever"].down.blackhole = True
    blind, took_blind = await platform.search(1.0)
    await platform.healthy()
    ok = (
        told(answer, "embed") == "failed DEADLINE_EXCEEDED"
        and told(answer, "retrieve") == "degraded LEXICAL_ONLY"
        and seconds <= 1.0
        and told(required, "") == told(blind, "") == "DEADLINE_EXCEEDED DEADLINE_EXCEEDED"
        and max(took, took_blind) <= 1.0 + LATE_SECONDS
    )
    words = f"best effort: {best_effort}; required: {told(required, 'embed')} after {ms(took)}"
    return Seen(ok, f"{words}; retriever: {told(blind, 'retrieve')} after {ms(took_blind)}")


@group.row(
    "reset mid-call",
    "a connection that breaks (RST) while a call is under way: the call is tried again on a new one; 20 of 20 "
    "searches lack nothing",
)
async def reset(platform: Platform) -> Seen:
    ended: Counter[str] = Counter()
    broken, slowest = 0, 0.0
    for round_ in range(20):
        name = ("embedder", "retriever", "expander", "reranker")[round_ % 4]
        stage, proxy = platform.stages[name], platform.proxies[name]
        stage.behaviour = slow(0.1)
        searching = asyncio.create_task(platform.search(5))
        await stage.called()
        await asyncio.sleep(0.02)
        broken += proxy.reset()
        answer, seconds = await searching
        slowest = max(slowest, seconds)
        stage.behaviour = at_once
        outcomes = {report.outcome for report in answer.stages} if isinstance(answer, Answer) else {told(answer, "")}
        ended["/".join(sorted(outcomes))] += 1
    await platform.healthy()
    words = ", ".join(f"{count} {what}" for what, count in ended.items())
    return Seen(set(ended) == {"ran"}, f"{broken} connections reset; searches ended: {words}; slowest {ms(slowest)}")


@group.row(
    "slow drip",
    "an answer of the embedder that comes at 20 bytes a second: given up in time, the search is answered within its "
    "deadline of 1 s by words alone; when the drip ends, all is well again",
)
async def slow_drip(platform: Platform) -> Seen:
    way = platform.proxies["embedder"].down
    way.slice_bytes, way.slice_pause = 1, 0.05
    answer, seconds = await platform.search(1.0)
    await platform.healthy()
    ok = told(answer, "retrieve") == "degraded LEXICAL_ONLY" and seconds <= 1.0
    return Seen(
        ok, f"{told(answer, 'embed')}, {told(answer, 'retrieve')} after {ms(seconds)}; then everything ran again"
    )


@group.row(
    "stage down",
    "an embedder that refuses connections: searches are answered by words alone; after 5 failures the breaker "
    "leaves it out (BREAKER_OPEN), and when it is back it is used again",
)
async def stage_down(platform: Platform) -> Seen:
    proxy = platform.proxies["embedder"]
    await proxy.refuse()
    proxy.reset()
    said: list[str] = []
    for _ in range(10):
        answer, _seconds = await platform.search(2.0)
        said.append(told(answer, "embed"))
    started = time.monotonic()
    await platform.healthy()
    back = time.monotonic() - started
    failures = said.index("failed BREAKER_OPEN") if "failed BREAKER_OPEN" in said else len(said)
    return Seen(
        failures == 5, f"{failures} failures ({said[0]}), then {said[-1]}; used again {ms(back)} after its return"
    )
