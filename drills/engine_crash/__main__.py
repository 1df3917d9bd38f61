"""Run the crash drill of the embedded engine (`make test-engine-crash`); writes build/engine-crash.json."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from deploy.local.paths import BUILD, shown
from drills.engine_crash.full_disk import full_disk
from drills.engine_crash.kills import kills
from drills.engine_crash.poisoned_log import poisoned_log

RESULT = BUILD / "engine-crash.json"
_RESERVE = 64 * 2**20


def main(
    kill: Annotated[
        int, typer.Option("--kills", min=1, help="Kills of the process that computes and its parent.")
    ] = 200,
    poison: Annotated[int, typer.Option(min=1, help="Logs that are spoilt.")] = 10,
) -> None:
    """Kill, fill and spoil, and compare what is left with what was acknowledged. Exit code 1 if a row is not ok."""
    console = Console()
    BUILD.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory(dir=BUILD, prefix="engine-crash-") as name:
        folder = Path(name)
        for drill in (kills(folder, kill), poisoned_log(folder, poison), full_disk(_RESERVE), full_disk(0)):
            started = time.monotonic()
            row = asyncio.run(drill)
            rows.append(row)
            verdict = "ok" if row["ok"] else "[red]FAIL[/]"
            console.print(f"{escape(row['drill'])}: {escape(row['observed'])} {verdict}", highlight=False)
            console.print(f"{time.monotonic() - started:.0f} s", highlight=False)
    RESULT.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    console.print(f"Written to {shown(RESULT)}.")
    sys.exit(0 if all(row["ok"] for row in rows) else 1)


if __name__ == "__main__":
    typer.run(main)
