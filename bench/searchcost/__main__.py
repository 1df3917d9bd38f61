"""`python -m bench.searchcost [COMMIT]`: processor time of a hybrid search, by process, over Qdrant's protocol.

Real processes on real sockets: the stages of this checkout, and those of an earlier commit if one is named, each over
an engine of its own (`tests.qdrant_server`, the same for both). Embeddings are hashes, so that no model is measured.
One caller asks one search at a time, both sides the same questions in turn; the one that is not asked idles.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.pairs.__main__ import WORDS_A_QUESTION, Side, checked_out, side, texts
from bench.pairs.side import cpu_seconds
from deploy.local.paths import BUILD, ROOT, shown

RESULT = BUILD / "bench" / "search_cost.json"
PROCESSES = ("gateway", "retriever", "embedder", "engine")
MOST_MS = 6.0
"""Processor time that gateway and retriever together may take for a search (issue 16)."""
_HYBRID = {"expansion": False, "rerank": False}


@contextmanager
def engine() -> Iterator[tuple[int, int]]:
    """Run an engine; its process id and its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.searchcost.engine"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        yield process.pid, int(process.stdout.readline())
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait()


@contextmanager
def running(name: str, checkout: Path, passages: int) -> Iterator[tuple[Side, dict[str, int]]]:
    """Run a checkout's stack over an engine; the process ids of what takes part in a search."""
    with engine() as (process_id, port):
        qdrant = {"QDRANT_URL": f"http://127.0.0.1:{port}", "QDRANT_GRPC_PORT": str(port)}
        with side(f"searchcost-{name}", checkout, passages, EMBEDDING_MODEL="", **qdrant) as one:
            yield one, {**one.stages, "engine": process_id}


def measured(one: Side, processes: dict[str, int], window: dict[str, Any]) -> dict[str, float]:
    """Ask questions; milliseconds of a search, and of each process for it."""
    before = {name: cpu_seconds(processes[name]) for name in PROCESSES}
    p50 = one.ask(window)["p50"]
    searches = len(window["questions"])
    return {"p50": p50} | {name: (cpu_seconds(processes[name]) - before[name]) * 1000 / searches for name in PROCESSES}


def rows(windows: dict[str, list[dict[str, float]]]) -> Iterator[dict[str, Any]]:
    """Figures of each process: medians over rounds, and of the ratios of rounds."""
    for figure in ("p50", *PROCESSES, "gateway and retriever"):
        sides = {name: [_of(figure, window) for window in each] for name, each in windows.items()}
        row = {"name": figure} | {f"{name}_ms": round(statistics.median(each), 3) for name, each in sides.items()}
        if "before" in sides:
            ratios = [one / other for one, other in zip(sides["here"], sides["before"], strict=True)]
            row["ratio"] = round(statistics.median(ratios), 3)
        yield row


def _of(figure: str, window: dict[str, float]) -> float:
    return sum(window[name] for name in figure.split(" and "))


def main(
    commit: Annotated[str, typer.Argument(help="An earlier commit to compare with; none by default.")] = "",
    passages: Annotated[int, typer.Option(min=1, help="Passages that are searched.")] = 60_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; in each, every side takes a turn.")] = 10,
    searches: Annotated[int, typer.Option(min=10, help="Searches of each side in each round.")] = 50,
    starts: Annotated[int, typer.Option(min=1, help="Starts of everything, as costs differ from one to the next.")] = 1,
) -> None:
    """Measure searches here, and beside an earlier commit. Writes build/bench/search_cost.json.

    Exit code 1 if gateway and retriever take more processor time than they may.
    """
    console = Console(stderr=True)
    folders = {"here": ROOT} | ({"before": checked_out(commit)} if commit else {})
    windows: dict[str, list[dict[str, float]]] = {name: [] for name in folders}
    for start in range(starts):
        with ExitStack() as stack:
            with console.status(f"Indexing {passages} passages"):
                sides = [
                    (name, *stack.enter_context(running(name, folders[name], passages)))
                    for name in (list(folders) if start % 2 else list(folders)[::-1])
                ]
            for number in track(range(rounds + 1), f"Start {start + 1}", console=console):
                questions = texts(number + 1, searches, WORDS_A_QUESTION)
                for name, one, processes in random.sample(sides, len(sides)):
                    found = measured(one, processes, {"features": _HYBRID, "questions": questions})
                    if number:  # the first round warms up
                        windows[name].append(found)
    made = list(rows(windows))
    command = (
        f"python -m bench.searchcost {commit} --passages {passages} --rounds {rounds} --searches {searches} "
        f"--starts {starts}"
    )
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"command": command, "rows": made, "windows": windows}) + "\n", encoding="utf-8")
    table = Table("milliseconds a search", *folders, *(["ratio"] if commit else []))
    for row in made:
        table.add_row(*(value if isinstance(value, str) else f"{value:.3f}" for value in row.values()))
    Console(width=None if console.is_terminal else 100).print(table)
    console.print(f"Written to {shown(RESULT)}.")
    sys.exit(0 if made[-1]["here_ms"] <= MOST_MS else 1)


if __name__ == "__main__":
    typer.run(main)
