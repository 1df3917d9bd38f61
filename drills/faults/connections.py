"""Faults that a channel to a stage handles by itself: retries, and the throttle on them."""

from __future__ import annotations

import asyncio
import time

import grpc

from drills.faults.drill import Group, Seen
from drills.parts.scripted import ScriptedStage, failing
from services.chassis.client import StageChannel
from services.chassis.errors import SluiceError
from sluice.expander.v1 import expander_pb2, expander_pb2_grpc

group: Group[None] = Group("channels")

REQUEST = expander_pb2.ExpandQueryRequest(query="anything")


async def code(channel: StageChannel, seconds: float = 5.0) -> str:
    """Outcome of one call: OK, or the kind of its error."""
    stub = expander_pb2_grpc.ExpanderServiceStub(channel.channel)
    try:
        await channel.call(stub.ExpandQuery, REQUEST, deadline=time.monotonic() + seconds)
    except SluiceError as error:
        return type(error).__name__
    return "OK"


@group.row(
    "stage always UNAVAILABLE",
    "once the throttle engages, attempts are at most 1.1 times the calls: retries do not make an outage worse; other "
    "codes are not retried at all",
    quick=True,
)
async def always_unavailable(_nothing: None) -> Seen:
    async with ScriptedStage("expander") as stage:
        stage.behaviour = failing(grpc.StatusCode.UNAVAILABLE)
        async with StageChannel(stage.address, service=stage.service) as channel:
            first = set()
            for _ in range(10):
                first.add(await code(channel))
            before_engaging = stage.calls
            for _ in range(40):
                await asyncio.gather(*(code(channel) for _ in range(5)))
            attempts = stage.calls - before_engaging
        others = {}
        for other in (grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED):
            stage.behaviour = failing(other)
            async with StageChannel(stage.address, service=stage.service) as channel:
                before = stage.calls
                await code(channel)
                others[other.name] = stage.calls - before
    ratio = attempts / 200
    ok = ratio <= 1.1 and before_engaging > 10 and set(others.values()) == {1} and first == {"Unavailable"}
    tried = ", ".join(f"{name} {count}" for name, count in others.items())
    return Seen(
        ok, f"{before_engaging} attempts for the first 10 calls, then {ratio:.2f} a call over 200; others: {tried}"
    )
