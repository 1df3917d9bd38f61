"""The rollout service, killed (SIGKILL) at random moments during ramps: `make rollout-crash`, build/rollout-crash.json.

Three gateways watch, acknowledge and report meanwhile, operators command, and ramps go on, are halved and are taken
back by what is reported. After each kill the file is read as it was left:

- history, state, run of evidence and snapshot tell the same, and the history has no gap;
- every promotion stands on evidence that was there when it was decided, and that the file still holds;
- a command took effect once, however often it was sent; nothing that was answered is lost;
- evidence is neither lost nor counted twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import grpc
import typer
from google.protobuf.duration_pb2 import Duration
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from deploy.local.paths import BUILD, shown
from drills.parts.processes import StageProcess, running
from services.experiment.bucketing import Arm, arm_of, bucket_of, unit_hash
from services.experiment.latencies import EDGES, latency_bucket
from services.rollout.features import FeatureState, HistoryAction
from services.rollout.storage.database import SqliteDatabase
from services.rollout.storage.records import Records
from sluice.rollout.v1 import rollout_pb2 as pb
from sluice.rollout.v1 import rollout_pb2_grpc
from sluice.type.v1 import arm_pb2
from sluice.type.v1.features_pb2 import Features

RESULT = BUILD / "rollout-crash.json"
GATEWAYS = 3
FEATURES = ("calm-a", "calm-b", "harmful")
MOST_ANSWERS = 60
"""Most answers of the service until a kill: counted, not timed, so that a slow machine has as many moments
to be killed in as a quick one."""
_CALL_SECONDS = 2.0
_REQUESTS = 400
_USERS = [f"user-{number}" for number in range(3000)]
_ARMS = {Arm.TREATMENT: arm_pb2.ARM_TREATMENT, Arm.CONTROL: arm_pb2.ARM_CONTROL}


@dataclass
class Ledger:
    """Record of what was said to the service, to compare with its file."""

    answered: set[str] = field(default_factory=set)
    """Ids of commands that were answered."""
    refused: set[str] = field(default_factory=set)
    sent: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Requests reported by ramp and arm, answered or not."""
    counted: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Those of reports that were answered."""
    answers: int = 0
    """Commands and reports that were answered, refusals as well."""


class Gateway:
    """Watches, acknowledges, and reports what it makes up."""

    def __init__(self, name: str, channel: grpc.aio.Channel, ledger: Ledger) -> None:
        self._name = name
        self._stub = rollout_pb2_grpc.SnapshotServiceStub(channel)
        self._ledger = ledger
        self._incarnation = random.getrandbits(64)
        self._features: list[pb.SnapshotFeature] = []

    async def watch(self) -> None:
        """Watch until cancelled, whatever happens to the service."""
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for reply in self._stub.WatchSnapshot(pb.WatchSnapshotRequest(gateway=self._name)):
                    if reply.HasField("snapshot"):
                        self._features = list(reply.snapshot.features)
                        await self._stub.AcknowledgeSnapshot(
                            pb.AcknowledgeSnapshotRequest(gateway=self._name, version=reply.version),
                            timeout=_CALL_SECONDS,
                        )
            await asyncio.sleep(0.05)

    async def report(self) -> None:
        """Report until cancelled; a report that fails is sent again with its number."""
        sequence = 0
        while True:
            await asyncio.sleep(0.05)
            sequence += 1
            arms = [self._evidence(feature, arm) for feature in self._features if feature.ramp_id for arm in _ARMS]
            request = pb.ReportEvidenceRequest(
                gateway=self._name, incarnation=self._incarnation, sequence=sequence, arms=arms
            )
            keys = [(arm.ramp_id, arm_pb2.Arm.Name(arm.arm)) for arm in arms]
            for key in keys:
                self._ledger.sent[key] += _REQUESTS
            await insist(lambda request=request: self._stub.ReportEvidence(request, timeout=_CALL_SECONDS))
            self._ledger.answers += 1
            for key in keys:
                self._ledger.counted[key] += _REQUESTS

    def _evidence(self, feature: pb.SnapshotFeature, arm: Arm) -> pb.ArmEvidence:
        hashed = (unit_hash(feature.salt, user) for user in random.sample(_USERS, 300))
        units = [unit for unit in hashed if arm_of(bucket_of(unit), feature.treatment_ppm, feature.control_ppm) is arm]
        latencies = [0] * (len(EDGES) + 1)
        latencies[latency_bucket(0.1)] = _REQUESTS
        evidence = pb.ArmEvidence(
            feature=feature.name,
            ramp_id=feature.ramp_id,
            arm=_ARMS[arm],
            request_count=_REQUESTS,
            units=units,
            latency_counts=latencies,
        )
        if feature.name == "harmful" and arm is Arm.TREATMENT:
            evidence.bad_events.add(guardrail=pb.GUARDRAIL_EMPTY_RESULTS, event_count=len(units[:4]), units=units[:4])
        return evidence


class Operator:
    """Starts, promotes, halves, takes back and arms again, at random; every command until it is answered."""

    def __init__(self, channel: grpc.aio.Channel, ledger: Ledger) -> None:
        self._stub = rollout_pb2_grpc.RolloutServiceStub(channel)
        self._ledger = ledger
        self._commands = 0

    async def create(self) -> None:
        """All features."""
        for name in FEATURES:
            await self._say("CreateFeature", pb.CreateFeatureRequest(name=name, features=Features(rerank=True)))

    async def command(self) -> None:
        """Command until cancelled."""
        steps = [
            pb.PlanStep(treatment_ppm=share, dwell=Duration(nanos=200_000_000), automatic=True)
            for share in (50_000, 100_000, 200_000, 300_000, 400_000, 500_000, 1_000_000)
        ]
        plan = pb.Plan(name="hasty", steps=steps)
        while True:
            await asyncio.sleep(random.uniform(0.02, 0.15))
            name = random.choice(FEATURES)
            match random.randrange(8):
                case 0 | 1 | 2:
                    await self._say("RearmFeature", pb.RearmFeatureRequest(name=name))
                    await self._say("StartRamp", pb.StartRampRequest(name=name, plan=plan))
                case 3:
                    await self._say("PromoteFeature", pb.PromoteFeatureRequest(name=name))
                case 4:
                    await self._say("HalveFeature", pb.HalveFeatureRequest(name=name))
                case 5:
                    share = random.choice([0, 10_000, 250_000])
                    await self._say("SetTreatmentShare", pb.SetTreatmentShareRequest(name=name, treatment_ppm=share))
                case 6:
                    await self._say("RollBackFeature", pb.RollBackFeatureRequest(name=name))
                case 7:
                    await self._say("KillFeature", pb.KillFeatureRequest(name=name))

    async def _say(self, method: str, request: Any) -> None:
        self._commands += 1
        command = f"c{self._commands}"
        request.command.CopyFrom(pb.Command(actor="drill", reason=command, command_id=command))
        refused = await insist(lambda: getattr(self._stub, method)(request, timeout=_CALL_SECONDS))
        self._ledger.answers += 1
        (self._ledger.refused if refused else self._ledger.answered).add(command)


async def insist(call: Callable[[], Awaitable[Any]]) -> bool:
    """Call until there is an answer; True if it was a refusal."""
    while True:
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ALREADY_EXISTS):
                return True
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise
            await asyncio.sleep(0.05)
        else:
            return False


def problems(path: Path, ledger: Ledger) -> list[str]:
    """Faults of a file that a killed service left."""
    database = SqliteDatabase(path)
    try:
        with database.reading() as records:
            return [*_inconsistent(records), *_ahead_of_evidence(records), *_unlike_the_ledger(records, ledger)]
    finally:
        database.close()


def _inconsistent(records: Records) -> list[str]:
    wrong = []
    history = records.history()
    if [entry.number for entry in history] != list(range(1, len(history) + 1)):
        wrong.append("the history has a gap")
    newest = records.newest_snapshot()
    served = {feature.name: feature for feature in newest.to_proto().features} if newest else {}
    open_runs = {run.number: run for run in records.runs()}
    for feature in records.features():
        told = [entry for entry in history if entry.feature == feature.name]
        for before, after in pairwise(told):
            if before.new_treatment_ppm != after.old_treatment_ppm:
                wrong.append(f"{feature.name}: entry {after.number} does not begin where the one before ended")
        if not told or (told[-1].new_treatment_ppm, told[-1].state) != (feature.treatment_ppm, feature.state):
            wrong.append(f"{feature.name}: the history does not tell the state")
        sent = served.get(feature.name)
        if sent is None or (sent.treatment_ppm, sent.ramp_id) != (feature.treatment_ppm, feature.ramp_id):
            wrong.append(f"{feature.name}: the snapshot is not the state")
        elif newest is not None and told and told[-1].snapshot_version > newest.version:
            wrong.append(f"{feature.name}: the history tells of a snapshot that there is not")
        run = open_runs.pop(feature.run, None)
        if (run is not None) != feature.watched or (run and run.treatment_ppm != feature.treatment_ppm):
            wrong.append(f"{feature.name}: its run of evidence is not that of its share")
    return [*wrong, *(f"run {number} has no feature" for number in open_runs)]


def _ahead_of_evidence(records: Records) -> list[str]:
    wrong = []
    ended = [run for name in FEATURES for run in records.runs(name) if run.end_time is not None]
    for entry in records.history():
        if entry.action not in (HistoryAction.PROMOTED, HistoryAction.COMPLETED):
            continue
        if not all(row.shown for row in entry.findings.guardrails):
            wrong.append(f"entry {entry.number} promotes what was not shown")
        run = next((one for one in ended if one.feature == entry.feature and one.end_time == entry.time), None)
        kept = [arm.request_count for arm in run.arms.values()] if run else []
        decided = [arm.request_count for arm in entry.findings.arms]
        if kept != decided or not kept or not kept[0]:
            wrong.append(f"entry {entry.number} was decided on {decided} requests; {kept} are kept")
    return wrong


def _unlike_the_ledger(records: Records, ledger: Ledger) -> list[str]:
    wrong = []
    times = Counter(entry.reason for entry in records.history() if entry.actor == "drill")
    wrong += [f"command {command} took effect {count} times" for command, count in times.items() if count > 1]
    for command in ledger.answered:
        if records.remembered(command) is None:
            wrong.append(f"command {command} was answered and is lost")
    wrong += [f"command {command} was refused and took effect" for command in ledger.refused if times[command]]
    for name in FEATURES:
        for run in records.runs(name):
            for arm, totals in run.arms.items():
                key = (f"{name}.{run.number}", arm_pb2.Arm.Name(_ARMS[arm]))
                if totals.request_count > ledger.sent[key]:
                    wrong.append(f"{key}: {totals.request_count} requests are kept, {ledger.sent[key]} were sent")
                # What is reported when a run is over is left aside, so only a run under way has to have all of it.
                if run.end_time is None and totals.request_count < ledger.counted[key]:
                    wrong.append(f"{key}: {totals.request_count} requests are kept of {ledger.counted[key]} answered")
    return wrong


async def drill(kills: int, on_kill: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Kill a number of times; what was seen."""
    BUILD.mkdir(parents=True, exist_ok=True)
    ledger, wrong = Ledger(), []
    with TemporaryDirectory(dir=BUILD, prefix="rollout-crash-") as folder:
        path = Path(folder) / "rollout.db"
        environment = {
            "ROLLOUT_DATABASE_URL": f"sqlite:///{path}",
            "ROLLOUT_DECISION_SECONDS": "0.05",
            "ROLLOUT_LATENCY_WINDOW_SECONDS": "0.5",
            "DRAIN_SECONDS": "0",
        }
        async with running("rollout", environment) as service:
            async with contextlib.AsyncExitStack() as stack:
                tasks = await _traffic(stack, service, ledger)
                for _ in range(kills):
                    await _some_answers(ledger, tasks)
                    service.kill()
                    await service.ended()
                    # A failed task is a fault of the service's: it gave an unexpected answer.
                    wrong += [f"ended: {task.exception()!r}" for task in tasks if task.done()]
                    wrong += problems(path, ledger)
                    await service.start()
                    on_kill()
                    if wrong:
                        break
                await asyncio.sleep(1)
            service.kill()
            await service.ended()
            wrong += problems(path, ledger)
            with contextlib.closing(SqliteDatabase(path)) as database, database.reading() as records:
                actions = Counter(
                    f"{entry.action.value} by {'sluice' if entry.actor == 'sluice' else 'operator'}"
                    for entry in records.history()
                )
                finished = sum(feature.state is FeatureState.COMPLETE for feature in records.features())
    return {
        "kills": kills,
        "ok": not wrong and actions["promoted by sluice"] > 0 and actions["halved by sluice"] > 0,
        "problems": wrong,
        "commands_answered": len(ledger.answered),
        "commands_refused": len(ledger.refused),
        "requests_reported": sum(ledger.counted.values()),
        "actions": dict(sorted(actions.items())),
        "complete_in_the_end": finished,
    }


async def _some_answers(ledger: Ledger, tasks: list[asyncio.Task[None]]) -> None:
    """Return at a random moment of what the service does; at once if no one speaks to it any more."""
    wanted = ledger.answers + random.randint(0, MOST_ANSWERS)
    while ledger.answers < wanted and not any(task.done() for task in tasks):
        await asyncio.sleep(0.005)
    await asyncio.sleep(random.uniform(0, 0.05))


async def _traffic(stack: contextlib.AsyncExitStack, service: StageProcess, ledger: Ledger) -> list[asyncio.Task[None]]:
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 100)]
    channels = [
        await stack.enter_async_context(
            grpc.aio.insecure_channel(service.address, options=[*options, ("grpc.use_local_subchannel_pool", 1)])
        )
        for _ in range(GATEWAYS + 1)
    ]
    operator = Operator(channels[-1], ledger)
    await operator.create()
    tasks = [asyncio.create_task(operator.command())]
    for number, channel in enumerate(channels[:-1]):
        gateway = Gateway(f"g{number}", channel, ledger)
        tasks += [asyncio.create_task(gateway.watch()), asyncio.create_task(gateway.report())]
    stack.push_async_callback(_end, tasks)
    return tasks


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """Before the channels close, under which they speak."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main(kills: Annotated[int, typer.Option(min=1, help="How often it is killed.")] = 50) -> None:
    """Kill the rollout service at random moments. Exit code 1 if anything it leaves is wrong."""
    console = Console()
    started = time.monotonic()
    with Progress(console=console) as progress:
        bar = progress.add_task("kills", total=kills)
        found = asyncio.run(drill(kills, lambda: progress.advance(bar)))
    found["seconds"] = round(time.monotonic() - started, 1)
    table = Table("", "observed", show_lines=True)
    for name, value in found.items():
        told = "\n".join(value) if isinstance(value, list) else value
        table.add_row(name.replace("_", " "), json.dumps(told, indent=1) if isinstance(told, dict) else str(told))
    console.print(table)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    console.print(f"{'ok' if found['ok'] else '[red]FAIL[/]'}: written to {shown(RESULT)}.")
    sys.exit(0 if found["ok"] else 1)


if __name__ == "__main__":
    typer.run(main)
