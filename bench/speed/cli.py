"""Options, progress and output that the commands of this package share."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.speed import results
from bench.speed.measurements import Measurement
from bench.speed.session import Session
from deploy.local.paths import shown
from deploy.local.progress import say
from services.chassis.errors import StartupError

_QUICK_SCALE = 0.25
_QUICK_ROUNDS = 2
_NARROWEST = 150
_BUSY = 0.1

Only = Annotated[str, typer.Option(help="Measure rows whose name matches, as in 'rerank/*'.")]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds; sides take turns, and medians are kept.")]
Quick = Annotated[bool, typer.Option("--quick", help="Two short rounds, to see that it works.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the measured rows as JSON instead of a table.")]


def examples(lines: str) -> str:
    """Examples at the end of `--help`, a line each."""
    return "\n\n".join(["[bold]Examples[/]", *(line.strip() for line in lines.strip().splitlines())])


def measure(
    command: str, measurements: Sequence[Measurement], *, only: str, rounds: int, quick: bool, as_json: bool
) -> None:
    """Run what matches, keep every row as soon as there is one, and show them."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("WARNING"))
    console = wide_console(stderr=as_json)
    chosen = [each for each in measurements if any(fnmatchcase(name, only) for name in each.names)]
    if not chosen:
        console.print(f"No row matches {only!r}; there are:", markup=False)
        console.print("\n".join(name for each in measurements for name in each.names), markup=False)
        sys.exit(2)
    measured: list[dict[str, Any]] = []
    try:
        with progress_bars(console) as progress:
            session = Session(
                rounds=_QUICK_ROUNDS if quick else rounds,
                scale=_QUICK_SCALE if quick else 1.0,
                command=command,
                progress=progress,
            )
            if session.busy_before > _BUSY:
                console.print(
                    f"[yellow]Others use {session.busy_before:.0%} of this machine: the figures will not mean much.[/]"
                )
            with session:
                for each in chosen:
                    for row in each.run(session):
                        kept = session.described(row)
                        results.store([kept])
                        measured.append(kept.as_json())
    except StartupError as error:
        say(error, console)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("Stopped; what was measured so far is kept.")
        sys.exit(130)
    report(console, measured, as_json=as_json)


def report(console: Console, measured: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Show the measured rows, and draw all."""
    drawn = results.plot(results.load())
    if as_json:
        print(json.dumps(list(measured), indent=1))
    else:
        console.print(results.table(measured))
    plot = shown(results.PLOT) if drawn else "no plot: matplotlib is missing, `pip install -e .[bench]`"
    console.print(f"All rows are in {shown(results.FILE)}; {plot}", soft_wrap=True)


def wide_console(*, stderr: bool = False) -> Console:
    """A console that fits the table where it has no width of its own."""
    console = Console(stderr=stderr)
    return console if console.is_terminal or console.width >= _NARROWEST else Console(stderr=stderr, width=_NARROWEST)


def progress_bars(console: Console) -> Progress:
    """One bar for each measurement."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)
