"""`python -m bench.quality`: how good the answers of each configuration are, on collections with known answers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console
from rich.progress import Progress

from bench.quality import asking, results
from bench.quality.asking import Asked
from bench.quality.beir import TEST, Dataset, find, has_split, load
from bench.quality.configs import CONFIGS
from bench.quality.kept import Kept
from bench.speed.cli import AsJson, examples, progress_bars, wide_console
from deploy.local import LocalStack
from deploy.local.paths import BUILD, ROOT, shown
from deploy.local.profiles import load_profile
from deploy.local.progress import say, starting
from services.chassis.errors import StartupError
from sluice_client import AsyncClient, NotStored, SluiceError

PROFILE = "development"
DATA = ROOT.parent / "shared" / "data" / "ir"
EXAMPLES = """
python -m bench.quality ../shared/data/ir               every collection in there, every configuration
python -m bench.quality scifact cranfield --only 'all'  some of them
python -m bench.quality scifact --split train           the questions for tuning, not for reporting
python -m bench.quality scifact --limit 20              whether it runs at all: shown, but not kept as a result
"""

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@dataclass(frozen=True)
class Options:
    """The command line."""

    only: str
    limit: int | None
    key: str


@app.command(epilog=examples(EXAMPLES))
def main(
    data: Annotated[
        list[Path] | None, typer.Argument(metavar="[DATA]...", help="Folders in BEIR's layout, or folders of them.")
    ] = None,
    only: Annotated[str, typer.Option(help="Configurations whose name matches, as in '+*'.")] = "*",
    split: Annotated[str, typer.Option(help="Which questions: 'test', 'train' or another that there is.")] = TEST,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Ask the first N questions only.")] = None,
    key: Annotated[
        str,
        typer.Option(
            help="Go on from an earlier run with the same key, whatever has changed since. "
            "If not given, from one with the same code, settings, models and data."
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Ask collections with known answers through the running services, and measure the answers.

    Starts a stack of its own. Rows go to build/bench/quality.json, over earlier ones of the same names. Whatever stops
    it, started again it goes on with the next question.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("WARNING"))
    console = wide_console(stderr=as_json)
    try:
        fresh = asyncio.run(measure(console, _datasets(data or [DATA], split), Options(only, limit, key)))
    except StartupError as error:
        say(error, console)
        sys.exit(1)
    except (SluiceError, NotStored) as error:
        console.print(f"{error}\nStart again when it is mended: what was answered so far is kept.", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("Stopped; start again to go on.")
        sys.exit(130)
    print(json.dumps(fresh, indent=1)) if as_json else console.print(results.table(fresh))
    if limit is not None:
        console.print("Not kept as results: a part of the questions is no figure.")
        return
    drawn = results.plot(results.store(fresh))
    plot = shown(results.PLOT) if drawn else "no plot: matplotlib is missing, `pip install -e '.[bench]'`"
    console.print(f"All rows are in {shown(results.FILE)}; {plot}", soft_wrap=True)


async def measure(console: Console, datasets: Sequence[Dataset], options: Options) -> list[results.Row]:
    """The rows of all collections."""
    configs = [name for name in CONFIGS if fnmatchcase(name, options.only)]
    if not configs:
        raise StartupError(f"no configuration matches {options.only!r}", remedy=f"There are: {', '.join(CONFIGS)}.")
    with starting(console) as on_serving:
        stack = LocalStack(
            name="quality",
            profile=PROFILE,
            data=BUILD / "data" / "quality",
            environment=asking.ENVIRONMENT,
            on_serving=on_serving,
        )
        await stack.__aenter__()
    try:
        async with AsyncClient(stack.address("gateway"), index_timeout=600) as client:
            with progress_bars(console) as progress:
                return [
                    row
                    for dataset in datasets
                    for row in results.rows(dataset, await _asked(client, dataset, configs, options, progress), configs)
                ]
    finally:
        await stack.stop()


async def _asked(
    client: AsyncClient, dataset: Dataset, configs: Sequence[str], options: Options, progress: Progress
) -> dict[str, Asked]:
    settings = {
        **load_profile(PROFILE),
        **{name: os.environ[name] for name in load_profile(PROFILE) if name in os.environ},
    }
    bar = progress.add_task(f"{dataset.name}: index", total=len(dataset.documents))
    collection = await asking.store(
        client,
        dataset,
        settings,
        on_progress=lambda count: progress.advance(bar, count),
        on_rejected=lambda document, error: progress.console.print(
            f"[dim]{dataset.name}: document {document.id!r} is not stored: {error.message}[/]", highlight=False
        ),
    )
    key = options.key or _digest(
        dataset.digest, json.dumps(settings, sort_keys=True), asking.code_digest(), await asking.models_of(client)
    )
    queries = list(islice(dataset.queries.items(), options.limit))
    asked = {}
    for name in CONFIGS:
        kept = Kept(results.FOLDER / f"{dataset.name}.{dataset.split}" / f"{name}.jsonl", key)
        # What is not asked for now is compared with, where an earlier run has asked it.
        if name not in configs and len(kept.lines) < len(queries):
            continue
        bar = progress.add_task(f"{dataset.name}: {name}", total=len(queries))
        asked[name] = await asking.ask(
            client,
            collection,
            queries,
            CONFIGS[name],
            kept,
            on_progress=lambda bar=bar: progress.advance(bar),  # type: ignore[misc]
        )
    return asked


def _datasets(folders: Sequence[Path], split: str) -> list[Dataset]:
    found = find(folders)
    # A folder of collections may hold some without this split; a collection that is named must have it.
    wanted = [folder for folder in found if folder in folders or has_split(folder, split)]
    if not wanted:
        raise StartupError(f"no collection has the split {split!r}", remedy="Choose another one, as --split test.")
    return [load(folder, split) for folder in wanted]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


if __name__ == "__main__":
    app()
