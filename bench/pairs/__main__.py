"""`python -m bench.pairs COMMIT`: time and processor time of a search, here against an earlier commit, in pairs.

Both stacks run at the same time, each started and asked by its own checkout's code, and are asked the same questions in
turn, one search at a time; the one that is not asked idles. Contracts may differ between the two commits.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from deploy.local.paths import BUILD, ROOT, shown
from services.inference.models.artifacts import default_cache_dir
from sluice_statistics.intervals import bootstrap

MOST_RATIO = 1.03
RESULT = BUILD / "bench" / "pairs.json"
# A search that reranks takes about twenty times as long, so fewer of them are asked.
KINDS = {
    "plain": (1.0, {"expansion": False, "rerank": False}),
    "expansion and rerank": (0.1, {"expansion": True, "rerank": True}),
}
QUIET = {
    "LOG_LEVEL": "WARNING",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "",
    "CACHE_ENTRIES": "0",
    # Earlier releases look for models in other places.
    "MODEL_DIR": str(default_cache_dir()),
}
PASSAGES, _WORDS_A_PASSAGE, WORDS_A_QUESTION = 1000, 60, 6


@dataclass(frozen=True, slots=True)
class Side:
    """A checkout's stack over an index of its own, and the process that asks it."""

    asking: subprocess.Popen[str]
    stages: dict[str, int]
    """Process id of each stage."""

    def ask(self, window: dict[str, Any]) -> dict[str, float]:
        """Ask questions one after the other; figures of a search."""
        return _told(self.asking, window)


@contextmanager
def side(name: str, checkout: Path, passages: int = PASSAGES, **environment: str) -> Iterator[Side]:
    """Run a checkout's stack over an index of so many short passages."""
    data = BUILD / "data" / name
    shutil.rmtree(data, ignore_errors=True)
    path = os.pathsep.join(str(checkout / folder) for folder in ("", "protos/gen", "clients", "build"))
    process = subprocess.Popen(
        [sys.executable, "-P", str(Path(__file__).with_name("side.py"))],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    setup = {"name": name, "environment": QUIET | environment, "data": str(data)}
    try:
        yield Side(process, _told(process, setup | {"documents": texts(0, passages, _WORDS_A_PASSAGE)}))
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait()


def _told(process: subprocess.Popen[str], message: dict[str, Any]) -> dict[str, Any]:
    """Tell a side something; its answer."""
    assert process.stdin and process.stdout
    print(json.dumps(message), file=process.stdin, flush=True)
    answer: dict[str, Any] = json.loads(process.stdout.readline() or "null")
    if answer is None:
        sys.exit("a side ended before it answered; standard error above says why")
    return answer


def checked_out(commit: str) -> Path:
    """A worktree of a commit, made under build/pairs if it is not there."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout

    name = git("rev-parse", "--verify", "--short=12", f"{commit}^{{commit}}").strip()
    folder = BUILD / "pairs" / name
    if not folder.exists():
        git("worktree", "prune")
        git("worktree", "add", "--quiet", "--detach", str(folder), name)
    # Its code may ask for the release of its distribution, which is not installed, and may have had another name.
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if "version" in project:
        name = f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        metadata = folder / "build" / name / "METADATA"
        metadata.parent.mkdir(parents=True, exist_ok=True)
        metadata.write_text(f"Name: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8")
    return folder


def texts(seed: int, count: int, words: int) -> list[str]:
    """Cut of Python's documentation, all different."""
    source = " ".join(topics.values()).split()
    starts = random.Random(seed).sample(range(len(source) - words), count)
    return [" ".join(source[start : start + words]) for start in starts]


def rows(kind: str, windows: dict[str, list[dict[str, float]]]) -> Iterator[dict[str, Any]]:
    """Figures of this checkout over the earlier commit's: the median over rounds, with its interval."""
    for figure in windows["here"][0]:
        of = {name: [window[figure] for window in each] for name, each in windows.items()}
        ratio = bootstrap([one / other for one, other in zip(of["here"], of["before"], strict=True)])
        yield {
            "name": f"search, {kind}: {figure}, here over before",
            "value": round(ratio.value, 4),
            "interval": [round(ratio.low, 4), round(ratio.high, 4)],
            "bound": MOST_RATIO,
            "ok": ratio.value <= MOST_RATIO,
            **{f"{name}_ms": round(statistics.median(each), 3) for name, each in of.items()},
        }


def main(
    commit: Annotated[str, typer.Argument(help="The earlier commit.")] = "6dfeab8",
    rounds: Annotated[int, typer.Option(min=2, help="Rounds; in each, both sides take a turn.")] = 20,
    searches: Annotated[
        int, typer.Option(min=10, help="Searches of each side in each round, a tenth of that with reranking.")
    ] = 100,
    model: Annotated[str, typer.Option(help="EMBEDDING_MODEL of both; empty for pseudo-embeddings.")] = "",
    only: Annotated[str, typer.Option(help="Measure only searches whose name contains this.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON instead of a table.")] = False,
) -> None:
    """Compare searches here with those of an earlier commit. Leave the machine alone. Writes build/bench/pairs.json.

    Exit code 1 if p50 or processor time of a search is more than 3 % above the earlier commit's.
    """
    console = Console(stderr=True)
    kinds = {kind: asked for kind, asked in KINDS.items() if only in kind}
    windows: dict[str, dict[str, list[Any]]] = {kind: {"here": [], "before": []} for kind in kinds}
    with ExitStack() as stack:
        with console.status("Starting both stacks"):
            folders = {"here": ROOT, "before": checked_out(commit)}
            sides = [
                (name, stack.enter_context(side(f"pairs-{name}", folder, EMBEDDING_MODEL=model)))
                for name, folder in folders.items()
            ]
        for number in track(range(rounds + 1), "Rounds", console=console):
            for kind, (share, features) in kinds.items():
                questions = texts(number + 1, round(searches * share), WORDS_A_QUESTION)
                asked = {"features": features, "questions": questions}
                for name, one in sides if number % 2 else sides[::-1]:
                    measured = one.ask(asked)
                    if number:  # the first round warms up
                        windows[kind][name].append(measured)
    made = [row for kind, both in windows.items() for row in rows(kind, both)]
    command = f"python -m bench.pairs {commit} --rounds {rounds} --searches {searches} --model '{model}'"
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"command": command, "rows": made, "windows": windows}) + "\n", encoding="utf-8")
    table = Table("", "here", "before", "ratio", "interval", "")
    for row in made:
        table.add_row(
            row["name"], f"{row['here_ms']:.2f} ms", f"{row['before_ms']:.2f} ms", f"{row['value']:.3f}",
            "{:.3f} to {:.3f}".format(*row["interval"]), "[green]✓[/]" if row["ok"] else "[red]✗[/]",
        )  # fmt: skip
    if as_json:
        print(json.dumps(made, indent=1))
    else:
        Console(width=None if console.is_terminal else 130).print(table)
    console.print(f"Written to {shown(RESULT)}.")
    sys.exit(0 if all(row["ok"] for row in made) else 1)


if __name__ == "__main__":
    typer.run(main)
