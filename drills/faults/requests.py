"""Requests that are malformed, or very large."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
from google.protobuf.message import Message

from deploy.local.processes import Process
from drills.faults.drill import Group, Seen, ms
from drills.faults.mutation import decodable, mutated
from drills.faults.rpcs.control_plane import COMMAND, RAMPING, STILL
from drills.faults.rpcs.experiments import RUNNING, plan
from drills.faults.rpcs.feedback import KEY
from drills.faults.rpcs.stages import rpcs
from drills.parts.processes import LIGHT, StageProcess, running
from drills.parts.rpc import Rpc
from services.chassis.client import StageChannel
from services.chassis.status import error_from
from sluice.rollout.v1 import experiment_pb2, experiment_pb2_grpc, rollout_pb2_grpc
from sluice.rollout.v1 import rollout_pb2 as rollout
from sluice_client import AsyncClient, Document, Features, SluiceError

MESSAGES = int(os.environ.get("FAULT_MESSAGES", "20000"))
"""On each method. 20,000 on each of about a hundred take most of the drill's time."""
CONCURRENCY = 6
MIB = 2**20
LARGEST_BYTES = 16 * MIB


@dataclass(frozen=True)
class Platform:
    """The stages with one collection, and the rollout service with features and an experiment."""

    stages: Mapping[str, StageProcess]
    client: AsyncClient
    fingerprint: str


DOCUMENTS = [
    Document(f"d{number}", f"Volume {number}", f"The sea, the ship and the storm, part {number}.", {"year": number})
    for number in range(20)
]


@asynccontextmanager
async def platform() -> AsyncIterator[Platform]:
    """All stages as processes; the reranker with its real model."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        stages = {
            name: await stack.enter_async_context(running(name, LIGHT | {"QDRANT_PATH": str(Path(folder) / "qdrant")}))
            for name in ("embedder", "expander", "retriever", "reranker", "reasoner")
        }
        database = f"sqlite:///{Path(folder) / 'rollout.db'}"
        stages["rollout"] = await stack.enter_async_context(running("rollout", {"ROLLOUT_DATABASE_URL": database}))
        await _begin(stages["rollout"])
        addresses = {f"{name.upper()}_ADDRESS": stage.address for name, stage in stages.items()}
        addresses |= {"FEEDBACK_KEYS": KEY, "ROLLOUT_SNAPSHOT_PATH": str(Path(folder) / "snapshot.json")}
        stages["gateway"] = await stack.enter_async_context(running("gateway", LIGHT | addresses))
        client = await stack.enter_async_context(AsyncClient(stages["gateway"].address, timeout=20))
        await client.index(DOCUMENTS)
        config = await client.config()
        assert config.collection is not None
        yield Platform(stages, client, config.collection.model.fingerprint)


async def _begin(service: StageProcess) -> None:
    """A feature that is being rolled out, one that is not, and an experiment that runs."""
    ramp = rollout.Plan(name="week", steps=[rollout.PlanStep(treatment_ppm=500_000)])
    async with StageChannel(service.address) as channel:
        operator: Any = rollout_pb2_grpc.RolloutServiceStub(channel.channel)
        for name in (STILL, RAMPING):
            features = Features(rerank=True)
            await operator.CreateFeature(
                rollout.CreateFeatureRequest(command=COMMAND, name=name, features=features), timeout=20
            )
        await operator.StartRamp(rollout.StartRampRequest(command=COMMAND, name=RAMPING, plan=ramp), timeout=20)
        experimenter: Any = experiment_pb2_grpc.ExperimentServiceStub(channel.channel)
        create = experiment_pb2.CreateExperimentRequest(command=COMMAND, plan=plan(RUNNING))
        await experimenter.CreateExperiment(create, timeout=20)
        start = experiment_pb2.StartExperimentRequest(command=COMMAND, name=RUNNING)
        await experimenter.StartExperiment(start, timeout=20)


group: Group[Platform] = Group("requests", platform)


SOUND = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION"}
FULL = {"TOO_MANY_FEATURES", "TOO_MANY_GATEWAYS", "TOO_MANY_EXPERIMENTS", "LAYER_FULL", "TOO_MANY_EXPORTS"}
"""Reasons of RESOURCE_EXHAUSTED that mutants bring about: each that is accepted takes a place."""


@group.row(
    f"{MESSAGES:,} malformed messages on every RPC",
    f"{MESSAGES:,} mutants (seeded) on each method: what does not decode is INVALID_ARGUMENT; what does is "
    "answered with a canonical code; OK only where request and reply keep what the protos promise; no process dies "
    "or stops SERVING",
    longest_seconds=7200,
)
async def malformed(platform: Platform) -> Seen:
    methods = rpcs(platform.fingerprint)
    codes: Counter[str] = Counter()
    wrong: list[str] = []
    async with AsyncExitStack() as stack:
        channels = {
            name: await stack.enter_async_context(StageChannel(stage.address))
            for name, stage in platform.stages.items()
        }

        async def send(rpc: Rpc, raw: bytes) -> None:
            asked = decodable(type(rpc.valid), raw)
            reply: Message | None = None
            try:
                reply = await rpc.call(channels[rpc.stage].channel, raw)
                code, details, full = "OK", "", False
            except grpc.aio.AioRpcError as error:
                code, details = error.code().name, f" ({(error.details() or '')[:160]})"
                full = error_from(error).reason in FULL
            codes[code] += 1
            refused = code == "RESOURCE_EXHAUSTED" and (full or len(raw) > LARGEST_BYTES)
            if asked is None:
                sound = code == "INVALID_ARGUMENT" or refused
            else:
                sound = (code in SOUND or refused) and (reply is None or rpc.sense(asked, reply))
            if not sound:
                shown = str(asked)[:200].replace("\n", " ") if asked is not None else raw[:80].hex()
                wrong.append(f"{rpc.method.name}: {code}{details} for {shown}")

        async def worker(number: int) -> None:
            chance = random.Random(f"sluice {number}")
            for count in range(number, MESSAGES * len(methods), CONCURRENCY):
                rpc = methods[count % len(methods)]
                await send(rpc, mutated(rpc.valid, chance))

        await asyncio.gather(*(worker(number) for number in range(CONCURRENCY)))
        alive = [name for name, stage in platform.stages.items() if stage.alive]
        unwell = [name for name in alive if await channels[name].health("", deadline=time.monotonic() + 5) is not None]
        for rpc in methods:
            codes_before = codes.copy()
            await send(rpc, rpc.valid.SerializeToString())
            codes = codes_before
    ok = not wrong and len(alive) == len(platform.stages) and not unwell
    told = ", ".join(f"{count:,} {code}" for code, count in codes.most_common())
    words = (
        f"{codes.total():,} messages over {len(methods)} methods: {told}; "
        f"{len(alive)} of {len(platform.stages)} processes live and serve"
    )
    return Seen(ok, words + (f"; {len(wrong)} wrong, as {wrong[:3]}" if wrong else ""))


@group.row(
    "5 MiB and 50 MiB payloads",
    "5 MiB of documents are stored; 50 MiB are refused (RESOURCE_EXHAUSTED) and cost the gateway less than 100 MiB "
    "of memory; what comes next is served",
)
async def payloads(platform: Platform) -> Seen:
    gateway_process = platform.stages["gateway"]
    assert gateway_process.child is not None
    process = Process.of(gateway_process.child.pid)
    word = "storm surge at sea " * 512

    def documents(mebibytes: int) -> list[Document]:
        return [Document(f"big-{number}", "", word) for number in range(mebibytes * MIB // len(word))]

    started = time.monotonic()
    five = documents(5)
    stored = 0
    for start in range(0, len(five), 512):
        stored += (await platform.client.index(five[start : start + 512], collection="big")).indexed_count
    took = time.monotonic() - started
    before = process.resident_mib
    code = "OK"
    fifty = [Document(f"huge-{number}", "", "x" * (MIB // 2)) for number in range(100)]
    try:
        await platform.client.index(fifty, collection="big")
    except SluiceError as error:
        code = error.code.name
    grown = process.resident_mib - before
    after = await platform.client.search("storm", collection="big")
    ok = stored == len(five) and code == "RESOURCE_EXHAUSTED" and grown < 100 and bool(after.results)
    words = f"5 MiB: {stored} documents stored in {ms(took)}; 50 MiB: {code}, {grown:+.0f} MiB of memory"
    return Seen(ok, f"{words}; then {len(after.results)} results")
