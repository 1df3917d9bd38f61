"""`python -m bench.hops.size`: what hops and keys cost at 20,000 passages: time, disk, and giving keys afterwards.

The passages are sentences about made-up people, places and works, each of which mentions some others, as encyclopedias
do. They are stored without keys, and given them afterwards, as `sluice enrich` does.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.engine.side import cpu_seconds
from bench.quality import asking
from bench.rerank.measuring import processor
from bench.speed.cli import AsJson, progress_bars, wide_console
from deploy.local import LocalStack
from deploy.local.paths import BUILD, shown
from deploy.local.progress import say, starting
from services.chassis.errors import StartupError
from sluice_client import AsyncClient, Document, features

FILE = BUILD / "bench" / "hops_costs.json"
ENVIRONMENT = {**asking.ENVIRONMENT, "TOKEN_VECTORS": "0"}
COLLECTION = "world"
BATCH = 500
QUESTIONS = 200
CONFIGS = {
    "hybrid": features(dense=True, lexical=True, rerank=False, expansion=False, multi_hop=False),
    "one hop": features(dense=True, lexical=True, rerank=False, expansion=False, multi_hop=True, max_hops=1),
    "two hops": features(dense=True, lexical=True, rerank=False, expansion=False, multi_hop=True, max_hops=2),
}
_VERBS = ("directed", "wrote", "painted", "founded", "visited", "designed", "praised", "sold", "restored", "married")
_SYLLABLES = (
    "ba",
    "cor",
    "del",
    "en",
    "fir",
    "gan",
    "hul",
    "is",
    "jor",
    "kel",
    "lan",
    "mor",
    "nev",
    "or",
    "pen",
    "ras",
)


class World:
    """Made-up names, some of them mentioned often, and passages about them."""

    def __init__(self, count: int) -> None:
        self._chance = random.Random(5)
        names: dict[str, None] = {}
        while len(names) < count:
            words = ["".join(self._chance.choices(_SYLLABLES, k=3)).capitalize() for _ in range(2)]
            names[" ".join(words)] = None
        self.names = list(names)

    def documents(self) -> Iterator[Document]:
        """One about each name: a hundred words, a dozen names."""
        for number, name in enumerate(self.names):
            sentences = [
                f"In {1800 + self._chance.randrange(200)} {name} {self._chance.choice(_VERBS)} the well known "
                f"house of {self._other()}, which lies not far from the old road to the river."
                for _ in range(6)
            ]
            yield Document(f"p{number}", name, " ".join(sentences), {"group": f"g{number % 10}"})

    def question(self) -> str:
        """A question about what a name leads to."""
        return f"who {self._chance.choice(_VERBS)} the house that {self._chance.choice(self.names)} visited"

    def _other(self) -> str:
        # As in real text, few names are mentioned often.
        return self.names[int(len(self.names) * self._chance.random() ** 2)]


def main(
    passages: Annotated[int, typer.Option(min=1000, help="Number of passages.")] = 20_000,
    as_json: AsJson = False,
) -> None:
    """Measure hops and keys at a size. Leave the machine alone; takes ten minutes. Exit code 1 if a bound is missed.

    Examples:  python -m bench.hops.size  ·  python -m bench.hops.size --passages 5000
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("WARNING"))
    console = wide_console(stderr=as_json)
    try:
        rows = asyncio.run(measure(console, World(passages)))
    except StartupError as error:
        say(error, console)
        sys.exit(1)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    result = {"command": f"python -m bench.hops.size --passages {passages}", "processor": processor(), "rows": rows}
    FILE.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        view = Table("", "measured", "bound", "")
        for row in rows:
            verdict = "" if row["bound"] is None else "[green]✓[/]" if row["ok"] else "[red]✗[/]"
            view.add_row(row["name"], f"{row['value']:,}", f"{row['bound'] or ''}", verdict)
        console.print(view, f"Written to {shown(FILE)}")
    sys.exit(0 if all(row["ok"] for row in rows) else 1)


async def measure(console: Console, world: World) -> list[dict[str, Any]]:
    """Index without keys, give keys, and ask."""
    folder = BUILD / "data" / "hops-size"
    shutil.rmtree(folder, ignore_errors=True)
    rows: list[dict[str, Any]] = []
    sizes = {}
    with progress_bars(console) as progress:
        async with _running(console, folder, "0") as (client, _):
            await index(client, world, progress)
        sizes["without"] = bytes_below(folder)
        async with _running(console, folder, "1") as (client, retriever):
            rows.append(await enrich(client, world, retriever, progress))
            rows += await times(client, world, progress)
        sizes["with"] = bytes_below(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return [*rows, _row("index size with keys over without", sizes["with"] / sizes["without"], most=1.3)]


@asynccontextmanager
async def _running(console: Console, folder: Path, relations: str) -> AsyncIterator[tuple[AsyncClient, int]]:
    """Start a stack over a folder; its client, and the process of its retriever."""
    environment = {**ENVIRONMENT, "RELATIONS": relations}
    with starting(console) as on_serving:
        stack = LocalStack(name="hops-size", data=folder, environment=environment, on_serving=on_serving)
        await stack.__aenter__()
    try:
        async with AsyncClient(stack.address("gateway"), timeout=60, index_timeout=600) as client:
            yield client, stack.pid("retriever")
    finally:
        await stack.stop()


async def enrich(client: AsyncClient, world: World, retriever: int, progress: Progress) -> dict[str, Any]:
    """Give keys to all passages; passages for each second of processor time of the retriever and its engine."""
    bar = progress.add_task("giving keys", total=None)
    before = cpu_seconds(retriever)
    await client.enrich(
        COLLECTION, on_progress=lambda step: progress.update(bar, completed=step.done_count, total=step.total_count)
    )
    spent = cpu_seconds(retriever) - before
    return _row("passages given keys, a second of one core", len(world.names) / spent, least=2000)


async def index(client: AsyncClient, world: World, progress: Progress) -> None:
    """Store all passages."""
    bar = progress.add_task("indexing", total=len(world.names))
    batch: list[Document] = []
    for document in world.documents():
        batch.append(document)
        if len(batch) == BATCH:
            await client.index(batch, collection=COLLECTION)
            progress.advance(bar, len(batch))
            batch = []
    if batch:
        await client.index(batch, collection=COLLECTION)


async def times(client: AsyncClient, world: World, progress: Progress) -> list[dict[str, Any]]:
    """Milliseconds of each configuration, question by question in turn, after ten that count for nothing."""
    took: dict[str, list[float]] = {name: [] for name in CONFIGS}
    reached: list[int] = []
    for number in progress.track(range(QUESTIONS + 10), description="questions"):
        question = world.question()
        for name in list(CONFIGS) if number % 2 else list(CONFIGS)[::-1]:
            started = time.perf_counter()
            answer = await client.search(question, collection=COLLECTION, features=CONFIGS[name])
            if number >= 10:
                took[name].append((time.perf_counter() - started) * 1000)
            if name == "one hop":
                reached += [report.item_count for report in answer.stages if report.stage == "hop"]
    base = statistics.median(took["hybrid"])
    rows = [_row("hybrid p50, ms", base), _row("passages reached by a hop", statistics.mean(reached))]
    for name in ("one hop", "two hops"):
        ratio = statistics.median(after / before for after, before in zip(took[name], took["hybrid"], strict=True))
        rows.append(_row(f"{name} p50, ms", statistics.median(took[name])))
        rows.append(_row(f"{name} over hybrid", ratio, most=2.0 if name == "one hop" else None))
    return rows


def bytes_below(folder: Path) -> int:
    """Bytes that are allocated below a folder."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _row(name: str, value: float, *, most: float | None = None, least: float | None = None) -> dict[str, Any]:
    ok = (most is None or value <= most) and (least is None or value >= least)
    bound = f"<= {most:g}" if most is not None else f">= {least:g}" if least is not None else None
    return {"name": name, "value": round(value, 3), "bound": bound, "ok": ok}


if __name__ == "__main__":
    typer.run(main)
