"""`python -m bench.engine [COMMIT]`: the embedded engine of this checkout against that of an earlier commit.

Both sides hold the same synthetic passages (384 dimensions, 60 words) and are measured in turn on the same machine:
processor time (of the engine's child process as well), memory and opening. Then this checkout alone at a million
passages with vectors of a byte a value. Exact neighbours are numpy's.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.pairs.__main__ import checked_out
from deploy.local.paths import BUILD, ROOT, shown

RESULT = BUILD / "bench" / "engine.json"
ROUNDS = 3
MILLION = 1_000_000
_SEARCHES, _FILTERED = 40, 3
_SETTLE_SECONDS = 3600.0


class Side:
    """The engine of a checkout, in a process of its own."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self._process = process

    def ask(self, do: str, **arguments: Any) -> dict[str, float]:
        """Have something done; its figures."""
        return self.tell({"do": do, **arguments})

    def tell(self, message: dict[str, Any]) -> dict[str, float]:
        """Send a line, and read the answer."""
        assert self._process.stdin and self._process.stdout
        print(json.dumps(message), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline() or "null")
        if answer is None:
            sys.exit(f"{self.name} ended before it answered; standard error above says why")
        return dict(answer)


@contextmanager
def side(name: str, checkout: Path, data: Path, **settings: Any) -> Iterator[Side]:
    """Run the engine of a checkout over a folder."""
    path = os.pathsep.join(str(checkout / folder) for folder in ("", "protos/gen", "clients"))
    process = subprocess.Popen(
        [sys.executable, "-P", str(Path(__file__).with_name("side.py"))],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": path, "LOG_LEVEL": "WARNING"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        one = Side(name, process)
        one.tell({"folder": str(data), "settings": settings})
        yield one
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait()


def compared(checkouts: dict[str, Path], count: int, say: Console) -> dict[str, dict[str, float]]:
    """Figures of both sides at this many passages."""
    figures: dict[str, dict[str, float]] = {name: {} for name in checkouts}
    folders = {name: BUILD / "data" / f"engine-{name}-{count}" for name in checkouts}
    for name, checkout in checkouts.items():
        shutil.rmtree(folders[name], ignore_errors=True)
        with say.status(f"{name}: storing {count:,} passages"), side(name, checkout, folders[name]) as one:
            one.ask("open")
            figures[name]["upsert_cpu_us"] = one.ask("fill", count=count)["cpu_us_each"]
            one.ask("settle", seconds=_SETTLE_SECONDS)
            one.ask("close")
    for name, checkout in checkouts.items():
        with say.status(f"{name}: opening {count:,} passages"), side(name, checkout, folders[name]) as one:
            opened = one.ask("open")
            figures[name] |= {"open_s": opened["first_search_s"]}
            one.ask("hybrid", count=20)
            figures[name]["memory_mb"] = one.ask("measure_memory")["anonymous_mb"] - opened["base_mb"]
    windows: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    with ExitStack() as stack:
        sides = [stack.enter_context(side(name, checkouts[name], folders[name])) for name in checkouts]
        for one in sides:
            one.ask("open")
            one.ask("hybrid", count=5)
        with say.status(f"searching {count:,} passages in turn"):
            for number in range(ROUNDS):
                for one in sides if number % 2 else sides[::-1]:
                    windows[one.name].append(searched(one))
    for name, rounds in windows.items():
        figures[name] |= {key: statistics.median(window[key] for window in rounds) for key in rounds[0]}
    for folder in folders.values():
        shutil.rmtree(folder, ignore_errors=True)
    return figures


def searched(one: Side) -> dict[str, float]:
    """Figures of a round of searches."""
    plain = one.ask("hybrid", count=_SEARCHES)
    filtered = one.ask("filtered", count=_FILTERED if one.name == "before" else 10 * _FILTERED)
    return {
        "hybrid_p50_ms": plain["p50_ms"],
        "hybrid_cpu_ms": plain["cpu_ms"],
        "filtered_p50_ms": filtered["p50_ms"],
        "filtered_cpu_ms": filtered["cpu_ms"],
    }


def at_a_million(count: int, say: Console) -> dict[str, float]:
    """Figures of this checkout with vectors of a byte a value."""
    folder = BUILD / "data" / f"engine-million-{count}"
    shutil.rmtree(folder, ignore_errors=True)
    settings = {"qdrant_quantization": "int8", "qdrant_vectors_on_disk": True}
    with say.status(f"storing {count:,} passages"), side("here", ROOT, folder, **settings) as one:
        one.ask("open")
        figures = {f"fill_{name}": value for name, value in one.ask("fill", count=count).items()}
        figures["built_s"] = one.ask("settle", seconds=_SETTLE_SECONDS)["seconds"]
        one.ask("close")
    with say.status(f"searching {count:,} passages"), side("here", ROOT, folder, **settings) as one:
        figures |= one.ask("open")
        one.ask("hybrid", count=20)
        figures |= one.ask("hybrid", count=100)
        figures |= one.ask("measure_memory")
        figures |= one.ask("recall", count=30)
    shutil.rmtree(folder, ignore_errors=True)
    return figures


def rows(small: dict[str, dict[str, float]], large: dict[str, dict[str, float]]) -> Iterator[dict[str, Any]]:
    """Rows of the comparison."""

    def ratio(figures: dict[str, dict[str, float]], key: str, *, saved: bool = True) -> float:
        here, before = figures["here"][key], figures["before"][key]
        return before / max(here, 1e-9) if saved else here / before

    yield from (
        _row("filtered_cpu_ratio_20k", ratio(small, "filtered_cpu_ms"), 50, least=True),
        _row("filtered_cpu_ratio_200k", ratio(large, "filtered_cpu_ms"), 50, least=True),
        _row("memory_ratio_200k", ratio(large, "memory_mb"), 10, least=True),
        _row("open_ratio_200k", ratio(large, "open_s"), 5, least=True),
        _row("upsert_cpu_ratio", ratio(large, "upsert_cpu_us"), 2, least=True),
        _row("hybrid_p50_ratio", ratio(large, "hybrid_p50_ms", saved=False), 1, least=False),
        _row("hybrid_p50_ratio_20k", ratio(small, "hybrid_p50_ms", saved=False), 1, least=False),
    )


def _row(name: str, value: float, bound: float, *, least: bool) -> dict[str, Any]:
    return {"name": name, "value": round(value, 3), "bound": bound, "ok": value >= bound if least else value <= bound}


def main(
    commit: Annotated[str, typer.Argument(help="The earlier commit.")] = "1dad7f9",
    small: Annotated[int, typer.Option(help="Passages of the small comparison.")] = 20_000,
    large: Annotated[int, typer.Option(help="Passages of the large one; 0 leaves it out.")] = 200_000,
    million: Annotated[int, typer.Option(help="Passages of this checkout alone; 0 leaves them out.")] = MILLION,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON instead of a table.")] = False,
) -> None:
    """Compare the embedded engine with an earlier commit's. Leave the machine alone. Writes build/bench/engine.json.

    Takes about an hour, most of it for the earlier engine at 200,000 passages and for the million. Exit code 1 if a
    bound is missed.

    Examples:  python -m bench.engine  ·  python -m bench.engine --large 0 --million 0
    """
    say = Console(stderr=True)
    checkouts = {"here": ROOT, "before": checked_out(commit)}
    figures = {"small": compared(checkouts, small, say)}
    figures["large"] = compared(checkouts, large, say) if large else figures["small"]
    made = list(rows(figures["small"], figures["large"]))
    if million:
        alone = at_a_million(million, say)
        figures["million"] = {"here": alone}
        made += [
            _row("million_rss_gb", alone["rss_mb"] / 1024, 2.5, least=False),
            _row("million_hybrid_p50_ms", alone["p50_ms"], 60, least=False),
            _row("million_recall_at_100", alone["recall"], 0.98, least=True),
        ]
    command = f"python -m bench.engine {commit} --small {small} --large {large} --million {million}"
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    processor = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    result = {"command": command, **processor, "rows": made, "figures": figures}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    table = Table("", "value", "bound", "")
    for row in made:
        table.add_row(row["name"], f"{row['value']:,}", f"{row['bound']}", "[green]✓[/]" if row["ok"] else "[red]✗[/]")
    if as_json:
        print(json.dumps(made, indent=1))
    else:
        Console().print(table)
    say.print(f"Written to {shown(RESULT)}.")
    sys.exit(0 if all(row["ok"] for row in made) else 1)


if __name__ == "__main__":
    typer.run(main)
