"""`python -m bench.plan`: compares `sluice plan` with the real stack on this machine.

Calibrates, predicts three loads, then offers them: Poisson arrivals, everything switched on.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.searched import Searched, searched
from deploy.local.paths import BUILD, shown
from deploy.local.progress import say
from services.chassis.errors import StartupError
from sluice_cli.calibrate import Wanted, calibrate, read_counters
from sluice_cli.calls import Problem, say_problem
from sluice_cli.load import closed, opened
from sluice_client import Policies, Policy, SluiceError, features
from sluice_plan import MODEL_STAGES, STAGES, Measurements, Prediction, Search, Stack, Stage
from sluice_statistics.percentiles import percentile

# Seconds at each load, in parts: the fuller the stack is, the longer a queue remembers, and the longer its p99 takes.
LOADS: Mapping[float, float] = {0.3: 0.6, 0.6: 0.8, 0.85: 1.6}
MOST_ERROR = 0.25
CANDIDATES = 2  # quick searches, so that there are many of them to tell a p99 by
SIMULATED = 120_000  # searches a prediction: a tenth of that leaves a p99 at 0.85 uncertain by a fifth
SEARCH = Search(frozenset(("expansion", "rerank")))
FEATURES = features(
    dense=True,
    lexical=True,
    expansion=True,
    rerank=True,
    rerank_method="cross_encoder",
    rerank_candidate_count=CANDIDATES,
)
# An answer that lacks a stage would be a quick one, so it counts as a failure.
EVERYTHING = Policies(expansion=Policy.REQUIRED, embedding=Policy.REQUIRED, rerank=Policy.REQUIRED)
RESULT = BUILD / "plan.json"
MEASUREMENTS = BUILD / "plan-measurements.json"
_CALLERS = 12
_PATIENCE_SECONDS = 30.0


class Drill:
    """Asks one stack, and no question twice."""

    def __init__(self, stack: Searched) -> None:
        self.metrics: dict[Stage, str] = {stage: stack.stack.metrics_url(stage) for stage in STAGES}
        self._stack = stack
        self.milliseconds: list[float] = []
        """Of the searches that the last load got answered."""
        self.failed = 0

    async def ask(self) -> None:
        """Ask one question."""
        started = time.perf_counter()
        try:
            await self._stack.client.search(
                self._stack.question(),
                collection=self._stack.collection,
                features=FEATURES,
                policies=EVERYTHING,
                timeout=_PATIENCE_SECONDS,
            )
            self.milliseconds.append((time.perf_counter() - started) * 1000)
        except SluiceError:
            self.failed += 1

    async def run(self, load: Awaitable[Any]) -> dict[str, Any]:
        """Run a load; its searches, and the share of time that each stage's model or event loop was held."""
        self.milliseconds, self.failed = [], 0
        before, started = await read_counters(self.metrics), time.perf_counter()
        await load
        seconds, after = time.perf_counter() - started, await read_counters(self.metrics)
        held = {stage: "held" if stage in MODEL_STAGES else "cpu" for stage in STAGES}
        busy = {stage: (after[stage] - before[stage])[name] / seconds for stage, name in held.items()}
        return {"ms": self.milliseconds, "failed": self.failed, "busy": busy, "rate": len(self.milliseconds) / seconds}


async def run(
    console: Console, seconds: float, rounds: int, searches: int, measurements: Measurements | None
) -> dict[str, Any]:
    """Calibrate, predict, and offer the loads."""
    async with searched("plan", console) as stack:
        drill = Drill(stack)
        with Progress(console=console) as progress:
            if measurements is None:
                queries = [f"what does {title} do in case" for title in stack.titles]
                bar = progress.add_task("Calibrating, one search at a time")
                measurements = await calibrate(
                    stack.client,
                    Wanted(stack.collection, queries, CANDIDATES, searches, batch_tokens=0),
                    drill.metrics,
                    lambda done, total: progress.update(bar, completed=done, total=total),
                )
                MEASUREMENTS.write_text(measurements.model_dump_json(indent=1) + "\n", encoding="utf-8")
            model, cores = Stack(measurements, SIMULATED), float(len(os.sched_getaffinity(0)))
            capacity = model.predict_together(SEARCH, 1e-6, cores).capacity
            predictions = {load: model.predict_together(SEARCH, load * capacity, cores) for load in LOADS}
            told = ", ".join(f"{one.percentiles[99]:.0f} ms at {load:g}" for load, one in predictions.items())
            console.print(f"Predicted: {capacity:.1f} searches/s at most; p99 {told}")
            seen: dict[float, list[dict[str, Any]]] = {load: [] for load in LOADS}
            most = []
            bar = progress.add_task("Offering loads", total=rounds * (len(LOADS) + 1))
            await drill.run(opened(drill.ask, rate=capacity / 3, seconds=5))  # connections, caches of the processor
            for number in range(rounds):
                for load in LOADS if number % 2 == 0 else reversed(LOADS):
                    offered = opened(drill.ask, rate=load * capacity, seconds=LOADS[load] * seconds)
                    seen[load].append(await drill.run(offered))
                    progress.advance(bar)
                count = round(capacity * min(20.0, seconds))
                most.append((await drill.run(closed(drill.ask, requests=count, concurrency=_CALLERS)))["rate"])
                progress.advance(bar)
    rows = [row(load, predictions[load], seen[load]) for load in LOADS]
    return {
        "ok": all(one["ok"] for one in rows),
        "capacity": {"predicted": round(capacity, 2), "measured": round(statistics.median(most), 2)},
        "candidates": CANDIDATES,
        "features": sorted(SEARCH.features),
        "measured": measurements.measured.model_dump(),
        "rows": rows,
    }


def row(load: float, predicted: Prediction, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Prediction and measurement of one load."""
    milliseconds = [one for seen in rounds for one in seen["ms"]]
    busy = {stage: statistics.fmean(seen["busy"][stage] for seen in rounds) for stage in STAGES}
    saturating, failed = max(busy, key=lambda stage: busy[stage]), sum(seen["failed"] for seen in rounds)
    measured = {percent: percentile(milliseconds, percent) for percent in predicted.percentiles}
    error = predicted.percentiles[99] / measured[99] - 1
    return {
        "name": f"p99 at {load:g} of saturation, predicted over measured",
        "value": round(error, 3),
        "bound": MOST_ERROR,
        "ok": abs(error) <= MOST_ERROR and saturating == predicted.saturating and not failed,
        "load": load,
        "qps": round(predicted.qps, 2),
        "searches": len(milliseconds),
        "failed": failed,
        "ms": {f"p{p}": [round(one, 1), round(measured[p], 1)] for p, one in predicted.percentiles.items()},
        "saturating": [predicted.saturating, saturating],
        "busy": {stage: [round(state.use, 3), round(busy[stage], 3)] for stage, state in predicted.stages.items()},
    }


def main(
    seconds: Annotated[
        float, typer.Option(help="Seconds at each load in each round, more or less by how full it is.", min=2)
    ] = 80.0,
    rounds: Annotated[int, typer.Option(help="Rounds of all loads.", min=1)] = 2,
    searches: Annotated[int, typer.Option(help="Searches of each kind to calibrate with.", min=8)] = 200,
    measurements: Annotated[
        Path | None, typer.Option(help="Measurements of an earlier calibration, instead of a new one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of a table.")] = False,
) -> None:
    """Compare `sluice plan` with the stack on this machine. Writes build/plan.json.

    About 11 minutes; leave the machine alone meanwhile. Exit code 1 if a p99 is off by more than 25 %, or another stage
    saturates than predicted.
    """
    console = Console(stderr=as_json)
    if not console.is_terminal:  # a pipe or a file, which has no width of its own
        console = Console(stderr=as_json, width=140)
    earlier = Measurements.from_json(measurements.read_bytes()) if measurements else None
    try:
        result = asyncio.run(run(console, seconds, rounds, searches, earlier))
    except StartupError as error:
        say(error, console)
        sys.exit(3)
    except Problem as problem:
        say_problem(problem.message, problem.remedy)
        sys.exit(3)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    names = list(result["rows"][0]["ms"])
    table = Table(
        "load", "qps", "searches", *names, "error of p99", "saturating stage", "", title="predicted / measured"
    )
    for one in result["rows"]:
        cells = [f"{one['load']:g}", f"{one['qps']:.1f}", str(one["searches"])]
        cells += [" / ".join(f"{value:.0f} ms" for value in one["ms"][name]) for name in names]
        mark = "[green]✓[/]" if one["ok"] else "[red]✗[/]"
        table.add_row(*cells, f"{one['value']:+.0%}", " / ".join(one["saturating"]), mark)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        console.print(table)
        console.print(
            "Searches a second at most: {predicted} predicted, {measured} measured".format(**result["capacity"])
        )
    console.print(f"Written to {shown(RESULT)}.")
    sys.exit(0 if result["ok"] else 1)


if __name__ == "__main__":
    typer.run(main)
