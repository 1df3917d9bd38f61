"""`python -m bench.plan`: does `sluice plan` foresee what the real stack on this machine does?

Calibrates, writes down what is predicted at three loads, then offers them: Poisson arrivals, everything switched on.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.plan.drill import Drill, Measured
from bench.plan.plot import draw
from bench.speed.load import LoadProcess
from demo import corpus as documentation
from demo.corpus import Corpus
from demo.indexing import collection_for, is_stored, store
from deploy.local import LocalStack
from deploy.local.paths import BUILD, shown
from deploy.local.progress import say, starting
from services.chassis.errors import StartupError
from sluice_cli.calibrate import Wanted, calibrate
from sluice_cli.calls import Problem, say_problem
from sluice_client import SluiceClient
from sluice_plan import STAGES, Layout, Measurements, Network, Prediction, Search
from sluice_plan.measurements import Feature

LOADS = (0.3, 0.6, 0.85)
# The fuller it is, the longer a queue remembers, and the longer it takes to tell its p99.
LONGER = (0.6, 0.8, 1.6)
WANTED_ERROR = 0.25
CANDIDATES = 2  # quick searches, so that there are many of them to tell a p99 by
PASSAGES = 1000
LONGEST_CHARACTERS = 320
FEATURES: frozenset[Feature] = frozenset(("expansion", "rerank"))
CAPACITY_SECONDS = 20.0
SIMULATED = 120_000  # searches a prediction: a tenth of that leaves a p99 at 0.85 uncertain by a fifth
RESULT = BUILD / "plan.json"
MEASUREMENTS = BUILD / "plan-measurements.json"
SAMPLES = BUILD / "plan-samples.json"
PLOT = BUILD / "plan.png"
ENVIRONMENT = {
    "LOG_LEVEL": "WARNING",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "",
    # Every question is to cost what a new one costs.
    "CACHE_ENTRIES": "0",
    "MAX_CONNECTION_AGE_SECONDS": "86400",
}
_PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class _Ways:
    """How the drill is run."""

    seconds: float
    rounds: int
    searches: int
    measurements: Path | None


async def _run(console: Console, ways: _Ways) -> dict[str, Any]:
    corpus = documentation.load(BUILD / "demo")
    short = [passage for passage in corpus.passages if len(passage.text) <= LONGEST_CHARACTERS]
    corpus = Corpus(tuple(short[:: max(1, len(short) // PASSAGES)]))
    with starting(console) as on_serving:
        stack = LocalStack(name="plan", data=BUILD / "data" / "plan", environment=ENVIRONMENT, on_serving=on_serving)
        await stack.__aenter__()
    try:
        with LoadProcess() as load:
            async with SluiceClient(stack.address("gateway"), timeout=10) as client:
                collection = await collection_for(client, corpus)
                if not await is_stored(client, corpus, collection):
                    with console.status(f"Indexing {len(corpus.passages)} passages"):
                        await store(client, corpus, collection)
                titles = [passage.title for passage in corpus.passages]
                measurements = await _calibrated(console, ways, stack, client, collection, titles)
            drill = Drill(stack, load, collection, titles, CANDIDATES)
            return await _compared(console, ways, drill, measurements)
    finally:
        await stack.stop()


async def _calibrated(
    console: Console, ways: _Ways, stack: LocalStack, client: SluiceClient, collection: str, titles: list[str]
) -> Measurements:
    if ways.measurements is not None:
        return Measurements.from_json(json.loads(ways.measurements.read_text(encoding="utf-8")))
    wanted = Wanted(
        metrics={stage: stack.metrics_url(stage) for stage in STAGES},
        collection=collection,
        queries=[f"what does {title} do in case" for title in titles],
        candidates=CANDIDATES,
        searches=ways.searches,
        batch_tokens=0,
    )
    with Progress(console=console) as progress:
        bar = progress.add_task("Calibrating, one search at a time")
        measurements = await calibrate(
            client, wanted, lambda done, total: progress.update(bar, completed=done, total=total)
        )
    MEASUREMENTS.write_text(json.dumps(measurements.as_json(), indent=1) + "\n", encoding="utf-8")
    return measurements


async def _compared(console: Console, ways: _Ways, drill: Drill, measurements: Measurements) -> dict[str, Any]:
    network, search = Network(measurements, SIMULATED), Search(FEATURES)
    layout = Layout(shared_cores=float(len(os.sched_getaffinity(0))))
    capacity = network.predict(search, 1e-6, layout).capacity
    predictions = [network.predict(search, load * capacity, layout) for load in LOADS]
    rows = [_row(load, predicted, []) for load, predicted in zip(LOADS, predictions, strict=True)]
    # Written down before anything is measured.
    result = {"capacity": {"predicted": round(capacity, 2), "measured": None}, "candidates": CANDIDATES, "rows": rows}
    _write(result)
    console.print(f"Predicted: {capacity:.1f} searches/s at most, {predictions[0].saturating} first; p99 ", end="")
    console.print(", ".join(f"{row['predicted_p99_ms']:.0f} ms at {row['load']:g}" for row in rows))
    rounds: list[list[Measured]] = [[] for _ in LOADS]
    most: list[float] = []
    with Progress(console=console) as progress:
        bar = progress.add_task("Offering loads", total=ways.rounds * (len(LOADS) + 1))
        await drill.offered(LOADS[0] * capacity, 5.0)  # connections, caches of the processor
        for number in range(ways.rounds):
            order = range(len(LOADS)) if number % 2 == 0 else range(len(LOADS) - 1, -1, -1)
            for place in order:
                rounds[place].append(await drill.offered(LOADS[place] * capacity, LONGER[place] * ways.seconds))
                _keep(rounds)
                progress.advance(bar)
                await asyncio.sleep(1)
            most.append((await drill.most(capacity, min(CAPACITY_SECONDS, ways.seconds))).rate)
            progress.advance(bar)
            await asyncio.sleep(2)
    rows = [_row(load, predictions[place], rounds[place]) for place, load in enumerate(LOADS)]
    result = {
        "bar": {"p99_error": WANTED_ERROR, "loads": list(LOADS)},
        "ok": all(row["ok"] for row in rows),
        "capacity": {"predicted": round(capacity, 2), "measured": round(statistics.median(most), 2)},
        "candidates": CANDIDATES,
        "features": sorted(FEATURES),
        "measured": measurements.as_json()["measured"],
        "seconds": ways.seconds,
        "rounds": ways.rounds,
        "rows": rows,
    }
    _write(result)
    return result


def _row(load: float, predicted: Prediction, rounds: list[Measured]) -> dict[str, Any]:
    row: dict[str, Any] = {"load": load, "qps": round(predicted.qps, 2)}
    milliseconds = [one for measured in rounds for one in measured.milliseconds]
    for percent in _PERCENTILES:
        row[f"predicted_p{percent}_ms"] = round(predicted.times.percentile(percent) * 1000, 1)
        row[f"measured_p{percent}_ms"] = round(float(np.percentile(milliseconds, percent)), 1) if rounds else None
    row["predicted_saturating"] = predicted.saturating
    row["predicted_busy"] = {stage: round(state.use, 3) for stage, state in predicted.stages.items()}
    if not rounds:
        return row
    busy = {stage: statistics.fmean(one.busy[stage] for one in rounds) for stage in STAGES}
    saturating = max(busy, key=lambda stage: busy[stage])
    error = row["predicted_p99_ms"] / row["measured_p99_ms"] - 1
    return {
        **row,
        "searches": len(milliseconds),
        "failed": sum(one.failed for one in rounds),
        "measured_p99_ms_rounds": [round(float(np.percentile(one.milliseconds, 99)), 1) for one in rounds],
        "error": round(error, 3),
        "measured_saturating": saturating,
        "measured_busy": {stage: round(share, 3) for stage, share in busy.items()},
        "measured_cpu": {stage: round(statistics.fmean(one.cpu[stage] for one in rounds), 3) for stage in STAGES},
        "ok": abs(error) <= WANTED_ERROR
        and saturating == row["predicted_saturating"]
        and not any(one.failed for one in rounds),
    }


def _keep(rounds: list[list[Measured]]) -> None:
    """What was measured so far: an hour of quiet is hard to come by."""
    kept = {f"{load:g}": [asdict(measured) for measured in rounds[place]] for place, load in enumerate(LOADS)}
    SAMPLES.write_text(json.dumps(kept) + "\n", encoding="utf-8")


def _write(result: dict[str, Any]) -> None:
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _table(result: dict[str, Any]) -> Table:
    table = Table("load", "qps", "searches", title="predicted / measured, ms", title_justify="left")
    for percent in _PERCENTILES:
        table.add_column(f"p{percent}", justify="right")
    for column in ("error of p99", "saturating stage", ""):
        table.add_column(column)
    for row in result["rows"]:
        table.add_row(
            f"{row['load']:g}", f"{row['qps']:.1f}", str(row["searches"]),
            *(f"{row[f'predicted_p{p}_ms']:.0f} / {row[f'measured_p{p}_ms']:.0f}" for p in _PERCENTILES),
            f"{row['error']:+.0%}", f"{row['predicted_saturating']} / {row['measured_saturating']}",
            "[green]✓[/]" if row["ok"] else "[red]✗[/]",
        )  # fmt: skip
    return table


def main(
    seconds: Annotated[
        float, typer.Option(help="Seconds at each load in each round, more or less by how full it is.", min=2)
    ] = 80.0,
    rounds: Annotated[int, typer.Option(help="How often each load is offered.", min=1)] = 2,
    searches: Annotated[int, typer.Option(help="Searches of each kind to calibrate with.", min=8)] = 200,
    measurements: Annotated[
        Path | None, typer.Option(help="Measurements of an earlier calibration, instead of a new one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of a table.")] = False,
) -> None:
    """Compare `sluice plan` with the stack on this machine. Writes build/plan.json and build/plan.png.

    About 11 minutes; leave the machine alone meanwhile. Exit code 1 if a p99 is off by more than 25 %, or another stage
    saturates than predicted.
    """
    console = Console(stderr=as_json)
    if not console.is_terminal:  # a pipe or a file, which has no width of its own
        console = Console(stderr=as_json, width=140)
    try:
        result = asyncio.run(_run(console, _Ways(seconds, rounds, searches, measurements)))
    except StartupError as error:
        say(error, console)
        sys.exit(3)
    except Problem as problem:
        say_problem(problem.message, problem.remedy)
        sys.exit(3)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        console.print(_table(result))
        known = result["capacity"]
        console.print(f"Searches a second at most: {known['predicted']} predicted, {known['measured']} measured")
    console.print(
        f"Written to {shown(RESULT)}"
        + (f" and {shown(PLOT)}." if draw(result, PLOT) else "; no plot: `pip install -e '.[bench]'`.")
    )
    sys.exit(0 if result["ok"] else 1)


if __name__ == "__main__":
    typer.run(main)
