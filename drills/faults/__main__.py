"""`python -m drills.faults`: provokes every fault; what was expected and what was seen goes to build/faults.json."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.local.paths import BUILD, shown
from drills.faults import (
    callers,
    connections,
    load,
    models,
    overload,
    pipeline,
    pool,
    recovery,
    replicas,
    requests,
    small_inputs,
)
from drills.faults.drill import Group, Row, Seen

GROUPS: tuple[Group[Any], ...] = (
    pool.group,
    connections.group,
    pipeline.group,
    replicas.group,
    overload.group,
    load.group,
    callers.group,
    recovery.group,
    small_inputs.group,
    models.group,
    requests.group,
)
Results = Sequence[tuple[Row, Seen, float]]

RESULT = BUILD / "faults.json"
_NARROWEST = 150


def main(
    only: Annotated[str, typer.Option(help="Run the rows whose fault or group contains this, and write nothing.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON instead of a table.")] = False,
) -> None:
    """Provoke every fault and see what happens. Writes build/faults.json; exit code 1 if any row is not ok."""
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console = Console(stderr=as_json, width=max(console.width, _NARROWEST))
    chosen = [(group, [row for row in group.rows if _wanted(only, group, row)]) for group in GROUPS]
    if not any(rows for _group, rows in chosen):
        console.print(f"No fault and no group contains {only!r}.", markup=False)
        sys.exit(2)
    try:
        results = asyncio.run(_drill([(group, rows) for group, rows in chosen if rows], console))
    except KeyboardInterrupt:
        console.print("Stopped; nothing is written.")
        sys.exit(130)
    _report(results, console, as_json)
    if not only:
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(_rows(results), indent=2) + "\n", encoding="utf-8")
        console.print(f"Written to {shown(RESULT)}.")
    sys.exit(0 if all(seen.ok for _row, seen, _seconds in results) else 1)


async def _drill(chosen: Sequence[tuple[Group[Any], Sequence[Row]]], console: Console) -> list[tuple[Row, Seen, float]]:
    results: list[tuple[Row, Seen, float]] = []
    total = sum(len(rows) for _group, rows in chosen)
    with console.status("") as status:
        for group, rows in chosen:
            status.update(f"{group.name}: setting up")
            left = list(rows)
            try:
                async with group.setting() as setting:
                    while left:
                        row = left[0]
                        status.update(f"{len(results) + 1}/{total} {escape(row.fault)}")
                        started = time.monotonic()
                        seen = await _observe(row, setting)
                        left.pop(0)
                        results.append((row, seen, time.monotonic() - started))
                        _progress(results[-1], console)
            except Exception as error:
                traceback.print_exc()
                results += [(row, Seen(False, f"the setting failed: {error!r}"), 0.0) for row in left]
    return results


async def _observe(row: Row, setting: object) -> Seen:
    try:
        async with asyncio.timeout(row.longest_seconds):
            return await row.run(setting)
    except Exception as error:
        traceback.print_exc()
        return Seen(False, f"ended with {type(error).__name__}: {error}")


def _progress(result: tuple[Row, Seen, float], console: Console) -> None:
    row, seen, seconds = result
    mark = "[green]ok[/]  " if seen.ok else "[bold red]FAIL[/]"
    console.print(f"{mark} {escape(row.fault)} [dim]({seconds:.1f} s)[/]: {escape(seen.words)}", highlight=False)


def _rows(results: Results) -> list[dict[str, str | bool]]:
    return [
        {"fault": row.fault, "expected": row.expected, "observed": seen.words, "ok": seen.ok}
        for row, seen, _seconds in results
    ]


def _report(results: Results, console: Console, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_rows(results), indent=2))  # noqa: T201  # what --json is for
        return
    table = Table(show_lines=True)
    for column in ("Fault", "Expected", "Observed", ""):
        table.add_column(column, overflow="fold")
    for row, seen, _seconds in results:
        table.add_row(escape(row.fault), escape(row.expected), escape(seen.words), "ok" if seen.ok else "[red]FAIL[/]")
    console.print(table)
    failed = sum(not seen.ok for _row, seen, _seconds in results)
    took = sum(seconds for _row, _seen, seconds in results)
    console.print(f"{len(results) - failed} of {len(results)} ok, in {took:.0f} s.")


def _wanted(only: str, group: Group[Any], row: Row) -> bool:
    return only.lower() in row.fault.lower() or only.lower() in group.name.lower()


if __name__ == "__main__":
    typer.run(main)
