"""`python -m bench.plan`: compares `sluice plan` with the real stack on this machine.

Calibrates, writes down what is predicted at three loads, then offers them: Poisson arrivals, everything switched on.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
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
from sluice_client import Features, Policies, Policy, SluiceError
from sluice_plan import MODEL_STAGES, STAGES, Measurements, Prediction, Search, Stack, Stage
from sluice_statistics.percentiles import percentile

LOADS = (0.3, 0.6, 0.85)
# The fuller it is, the longer a queue remembers, and the longer it takes to tell its p99.
LONGER: Mapping[float, float] = {0.3: 0.6, 0.6: 0.8, 0.85: 1.6}
MOST_ERROR = 0.25
CANDIDATES = 2  # quick searches, so that there are many of them to tell a p99 by
SIMULATED = 120_000  # searches a prediction: a tenth of that leaves a p99 at 0.85 uncertain by a fifth
SEARCH = Search(frozenset(("expansion", "rerank")))
FEATURES = Features(dense=True, lexical=True, expansion=True, rerank=True, rerank_candidate_count=CANDIDATES)
# An answer that lacks a stage would be a quick one, so it counts as a failure.
EVERYTHING = Policies(expansion=Policy.REQUIRED, embedding=Policy.REQUIRED, rerank=Policy.REQUIRED)
PERCENTILES = (50, 90, 95, 99)
RESULT = BUILD / "plan.json"
MEASUREMENTS = BUILD / "plan-measurements.json"
_CALLERS = 12
_PATIENCE_SECONDS = 30.0


@dataclass(slots=True)
class Measured:
    """Searches at one load, over all rounds."""

    milliseconds: list[float] = field(default_factory=list)
    rounds_p99: list[float] = field(default_factory=list)
    failed: int = 0
    busy: list[dict[Stage, float]] = field(default_factory=list)
    """Share of time that each stage's bottleneck was held: its model, or its event loop."""


class Drill:
    """Asks one stack, and no question twice."""

    def __init__(self, stack: Searched) -> None:
        self._stack = stack
        self._milliseconds: list[float] = []
        self._failed = 0

    async def offered(self, rate: float, seconds: float, measured: Measured) -> None:
        """Ask at random moments (Poisson), whatever becomes of earlier searches."""
        _, busy = await self._run(opened(self._ask, rate=rate, seconds=seconds))
        measured.milliseconds += self._milliseconds
        measured.rounds_p99.append(percentile(self._milliseconds, 99))
        measured.failed += self._failed
        measured.busy.append(busy)

    async def most(self, searches: int) -> float:
        """Searches a second that callers get answered who ask again at once."""
        seconds, _ = await self._run(closed(self._ask, requests=searches, concurrency=_CALLERS))
        return len(self._milliseconds) / seconds

    async def _run(self, load: Awaitable[Any]) -> tuple[float, dict[Stage, float]]:
        self._milliseconds, self._failed = [], 0
        before, started = await read_counters(metrics(self._stack)), time.perf_counter()
        await load
        seconds, after = time.perf_counter() - started, await read_counters(metrics(self._stack))
        held = {stage: "held" if stage in MODEL_STAGES else "cpu" for stage in STAGES}
        return seconds, {stage: (after[stage] - before[stage])[name] / seconds for stage, name in held.items()}

    async def _ask(self) -> None:
        started = time.perf_counter()
        try:
            await self._stack.client.search(
                self._stack.question(),
                collection=self._stack.collection,
                features=FEATURES,
                policies=EVERYTHING,
                timeout=_PATIENCE_SECONDS,
            )
            self._milliseconds.append((time.perf_counter() - started) * 1000)
        except SluiceError:
            self._failed += 1


def metrics(stack: Searched) -> dict[Stage, str]:
    """URLs of the stages' metrics."""
    return {stage: stack.stack.metrics_url(stage) for stage in STAGES}


async def run(
    console: Console, seconds: float, rounds: int, searches: int, measurements: Measurements | None
) -> dict[str, Any]:
    """Calibrate, predict, and offer the loads."""
    async with searched("plan", console) as stack:
        with Progress(console=console) as progress:
            if measurements is None:
                wanted = Wanted(
                    collection=stack.collection,
                    queries=[f"what does {title} do in case" for title in stack.titles],
                    candidates=CANDIDATES,
                    searches=searches,
                    batch_tokens=0,
                )
                bar = progress.add_task("Calibrating, one search at a time")
                measurements = await calibrate(
                    stack.client,
                    wanted,
                    metrics(stack),
                    lambda done, total: progress.update(bar, completed=done, total=total),
                )
                MEASUREMENTS.write_text(measurements.model_dump_json(indent=1) + "\n", encoding="utf-8")
            model, cores = Stack(measurements, SIMULATED), float(len(os.sched_getaffinity(0)))
            capacity = model.predict_together(SEARCH, 1e-6, cores).capacity
            predictions = {load: model.predict_together(SEARCH, load * capacity, cores) for load in LOADS}
            console.print(f"Predicted: {capacity:.1f} searches/s at most; p99 ", end="")
            console.print(", ".join(f"{one.percentiles[99]:.0f} ms at {load:g}" for load, one in predictions.items()))
            drill, most = Drill(stack), []
            measured = {load: Measured() for load in LOADS}
            bar = progress.add_task("Offering loads", total=rounds * (len(LOADS) + 1))
            await drill.offered(LOADS[0] * capacity, 5.0, Measured())  # connections, caches of the processor
            for number in range(rounds):
                for load in LOADS if number % 2 == 0 else LOADS[::-1]:
                    await drill.offered(load * capacity, LONGER[load] * seconds, measured[load])
                    progress.advance(bar)
                most.append(await drill.most(round(capacity * min(20.0, seconds))))
                progress.advance(bar)
    rows = [row(load, predictions[load], measured[load]) for load in LOADS]
    return {
        "bound": {"p99_error": MOST_ERROR, "loads": list(LOADS)},
        "ok": all(one["ok"] for one in rows),
        "capacity": {"predicted": round(capacity, 2), "measured": round(statistics.median(most), 2)},
        "candidates": CANDIDATES,
        "features": sorted(SEARCH.features),
        "measured": measurements.measured.model_dump(),
        "rows": rows,
    }


def row(load: float, predicted: Prediction, measured: Measured) -> dict[str, Any]:
    """Prediction and measurement of one load."""
    busy = {stage: statistics.fmean(one[stage] for one in measured.busy) for stage in STAGES}
    saturating = max(busy, key=lambda stage: busy[stage])
    error = predicted.percentiles[99] / percentile(measured.milliseconds, 99) - 1
    return {
        "load": load,
        "qps": round(predicted.qps, 2),
        "searches": len(measured.milliseconds),
        "failed": measured.failed,
        **{f"predicted_p{percent}_ms": round(predicted.percentiles[percent], 1) for percent in PERCENTILES},
        **{f"measured_p{percent}_ms": round(percentile(measured.milliseconds, percent), 1) for percent in PERCENTILES},
        "measured_p99_ms_rounds": [round(one, 1) for one in measured.rounds_p99],
        "predicted_saturating": predicted.saturating,
        "measured_saturating": saturating,
        "predicted_busy": {stage: round(state.use, 3) for stage, state in predicted.stages.items()},
        "measured_busy": {stage: round(share, 3) for stage, share in busy.items()},
        "name": f"error of the p99 at {load:g}",
        "value": round(error, 3),
        "bound": MOST_ERROR,
        "ok": abs(error) <= MOST_ERROR and saturating == predicted.saturating and not measured.failed,
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
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        console.print(_table(result["rows"]))
        known = result["capacity"]
        console.print(f"Searches a second at most: {known['predicted']} predicted, {known['measured']} measured")
    console.print(f"Written to {shown(RESULT)}.")
    sys.exit(0 if result["ok"] else 1)


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table("load", "qps", "searches", title="predicted / measured, ms", title_justify="left")
    for name in (*(f"p{percent}" for percent in PERCENTILES), "error of p99", "saturating stage", ""):
        table.add_column(name, justify="right" if name.startswith("p") else "left")
    for one in rows:
        table.add_row(
            f"{one['load']:g}", f"{one['qps']:.1f}", str(one["searches"]),
            *(f"{one[f'predicted_p{p}_ms']:.0f} / {one[f'measured_p{p}_ms']:.0f}" for p in PERCENTILES),
            f"{one['value']:+.0%}", f"{one['predicted_saturating']} / {one['measured_saturating']}",
            "[green]✓[/]" if one["ok"] else "[red]✗[/]",
        )  # fmt: skip
    return table


if __name__ == "__main__":
    typer.run(main)
