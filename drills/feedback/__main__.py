"""`make feedback-drill`: what people do with answers counts once, whatever happens; build/feedback.json.

- `steady`: eight clients have 10,000 events a second recorded through the gateway, on each database;
- `killed`: the rollout service and processes of PostgreSQL are killed (SIGKILL) at random moments meanwhile;
- `hostile`: forged, doubled, late, reordered and foreign events about answers of a real gateway;
- `searches`: searches with feedback on and off, in pairs (`python -m bench.feedback`).

In the end every event that was acknowledged has to be stored, exactly once, and none that was made up.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from bench.feedback.__main__ import RESULT as SEARCHES
from deploy.local.paths import BUILD, shown
from drills.feedback import hostile, volume
from drills.feedback.world import DATABASES, world

RESULT = BUILD / "feedback.json"
PARTS = ("volume", "hostile", "searches")
LEAST_EVENTS = 10_000.0
_KEPT_UP = 0.99
"""Share of the offered rate at which the services count as keeping up."""


def main(
    kills: Annotated[int, typer.Option(min=1, help="Kills on each database.")] = 20,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of events without kills.")] = 30.0,
    rate: Annotated[float, typer.Option(min=100, help="Events a second.")] = LEAST_EVENTS,
    only: Annotated[str, typer.Option(help=f"One of {', '.join(PARTS)}, or a database.")] = "",
) -> None:
    """Have events recorded while things break. Exit code 1 if one is lost, counts twice, or should not count."""
    console = Console(stderr=True)
    found = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    began = time.monotonic()
    for database in DATABASES if only in ("", "volume") else [only] if only in DATABASES else []:
        with Progress(console=console) as progress:
            bar = progress.add_task(database, total=kills)
            found[database] = asyncio.run(_volume(database, kills, seconds, rate, partial(progress.advance, bar)))
        _keep(found)
    if only in ("", "hostile"):
        found["hostile"] = asyncio.run(hostile.attacked())
    if only in ("", "searches"):
        subprocess.run([sys.executable, "-m", "bench.feedback"], check=False)
        found["searches"] = json.loads(SEARCHES.read_text(encoding="utf-8"))["rows"]
    _keep(found)
    console.print_json(json.dumps(found))
    console.print(f"{time.monotonic() - began:.0f} s. Written to {shown(RESULT)}.")
    for problem in found["problems"]:
        console.print(f"[red]FAIL[/] {problem}", highlight=False)
    sys.exit(1 if found["problems"] else 0)


async def _volume(database: str, kills: int, seconds: float, rate: float, on_kill: Any) -> dict[str, Any]:
    async with world(database) as made:
        steady = await volume.steady(made, seconds, rate)
        return {"steady": steady, "killed": await volume.killed(made, kills, rate, on_kill)}


def _keep(found: dict[str, Any]) -> None:
    """Write what is known so far: a part that ends the drill takes no other part with it."""
    found |= _summary(found)
    BUILD.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _summary(found: dict[str, Any]) -> dict[str, Any]:
    """The figures that experiments.json takes, and what is not as it should be."""
    volumes = {f"{name} {part}": row for name in DATABASES for part, row in found.get(name, {}).items()}
    problems = [
        f"{name}: {row[key]} {key.replace('_', ' ')}"
        for name, row in volumes.items()
        for key in ("lost", "stored_twice", "without_answer")
        if row[key]
    ]
    problems += [
        f"{name}: {row['answers']['rejected']} rejected"
        for name, row in volumes.items()
        if row["answers"].get("rejected")
    ]
    summary: dict[str, Any] = {
        "lost": sum(row["lost"] + row["stored_twice"] for row in volumes.values()),
        "kills": sum(row.get("kills", 0) for row in volumes.values()),
    }
    if "postgresql" in found:
        steady = found["postgresql"]["steady"]
        summary["events_a_second"] = steady["events_a_second"]
        if steady["events_a_second"] < _KEPT_UP * steady["offered_a_second"]:
            problems.append(
                f"PostgreSQL took {steady['events_a_second']} of {steady['offered_a_second']} events a second"
            )
    if "hostile" in found:
        summary["forged_counted"] = found["hostile"]["forged_counted"]
        problems += [
            f"{found['hostile'][key]} {key}" for key in ("forged_counted", "good_lost") if found["hostile"][key]
        ]
    if "searches" in found:
        bounded = next(row for row in found["searches"] if row["bound"] is not None)
        summary["search_p50_ratio"] = bounded["value"]
        if not bounded["ok"]:
            problems.append(f"a search takes {bounded['value']} times as long with feedback")
    return summary | {"problems": problems}


if __name__ == "__main__":
    typer.run(main)
