"""`python -m bench.feedback`: what feedback costs a search, in pairs.

Two gateways stand before the same embedder, retriever and rollout service. All users of both are in an experiment whose
arms are alike. One gateway has no keys; the other signs an impression of each answer and reports it. Both are asked the
same in turn.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.pairs.__main__ import WORDS_A_QUESTION, texts
from bench.pairs.side import cpu_seconds
from bench.speed.stages import Server, serving
from deploy.local.paths import BUILD, shown
from services.chassis.client import StageChannel
from sluice.rollout.v1 import experiment_pb2, experiment_pb2_grpc, rollout_pb2
from sluice.type.v1 import experiment_pb2 as type_pb
from sluice.type.v1 import features_pb2
from sluice_client import AsyncClient, Document
from sluice_statistics.intervals import bootstrap

RESULT = BUILD / "bench" / "feedback.json"
MOST = 1.02
PASSAGES = 1000
SIDES = ("off", "on")
_KEY = "the key of this bench that is no secret"
_SECONDS = 30


@contextmanager
def gateways(folder: Path, model: str) -> Iterator[dict[str, Server]]:
    """Both gateways, and what is behind them, with the experiment under way."""
    quiet = {"CACHE_ENTRIES": "0"}
    with ExitStack() as stack:
        database = {"ROLLOUT_DATABASE_URL": f"sqlite:///{folder / 'rollout.db'}"}
        rollout = stack.enter_context(serving("rollout", database))
        asyncio.run(_begin(rollout.address))
        embedder = stack.enter_context(serving("embedder", quiet | {"EMBEDDING_MODEL": model}))
        retriever = stack.enter_context(serving("retriever", quiet | {"QDRANT_PATH": str(folder / "qdrant")}))
        behind = {
            "EMBEDDER_ADDRESS": embedder.address,
            "RETRIEVER_ADDRESS": retriever.address,
            "ROLLOUT_ADDRESS": rollout.address,
        }
        yield {
            side: stack.enter_context(
                serving(
                    "gateway",
                    quiet
                    | behind
                    | {
                        "FEEDBACK_KEYS": _KEY if side == "on" else "",
                        "ROLLOUT_SNAPSHOT_PATH": str(folder / f"{side}.json"),
                    },
                )
            )
            for side in SIDES
        }


async def _begin(address: str) -> None:
    """Start an experiment with all users, whose arms are alike."""
    command = rollout_pb2.Command(actor="bench", reason="what feedback costs")
    plan = experiment_pb2.ExperimentPlan(
        name="alike",
        hypothesis="both arms are alike",
        method=type_pb.EXPERIMENT_METHOD_AB,
        arms=[
            type_pb.ExperimentArm(name="one"),
            type_pb.ExperimentArm(name="other", features=features_pb2.Features(max_variant_count=5)),
        ],
        share_ppm=1_000_000,
        minimum_effect=0.02,
    )
    async with StageChannel(address) as channel:
        stub: Any = experiment_pb2_grpc.ExperimentServiceStub(channel.channel)
        create = experiment_pb2.CreateExperimentRequest(command=command, plan=plan)
        await stub.CreateExperiment(create, timeout=_SECONDS)
        await stub.StartExperiment(
            experiment_pb2.StartExperimentRequest(command=command, name="alike"), timeout=_SECONDS
        )


async def searches(
    servers: dict[str, Server], rounds: int, each: int, console: Console
) -> dict[str, list[dict[str, float]]]:
    """Medians of searches, and processor time of the gateway, in milliseconds, by side and round."""
    windows: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    async with AsyncExitStack() as stack:
        clients = {
            side: await stack.enter_async_context(AsyncClient(servers[side].address, timeout=_SECONDS))
            for side in SIDES
        }
        await clients["off"].index_all(
            Document(str(number), "", text) for number, text in enumerate(texts(0, PASSAGES, 60))
        )
        for number in track(range(rounds + 1), "Searches", console=console):
            seconds: dict[str, list[float]] = {side: [] for side in SIDES}
            used = {side: -cpu_seconds(servers[side].process.pid) for side in SIDES}
            for place, question in enumerate(texts(number + 1, each, WORDS_A_QUESTION)):
                for side in SIDES if place % 2 else reversed(SIDES):
                    started = time.perf_counter()
                    answer = await clients[side].search(question, user_id=f"user-{place}")
                    seconds[side].append(time.perf_counter() - started)
                    if len(answer.experiments) != 1 or bool(answer.impression_token) != (side == "on"):
                        sys.exit("an answer is no part of the experiment, or has no token; read build/bench/logs")
            for side in SIDES:
                used[side] += cpu_seconds(servers[side].process.pid)
                if number:  # the first round warms up
                    median, cpu = statistics.median(seconds[side]), used[side] / each
                    windows[side].append({"p50": median * 1000, "processor time of the gateway": cpu * 1000})
    return windows


def rows(windows: dict[str, list[dict[str, float]]]) -> Iterator[dict[str, Any]]:
    """Figures with feedback over those without: the median over rounds, with its interval."""
    for figure in windows["off"][0]:
        of = {side: [window[figure] for window in each] for side, each in windows.items()}
        ratio = bootstrap([one / other for one, other in zip(of["on"], of["off"], strict=True)])
        bounded = figure == "p50"
        yield {
            "name": f"search: {figure}, on over off",
            "value": round(ratio.value, 4),
            "interval": [round(ratio.low, 4), round(ratio.high, 4)],
            "bound": MOST if bounded else None,
            "ok": ratio.value <= MOST if bounded else None,
            **{side: round(statistics.median(each), 3) for side, each in of.items()},
        }


def main(
    rounds: Annotated[int, typer.Option(min=2, help="Rounds; in each, both sides take a turn.")] = 20,
    each: Annotated[int, typer.Option("--searches", min=10, help="Searches of each side in each round.")] = 100,
    model: Annotated[str, typer.Option(help="EMBEDDING_MODEL; empty for pseudo-embeddings.")] = "all-MiniLM-L6-v2",
) -> None:
    """Measure what feedback costs. Leave the machine alone meanwhile. Writes build/bench/feedback.json.

    Exit code 1 if the p50 of a search is more than 2 % above that without feedback.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("WARNING"))
    console = Console(stderr=True)
    with TemporaryDirectory() as folder, gateways(Path(folder), model) as servers:
        windows = asyncio.run(searches(servers, rounds, each, console))
    made = list(rows(windows))
    command = f"python -m bench.feedback --rounds {rounds} --searches {each} --model '{model}'"
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"command": command, "rows": made, "windows": windows}) + "\n", encoding="utf-8")
    table = Table("", "on", "off", "ratio", "interval")
    for row in made:
        low, high = row["interval"]
        table.add_row(
            row["name"], f"{row['on']:.2f}", f"{row['off']:.2f}", f"{row['value']:.3f}", f"{low:.3f} to {high:.3f}"
        )
    Console(width=None if console.is_terminal else 130).print(table)
    console.print(f"Written to {shown(RESULT)}.")
    sys.exit(1 if any(row["ok"] is False for row in made) else 0)


if __name__ == "__main__":
    typer.run(main)
