"""`python -m bench.telemetry`: throughput with metrics and traces against throughput without, measured in pairs.

Three whole stacks run side by side and are asked in turn: one that counts nothing and traces nothing, one with the
telemetry of production, and one that records every trace. Clients, their requests and the machine are the same.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.speed.cli import examples, progress_bars
from bench.speed.load import Call, Endpoint, LoadProcess
from bench.speed.session import EMBED, embed_query
from bench.speed.workload import Workload
from bench.telemetry.platform import Side, sides, sink
from deploy.local.paths import BUILD, shown
from deploy.local.progress import say
from services.chassis.errors import StartupError
from sluice.gateway.v1 import search_pb2
from sluice_client import Features
from sluice_statistics.percentiles import percentile

SEARCH = "/sluice.gateway.v1.SearchService/Search"
MOST_LOST = 0.03
RESULT = BUILD / "bench" / "telemetry.json"
# More than any window can use up.
_CALLS_A_SECOND = 1200
EXAMPLES = """
python -m bench.telemetry                             about 15 minutes
python -m bench.telemetry --only 'embed*' --rounds 20
python -m bench.telemetry --quick                     to see that it works
"""

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@dataclass(frozen=True)
class Load:
    """Clients that ask one thing."""

    name: str
    stage: str
    path: str
    payload: Callable[[str], bytes]
    concurrency: int


def _search(features: Features) -> Callable[[str], bytes]:
    def payload(text: str) -> bytes:
        request = search_pb2.SearchRequest(query=text, features=features)
        return request.SerializeToString()

    return payload


_BOTH = Features(expansion=True, rerank=True)
LOADS = (
    Load("embed@c32", "embedder", EMBED, embed_query, 32),
    Load("search@c8", "gateway", SEARCH, _search(Features()), 8),
    Load("search+expansion+rerank@c4", "gateway", SEARCH, _search(_BOTH), 4),
)


@dataclass(frozen=True)
class Window:
    """One side under one load for a while."""

    per_second: float
    cpu_ms: float
    """Of the stack's processes, a call."""


@dataclass(frozen=True)
class Figure:
    """Losses of one side against the one without telemetry. Medians over the pairs."""

    name: str
    per_second: float
    per_second_off: float
    lost: float
    """Share of the throughput; below 0 it is noise in our favour."""
    spread: tuple[float, float]
    """The quartiles of the pairs."""
    cpu_ms: float
    cpu_ms_off: float
    cpu_more: float
    """Share of processor time a call that comes on top: steadier than throughput on a machine that others use."""
    pairs: int
    ok: bool | None
    """True if the bound is met; None without a bound."""


async def _measure(
    collector: str, progress: Progress, only: str, rounds: int, seconds: float
) -> tuple[list[Figure], dict[str, Any]]:
    loads = [load for load in LOADS if fnmatchcase(load.name, only)]
    starting = progress.add_task("starting three stacks", total=15)
    figures: list[Figure] = []
    kept: dict[str, Any] = {}
    async with sides(collector, lambda _stage: progress.advance(starting)) as stacks:
        with LoadProcess() as clients:
            for load in loads:
                bar = progress.add_task(load.name, total=rounds * len(stacks))
                windows: dict[str, list[Window]] = {side.name: [] for side in stacks}
                for number in range(rounds):
                    # Each second round backwards, so that drift meets all sides alike.
                    for side in stacks if number % 2 == 0 else reversed(stacks):
                        windows[side.name].append(await _window(clients, side, load, number, seconds))
                        progress.advance(bar)
                kept[load.name] = {name: [asdict(window) for window in each] for name, each in windows.items()}
                figures += [_figure(load.name, name, windows) for name in windows if name != "off"]
    return figures, kept


async def _window(clients: LoadProcess, side: Side, load: Load, number: int, seconds: float) -> Window:
    texts = Workload(number).short(round(_CALLS_A_SECOND * (seconds + 1)) if load.stage == "embedder" else 4000)
    calls = [Call(load.payload(text.text), 1) for text in texts]
    endpoint = Endpoint("grpc", side.stack.address(load.stage), load.path)
    before = side.cpu_seconds()
    report = await asyncio.wrap_future(
        clients.closed_loop(endpoint, calls, concurrency=load.concurrency, seconds=seconds, warm_up_seconds=0.5)
    )
    spent = side.cpu_seconds() - before
    if failed := {code: count for code, count in report.codes().items() if code != "OK"}:
        raise StartupError(f"{load.name} on {side.name}: {failed}", remedy="Read build/run/telemetry-*/*.log.")
    if not report.samples:
        raise StartupError(
            f"{load.name} on {side.name}: nothing was answered in {seconds:g} s",
            remedy="Something else uses this machine; measure again when it is quiet, or with more --seconds.",
        )
    return Window(report.rate(), spent * 1000 / (report.rate() * (seconds + 0.5)))


def _figure(load: str, side: str, windows: dict[str, list[Window]]) -> Figure:
    on, off = windows[side], windows["off"]
    losses = [1 - one.per_second / other.per_second for one, other in zip(on, off, strict=True)]
    more = [one.cpu_ms / other.cpu_ms - 1 for one, other in zip(on, off, strict=True)]
    lost = statistics.median(losses)
    return Figure(
        name=f"{load} ({side})",
        per_second=statistics.median(window.per_second for window in on),
        per_second_off=statistics.median(window.per_second for window in off),
        lost=lost,
        spread=(percentile(losses, 25), percentile(losses, 75)),
        cpu_ms=statistics.median(window.cpu_ms for window in on),
        cpu_ms_off=statistics.median(window.cpu_ms for window in off),
        cpu_more=statistics.median(more),
        pairs=len(losses),
        ok=lost <= MOST_LOST if side == "production" else None,
    )


@app.command(epilog=examples(EXAMPLES))
def main(
    only: Annotated[str, typer.Option(help="Measure loads whose name matches, as in 'embed*'.")] = "*",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; sides take turns, and medians of pairs are kept.")] = 12,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of each side in each round.")] = 6.0,
    quick: Annotated[bool, typer.Option("--quick", help="Two short rounds, to see that it works.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of a table.")] = False,
) -> None:
    """Measure what metrics and traces cost. Leave the machine alone meanwhile. Writes build/bench/telemetry.json.

    Exit code 1 if the telemetry of production costs more than 3 % of throughput.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("WARNING"))
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console = Console(stderr=as_json, width=130)
    if quick:
        rounds, seconds = 2, 2.0
    try:
        with progress_bars(console) as progress, sink() as collector:
            figures, windows = asyncio.run(_measure(collector, progress, only, rounds, seconds))
    except StartupError as error:
        say(error, console)
        sys.exit(3)
    result = {
        "command": f"python -m bench.telemetry --only '{only}' --rounds {rounds} --seconds {seconds:g}",
        "most_lost": MOST_LOST,
        "figures": [asdict(figure) for figure in figures],
        "windows": windows,
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        console.print(_table(figures))
    console.print(f"Written to {shown(RESULT)}.")
    sys.exit(0 if all(figure.ok is not False for figure in figures) else 1)


def _table(figures: Sequence[Figure]) -> Table:
    table = Table("", title="build/bench/telemetry.json", title_justify="left")
    for column in ("calls/s", "without", "lost", "quartiles", "CPU ms a call", "without", "more", "pairs", ""):
        table.add_column(column, justify="right")
    for figure in figures:
        mark = {True: f"[green]✓[/] <= {MOST_LOST:.0%}", False: f"[red]✗[/] <= {MOST_LOST:.0%}", None: ""}[figure.ok]
        table.add_row(
            figure.name, f"{figure.per_second:.1f}", f"{figure.per_second_off:.1f}", f"{figure.lost:+.1%}",
            f"{figure.spread[0]:+.1%} … {figure.spread[1]:+.1%}", f"{figure.cpu_ms:.2f}", f"{figure.cpu_ms_off:.2f}",
            f"{figure.cpu_more:+.1%}", str(figure.pairs), mark,
        )  # fmt: skip
    return table


if __name__ == "__main__":
    app()
