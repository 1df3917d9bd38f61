"""Run the crash drills (`make test-crash`); writes build/crash.json."""

from __future__ import annotations

import asyncio
import importlib
import json
import pkgutil
import sys
import time
import traceback
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import drills.crash
from deploy.local.paths import BUILD, shown

RESULT = BUILD / "crash.json"
_COLUMNS = ("drill", "kills", "expected", "observed")


def main(
    kills: Annotated[int, typer.Option(min=1, help="Kills of each drill.")] = 50,
    only: Annotated[str, typer.Option(help="Run the drills whose name contains this; nothing is written then.")] = "",
) -> None:
    """Kill what may be killed and compare what is left. Exit code 1 if any row is not ok."""
    console = Console()
    names = [module.name for module in pkgutil.iter_modules(drills.crash.__path__) if module.name.endswith("_drill")]
    rows: list[dict[str, Any]] = []
    for name in sorted(name for name in names if only in name):
        started = time.monotonic()
        with console.status(f"{name}: {kills} kills"):
            rows += _run(name, kills)
        console.print(f"{escape(name)}: {time.monotonic() - started:.0f} s", highlight=False)
    table = Table(show_lines=True)
    for column in (*_COLUMNS, ""):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(row[column])) for column in _COLUMNS), "ok" if row["ok"] else "[red]FAIL[/]")
    console.print(table)
    if not only:
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        console.print(f"Written to {shown(RESULT)}.")
    sys.exit(0 if rows and all(row["ok"] for row in rows) else 1)


def _run(name: str, kills: int) -> list[dict[str, Any]]:
    drill = importlib.import_module(f"drills.crash.{name}").drill
    try:
        rows: list[dict[str, Any]] = asyncio.run(drill(kills))
    except Exception as error:
        traceback.print_exc()
        observed = f"ended with {type(error).__name__}: {error}"
        return [{"drill": name, "kills": kills, "expected": "an end", "observed": observed, "ok": False}]
    return rows


if __name__ == "__main__":
    typer.run(main)
