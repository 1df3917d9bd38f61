"""`python -m bench.rollout`: the gateway's cost of rolling features out.

Deciding: one process, no network, 50 features. Searching: two gateways over the same stages, one with three ramps that
every user takes part in, reporting evidence to a real rollout service, one without; the same callers ask both in turn.
The ramps switch what is on anyway, so both gateways give their stages the same work; the stages are the cheapest there
are (pseudo-embeddings, a small index), so that the gateway's own work is as large a part as it can be.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.duration_pb2 import Duration
from rich.console import Console
from rich.progress import track
from rich.table import Table

from deploy.local import LocalStack
from deploy.local.paths import BUILD, ROOT, shown
from deploy.local.progress import starting
from services.chassis.client import StageChannel
from services.experiment.bucketing import BUCKETS
from services.experiment.flags import Overrides
from services.gateway.rollout.table import Ramp, RolloutTable
from services.gateway.search.flags import Features
from sluice.rollout.v1 import rollout_pb2, rollout_pb2_grpc
from sluice.type.v1 import features_pb2
from sluice_client import AsyncClient, Document
from sluice_statistics.intervals import Estimate, bootstrap

RESULT = BUILD / "bench" / "rollout.json"
FEATURES = 50
BATCH = 500
USERS = 5_000
# Zipf's exponent of the frequencies of users; 1 is usual.
SKEW = 1.0
CALLERS = 8
WANTED_MICROSECONDS = 100.0
WANTED_RATIO = 0.98
PARENT_DEATH = ROOT / "deploy" / "local" / "parent_death.py"
ENVIRONMENT = {
    "LOG_LEVEL": "WARNING",
    "METRICS_PORT": "0",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "",
    "EMBEDDING_MODEL": "",
    "EXPANSION_STRATEGY": "multi_query",
    "CONCURRENCY_LOWEST": "64",
}
# They switch what is on anyway.
OVERRIDES = {
    "same-lexical": features_pb2.Features(lexical=True),
    "same-dense": features_pb2.Features(dense=True),
    "same-variants": features_pb2.Features(max_variant_count=5),
}


@dataclass(frozen=True)
class Deciding:
    """Cost of one decision."""

    case: str
    microseconds: float
    """Processor time of this thread, the median over batches."""
    wall_microseconds: float
    """Time, the least over batches: what it takes when nothing else runs."""


@dataclass(frozen=True)
class Pair:
    """Searches a second of both gateways, one after the other."""

    off: float
    on: float
    off_cpu_ms: float
    on_cpu_ms: float
    """Processor time of the gateway a search: it tells the same where the machine has other work, too."""

    @property
    def ratio(self) -> float:
        """Share of the throughput that is left."""
        return self.on / self.off

    @property
    def cpu_ratio(self) -> float:
        """Share of the throughput that would be left if only the gateway took time."""
        return self.off_cpu_ms / self.on_cpu_ms


def decide(case: str, ramps: Sequence[Ramp], users: Sequence[str]) -> Deciding:
    """Decide for users, one after the other, in batches."""
    table = RolloutTable(Features(), ramps, snapshot_version=1)
    cpu, wall = [], []
    for start in range(0, len(users), BATCH):
        batch = users[start : start + BATCH]
        before, started = time.thread_time_ns(), time.perf_counter_ns()
        for user in batch:
            table.decide(user)
        wall.append((time.perf_counter_ns() - started) / len(batch) / 1000)
        cpu.append((time.thread_time_ns() - before) / len(batch) / 1000)
    return Deciding(case, round(statistics.median(cpu), 2), round(min(wall), 2))


def deciding() -> list[Deciding]:
    """All cases of deciding."""
    draw = random.Random(7)
    flags = [
        Overrides(rerank=True),
        Overrides(rerank_candidate_count=50),
        Overrides(expansion=True),
        Overrides(max_variant_count=3),
        Overrides(lexical=True),
    ]
    # Shares of a twentieth: most features take effect on no one's flags before, so that all have to be decided.
    ramping = [
        Ramp(
            f"feature-{number}",
            salt=f"feature-{number}",
            overrides=flags[number % len(flags)],
            treatment_ppm=50_000,
            control_ppm=50_000,
            ramp_id=f"feature-{number}.1",
            lease_seconds=10,
        )
        for number in range(FEATURES)
    ]
    shared = [
        Ramp(
            ramp.name,
            salt=f"experiment-{number % 10}",
            overrides=ramp.overrides,
            treatment_ppm=50_000,
            control_ppm=50_000,
            ramp_id=ramp.ramp_id,
            lease_seconds=10,
        )
        for number, ramp in enumerate(ramping)
    ]
    some = [
        ramp
        if number < 10
        else Ramp(
            ramp.name, ramp.salt, ramp.overrides, treatment_ppm=0 if number % 2 else BUCKETS, ramp_id=ramp.ramp_id
        )
        for number, ramp in enumerate(ramping)
    ]
    fresh = [f"user-{number}" for number in range(40 * BATCH)]
    weights = [1 / (rank + 1) ** SKEW for rank in range(USERS)]
    coming_back = draw.choices([f"user-{number}" for number in range(USERS)], weights, k=40 * BATCH)
    return [
        decide(f"{FEATURES} ramping, users who come back", ramping, coming_back),
        decide(f"{FEATURES} ramping, every user new", ramping, fresh),
        decide(f"{FEATURES} ramping over 10 salts, every user new", shared, fresh),
        decide(f"{FEATURES}, 10 of them ramping, every user new", some, fresh),
    ]


@asynccontextmanager
async def gateway(stack: LocalStack, rollout: str, **environment: str) -> AsyncIterator[tuple[str, int]]:
    """One more gateway over the stages of a stack; its address and the number of its process."""
    async with AsyncExitStack() as exits:
        port = _free_port()
        names = ("embedder", "reranker", "expander", "retriever")
        variables = {
            **os.environ,
            **ENVIRONMENT,
            **{f"{stage.upper()}_ADDRESS": stack.address(stage) for stage in names},
            "GRPC_PORT": str(port),
            "DRAIN_SECONDS": "0",
            "ROLLOUT_ADDRESS": rollout,
            "ROLLOUT_SNAPSHOT_PATH": str(stack.data / f"snapshot-{port}.json"),
            **environment,
        }
        child = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-I",
                "-S",
                str(PARENT_DEATH),
                str(os.getpid()),
                sys.executable,
                "-m",
                "services.gateway",
            ),
            cwd=ROOT,
            env=variables,
            stdin=subprocess.DEVNULL,
        )
        exits.push_async_callback(child.wait)
        exits.callback(child.terminate)
        address = f"127.0.0.1:{port}"
        async with StageChannel(address) as channel:
            while await channel.health("", deadline=time.monotonic() + 1) is not None:  # noqa: ASYNC110  # a process
                await asyncio.sleep(0.1)
        yield address, child.pid


def _free_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return int(holder.getsockname()[1])


async def start_ramps(address: str) -> None:
    """Three ramps at half of the users: every user is in an arm of each."""
    by = rollout_pb2.Command(actor="bench.rollout", reason="to be measured")
    plan = rollout_pb2.Plan(
        name="half", steps=[rollout_pb2.PlanStep(treatment_ppm=500_000, dwell=Duration(seconds=86_400))]
    )
    async with StageChannel(address) as channel:
        stub = rollout_pb2_grpc.RolloutServiceStub(channel.channel)
        for name, features in OVERRIDES.items():
            create = rollout_pb2.CreateFeatureRequest(command=by, name=name, features=features)
            await stub.CreateFeature(create, timeout=10)
            await stub.StartRamp(rollout_pb2.StartRampRequest(command=by, name=name, plan=plan), timeout=10)


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def throughput(client: AsyncClient, pid: int, users: Sequence[str], seconds: float) -> tuple[float, float]:
    """Searches a second, with as many under way as there are callers, and the gateway's milliseconds for each."""
    until = time.perf_counter() + seconds
    done = 0

    async def caller(number: int) -> None:
        nonlocal done
        place = number
        while time.perf_counter() < until:
            await client.search("threads wait in a pool", user_id=users[place % len(users)], timeout=30)
            place += CALLERS
            done += 1

    started, cpu = time.perf_counter(), cpu_seconds(pid)
    async with asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            group.create_task(caller(number))
    return done / (time.perf_counter() - started), (cpu_seconds(pid) - cpu) / done * 1000


async def searching(console: Console, pairs: int, seconds: float) -> list[Pair]:
    """Pairs of both gateways' throughput, in an order that is drawn for each."""
    draw = random.Random(11)
    weights = [1 / (rank + 1) ** SKEW for rank in range(USERS)]
    users = draw.choices([f"user-{number}" for number in range(USERS)], weights, k=20_000)
    data = BUILD / "bench" / "rollout"
    shutil.rmtree(data, ignore_errors=True)
    async with AsyncExitStack() as exits:
        with starting(console) as on_serving:
            stack = await exits.enter_async_context(
                LocalStack(name="bench-rollout", environment=ENVIRONMENT, data=data, on_serving=on_serving)
            )
        await start_ramps(stack.address("rollout"))
        clients, pids = {}, {}
        for name, rollout in (("off", ""), ("on", stack.address("rollout"))):
            address, pids[name] = await exits.enter_async_context(gateway(stack, rollout))
            clients[name] = await exits.enter_async_context(AsyncClient(address))
        documents = [Document(f"d{number}", f"pool {number}", f"threads wait in pool {number}") for number in range(50)]
        await clients["off"].index(documents)
        while not (await clients["on"].search("pool", user_id="a")).snapshot_version:  # noqa: ASYNC110  # a process
            await asyncio.sleep(0.1)
        for name, client in clients.items():
            await throughput(client, pids[name], users, seconds)
        measured = []
        for _ in track(range(pairs), "Pairs", console=console):
            order = draw.sample(["off", "on"], 2)
            rates = {name: await throughput(clients[name], pids[name], users, seconds) for name in order}
            measured.append(Pair(rates["off"][0], rates["on"][0], rates["off"][1], rates["on"][1]))
        return measured


def main(
    pairs: Annotated[int, typer.Option(help="Pairs of measurements of both gateways.", min=1)] = 24,
    seconds: Annotated[float, typer.Option(help="Seconds of each measurement.", min=0.5)] = 2.0,
    only_deciding: Annotated[bool, typer.Option("--only-deciding", help="Start nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of a table.")] = False,
) -> None:
    """Measure what deciding on features and reporting evidence cost.

    \b
    Examples:
      python -m bench.rollout
      python -m bench.rollout --pairs 40 --seconds 3
      python -m bench.rollout --only-deciding --json
    """
    console = Console(stderr=True)
    decisions = deciding()
    result: dict[str, object] = {
        "deciding": [asdict(case) for case in decisions],
        "deciding_wanted_microseconds": WANTED_MICROSECONDS,
    }
    ratios = []
    if not only_deciding:
        measured = asyncio.run(searching(console, pairs, seconds))
        ratios = [bootstrap([pair.ratio for pair in measured]), bootstrap([pair.cpu_ratio for pair in measured])]
        result |= {
            "pairs": [asdict(pair) for pair in measured],
            "throughput_ratio": round(ratios[0].value, 4),
            "throughput_ratio_interval": [round(ratios[0].low, 4), round(ratios[0].high, 4)],
            "cpu_ratio": round(ratios[1].value, 4),
            "cpu_ratio_interval": [round(ratios[1].low, 4), round(ratios[1].high, 4)],
            "throughput_ratio_wanted": WANTED_RATIO,
        }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        Console().print(_table(decisions, ratios))
        console.print(f"Kept in {shown(RESULT)}", style="dim")


def _table(decisions: Sequence[Deciding], ratios: Sequence[Estimate]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("", "measured", "wanted"):
        table.add_column(name, justify="left" if not name else "right")
    for case in decisions:
        table.add_row(f"deciding, {case.case}", f"{case.microseconds:.1f} µs", f"≤ {WANTED_MICROSECONDS:.0f} µs")
    names = ("throughput with evidence, of that without", "the same by the gateway's processor time alone")
    for name, ratio in zip(names, ratios, strict=False):
        table.add_row(name, f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})", f"≥ {WANTED_RATIO}")
    return table


if __name__ == "__main__":
    typer.run(main)
