"""`make rollout-regressions`: regressions are taken back, and kills reach every gateway; build/rollout.json."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from deploy.local.paths import BUILD, shown
from drills.parts.processes import LOGS
from drills.rollout_regressions.platform import Platform, platform
from drills.rollout_regressions.rows import ROWS, Row, Seen
from sluice_cli.rollout import report

RESULT = BUILD / "rollout.json"
REVIEW = BUILD / "rollout-review.html"
REVIEWED = "words-errors"
LONGEST_SECONDS = 660.0
_NARROWEST = 150

Results = list[tuple[Row, Seen, float]]


def main(
    only: Annotated[str, typer.Option(help="Run the rows whose name contains this, and write no result.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON instead of a table.")] = False,
) -> None:
    """Let regressions loose on a rollout and see it taken back. Exit code 1 if any row is not ok.

    Writes build/rollout.json, and the review of the feature that failed too much: build/rollout-review.html and .md.
    """
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console = Console(stderr=as_json, width=max(console.width, _NARROWEST))
    rows = [row for row in ROWS if only.lower() in row.name.lower()]
    if not rows:
        console.print(f"No row contains {only!r}.", markup=False)
        sys.exit(2)
    try:
        results = asyncio.run(_drill(rows, console))
    except KeyboardInterrupt:
        console.print("Stopped; nothing is written.")
        sys.exit(130)
    except (TimeoutError, RuntimeError) as error:
        reason = str(error) or "a stage did not serve in time; is the machine busy with something else?"
        console.print(f"The platform did not start: {reason} Logs are in {shown(LOGS)}.", markup=False)
        sys.exit(3)
    told = [_told(*result) for result in results]
    if as_json:
        print(json.dumps(told, indent=2))  # noqa: T201  # what --json is for
    else:
        console.print(_table(results))
    if not only:
        RESULT.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        console.print(f"Written to {shown(RESULT)}.")
    sys.exit(0 if all(seen.ok for _row, seen, _seconds in results) else 1)


async def _drill(rows: Sequence[Row], console: Console) -> Results:
    results: Results = []
    spinner = Spinner("dots", text="three gateways, four stages and the rollout service are starting")
    with Live(spinner, console=console, refresh_per_second=8, transient=True):
        async with platform() as made:
            for number, row in enumerate(rows, start=1):
                before = f"{number}/{len(rows)} {row.name}"
                spinner.update(text=Text(before))
                started = time.monotonic()

                def progress(what: str, before: str = before, started: float = started) -> None:
                    spinner.update(text=Text(f"{before}: {what}, {time.monotonic() - started:.0f} s"))

                seen = await _observe(row, made, progress)
                results.append((row, seen, time.monotonic() - started))
                mark = "[green]ok[/]  " if seen.ok else "[bold red]FAIL[/]"
                took = f"[dim]({results[-1][2]:.0f} s)[/]"
                console.print(f"{mark} {escape(row.name)} {took}: {escape(seen.words)}", highlight=False)
            spinner.update(text=Text("writing the review"))
            reviewed = [seen.feature for row, seen, _seconds in results if seen.feature]
            if reviewed:
                found = await made.rollout.report(REVIEWED if REVIEWED in reviewed else reviewed[0])
                written = await asyncio.to_thread(report.write, found, html=REVIEW, markdown=REVIEW.with_suffix(".md"))
                console.print(f"The review: {', '.join(shown(path) for path in written)}.")
    return results


async def _observe(row: Row, made: Platform, progress: Any) -> Seen:
    try:
        async with asyncio.timeout(LONGEST_SECONDS):
            return await row.run(made, progress)
    except Exception as error:
        traceback.print_exc()
        return Seen(False, f"ended with {type(error).__name__}: {error}")


def _told(row: Row, seen: Seen, seconds: float) -> dict[str, Any]:
    found = asdict(seen)
    observed = found.pop("words")
    return {"row": row.name, "expected": row.expected, "observed": observed, "seconds": round(seconds, 1), **found}


def _table(results: Results) -> Table:
    table = Table(show_lines=True)
    for column in ("Row", "Expected", "Observed"):
        table.add_column(column, overflow="fold")
    for column in ("treated until noticed", "until taken back", "seconds to zero", ""):
        table.add_column(column, justify="right")
    for row, seen, _seconds in results:
        table.add_row(
            escape(row.name),
            escape(row.expected),
            escape(seen.words),
            "-" if seen.requests is None else f"{seen.requests:,}",
            "-" if seen.requests_until_zero is None else f"{seen.requests_until_zero:,}",
            "-" if seen.seconds_to_zero is None else f"{seen.seconds_to_zero:.2f}",
            "ok" if seen.ok else "[red]FAIL[/]",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
