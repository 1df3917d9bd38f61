"""`python -m drills.observe`: whether operators see what happens; build/observe.json.

The six services with real models, Qdrant's own protocol, an OTLP receiver and a real Prometheus that scrapes them.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.local.paths import BUILD, shown
from deploy.local.progress import say
from drills.observe import platform, rollouts
from drills.observe.checks import CHECKS, Row
from services.chassis.errors import StartupError

RESULT = BUILD / "observe.json"
_NARROWEST = 150


def main(
    only: Annotated[str, typer.Option(help=f"Check one of {', '.join(CHECKS)}, and write nothing.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON instead of a table.")] = False,
) -> None:
    """Start everything, drive load of every kind, and check metrics, traces, logs, rules and dashboards. Two minutes.

    Exit code 1 if anything is not as it should be.

    Example: python -m drills.observe --only traces
    """
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console = Console(stderr=as_json, width=max(console.width, _NARROWEST))
    if only and only not in CHECKS:
        console.print(f"There is no {only!r}; there are: {', '.join(CHECKS)}.", markup=False)
        sys.exit(2)
    started = time.monotonic()
    try:
        rows = asyncio.run(_observe([only] if only else list(CHECKS), console))
    except StartupError as error:
        say(error, console)
        sys.exit(3)
    except KeyboardInterrupt:
        console.print("Stopped; nothing is written.")
        sys.exit(130)
    result = {
        "ok": all(row.ok for row in rows),
        "seconds": round(time.monotonic() - started),
        "rows": [asdict(row) for row in rows],
    }
    if as_json:
        print(json.dumps(result, indent=2))  # noqa: T201  the result
    else:
        console.print(_table(rows))
    if not only:
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        console.print(f"Written to {shown(RESULT)}.")
    failed = sum(not row.ok for row in rows)
    console.print(f"{len(rows) - failed} of {len(rows)} are as they should be, after {result['seconds']} s.")
    sys.exit(0 if result["ok"] else 1)


async def _observe(names: list[str], console: Console) -> list[Row]:
    rows: list[Row] = []
    with console.status("") as status:

        def doing(what: str) -> None:
            status.update(what)

        async with platform.observed(doing, lambda stage: status.update(f"{stage} serves")) as observed:
            if {"metrics", "dashboards"} & set(names):
                await platform.drive(observed, doing)
                await rollouts.drive(observed, doing)
                await observed.prometheus.scraped(3)
            for name in names:
                doing(f"checking {name}")
                async for row in CHECKS[name](observed):
                    rows.append(row)
                    mark = "[green]✓[/]" if row.ok else "[red]✗[/]"
                    console.print(f"{mark} {row.group}: {escape(row.what)} [dim]{escape(row.seen)}[/]", soft_wrap=True)
    return rows


def _table(rows: list[Row]) -> Table:
    table = Table("", "", "what was seen", title="build/observe.json", title_justify="left")
    for row in rows:
        table.add_row("[green]✓[/]" if row.ok else "[red]✗[/]", f"{row.group}: {escape(row.what)}", escape(row.seen))
    return table


if __name__ == "__main__":
    typer.run(main)
