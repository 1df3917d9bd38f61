"""`python -m bench.overload`: searches under more load than the machine can answer.

Open loop: questions come at their own pace, however the answers fare. Each has 150 ms. The real stack
with its real models over a small index; the rate that it sustains is measured first.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import grpc
import typer
from rich.console import Console
from rich.table import Table

from bench.overload.plot import draw
from bench.searched import Searched, searched
from deploy.local.paths import BUILD, shown
from deploy.local.progress import say
from services.chassis.errors import StartupError
from sluice_cli.load import opened as offer
from sluice_client import Answer, Outcome, SluiceError, features
from sluice_statistics.percentiles import percentile

DEADLINE_SECONDS = 0.15
LOADS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0)
# What is tried for the reranker, dearest first: the dearest search that takes half of its deadline on an idle machine.
CANDIDATES = (32, 16, 8, 4, 2)
IDLE_SHARE = 0.5
CALLERS = 4
PATIENCE_SECONDS = 10.0
WANTED_SHARE = 0.99
FIGURE_LOAD = 2.0
RESULT = BUILD / "bench" / "overload.json"
PLOT = BUILD / "bench" / "overload.png"


@dataclass(frozen=True)
class Load:
    """Outcomes of the searches at one rate."""

    load: float
    """In sustainable rates."""
    rate: float
    """Searches a second that were asked for."""
    offered: int
    full: int
    """Answered in time, with everything."""
    degraded: int
    """Answered in time, and the answer says what it lacks."""
    refused: int
    """Refused at once (RESOURCE_EXHAUSTED): the caller may ask another gateway, or later."""
    late: int
    """Accepted, and not answered within the deadline."""
    failed: int
    """Anything else."""
    p50_ms: float
    p99_ms: float
    """Of what was answered."""

    @property
    def accepted(self) -> int:
        return self.offered - self.refused

    @property
    def in_time(self) -> float:
        """Share of the accepted searches that were answered within their deadline."""
        return (self.full + self.degraded) / self.accepted if self.accepted else 1.0


class Asking:
    """Asks questions that no one asked before."""

    def __init__(self, stack: Searched, candidates: int) -> None:
        self._stack = stack
        self._features = features(
            dense=True,
            lexical=True,
            expansion=False,
            rerank=True,
            rerank_method="cross_encoder",
            rerank_candidate_count=candidates,
        )

    async def ask(self, timeout: float) -> tuple[str, float]:
        """Ask one; its outcome, and its seconds."""
        started = time.perf_counter()
        try:
            answer = await self._stack.client.search(
                self._stack.question(), collection=self._stack.collection, features=self._features, timeout=timeout
            )
            kind = "full" if _is_full(answer) else "degraded"
        except SluiceError as error:
            kind = _KINDS.get(error.code, "failed")
        seconds = time.perf_counter() - started
        return ("late" if kind in {"full", "degraded"} and seconds > timeout else kind), seconds


_KINDS = {grpc.StatusCode.RESOURCE_EXHAUSTED: "refused", grpc.StatusCode.DEADLINE_EXCEEDED: "late"}


def _is_full(answer: Answer) -> bool:
    return all(
        report.outcome is Outcome.RAN or report.reason in {"FEATURE_OFF", "NO_CANDIDATES"} for report in answer.stages
    )


async def sustainable(asking: Asking, seconds: float) -> float:
    """Full answers a second to callers with all the time in the world: what the stack can do, and no more."""
    answered = 0
    started = time.perf_counter()

    async def caller() -> None:
        nonlocal answered
        while time.perf_counter() - started < seconds:
            kind, _seconds = await asking.ask(PATIENCE_SECONDS)
            answered += kind == "full"

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return max(answered, 1) / (time.perf_counter() - started)


async def opened(asking: Asking, load: float, rate: float, seconds: float) -> Load:
    """Poisson arrivals at a rate."""
    kinds: Counter[str] = Counter()
    answered: list[float] = []

    async def one() -> None:
        kind, took = await asking.ask(DEADLINE_SECONDS)
        kinds[kind] += 1
        if kind in {"full", "degraded"}:
            answered.append(took * 1000)

    offered = await offer(one, rate=rate, seconds=seconds)
    return Load(
        load=load,
        rate=rate,
        offered=offered,
        full=kinds["full"],
        degraded=kinds["degraded"],
        refused=kinds["refused"],
        late=kinds["late"],
        failed=kinds["failed"],
        p50_ms=percentile(answered, 50),
        p99_ms=percentile(answered, 99),
    )


async def _candidates(stack: Searched) -> int:
    """Most candidates with which a search alone on the machine takes half of its time."""
    for count in CANDIDATES:
        trial = Asking(stack, count)
        times = [(await trial.ask(PATIENCE_SECONDS))[1] for _ in range(12)]
        if percentile(times, 50) <= DEADLINE_SECONDS * IDLE_SHARE:
            return count
    return CANDIDATES[-1]


async def _measure(console: Console, seconds: float, only: Sequence[float]) -> dict[str, object]:
    async with searched("overload", console) as stack:
        candidates = await _candidates(stack)
        asking = Asking(stack, candidates)
        capacity = await sustainable(asking, seconds)
        console.print(f"Sustainable: [bold]{capacity:.1f}[/] searches/s, each reranking {candidates} candidates")
        loads = []
        for load in only:
            loads.append(await opened(asking, load, load * capacity, seconds))
            console.print(f"[dim]{load:g}x: {loads[-1].in_time:.1%} of {loads[-1].accepted} accepted in time[/]")
            await asyncio.sleep(1)
    figure = next((load.in_time for load in loads if load.load == FIGURE_LOAD), None)
    return {
        "deadline_ms": DEADLINE_SECONDS * 1000,
        "passages": len(stack.titles),
        "rerank_candidates": candidates,
        "sustainable_per_second": capacity,
        "in_time_at_2x": figure,
        "loads": [asdict(load) | {"accepted": load.accepted, "in_time": load.in_time} for load in loads],
    }


def main(
    seconds: Annotated[float, typer.Option(help="Seconds at each rate.", min=2)] = 15.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of a table.")] = False,
) -> None:
    """Offer a quarter to three times what the stack sustains. Writes build/bench/overload.json and .png.

    Leave the machine alone meanwhile. Exit code 1 if less than 99 % of the accepted searches are in time at 2x.
    """
    console = Console(stderr=as_json)
    if not console.is_terminal:  # a pipe or a file, which has no width of its own
        console = Console(stderr=as_json, width=120)
    try:
        result = asyncio.run(_measure(console, seconds, LOADS))
    except StartupError as error:
        say(error, console)
        sys.exit(3)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        console.print(_table(result))
    console.print(
        f"Written to {shown(RESULT)}"
        + (f" and {shown(PLOT)}." if draw(result, PLOT) else "; no plot: `pip install -e '.[bench]'`.")
    )
    figure = result["in_time_at_2x"]
    sys.exit(0 if isinstance(figure, float) and figure >= WANTED_SHARE else 1)


def _table(result: dict[str, object]) -> Table:
    table = Table(
        "load", "offered/s", "offered", "full", "degraded", "refused", "late", "failed", "p50", "p99", "in time"
    )
    for load in result["loads"]:  # type: ignore[attr-defined]  # as it is in the file
        table.add_row(
            f"{load['load']:g}x", f"{load['rate']:.1f}",
            *(str(load[kind]) for kind in ("offered", "full", "degraded", "refused", "late", "failed")),
            f"{load['p50_ms']:.0f} ms", f"{load['p99_ms']:.0f} ms", f"{load['in_time']:.1%}",
        )  # fmt: skip
    return table


if __name__ == "__main__":
    typer.run(main)
