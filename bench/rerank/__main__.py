"""`python -m bench.rerank`: what each method of reranking gains, and what it costs."""

from __future__ import annotations

import asyncio
import enum
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console

from bench.quality.beir import Dataset, find, load
from bench.rerank import indexing, measuring, results, timing
from bench.rerank.methods import HYBRID, METHODS, Method
from bench.rerank.platform import platform
from bench.speed.cli import AsJson, examples, progress_bars, wide_console
from bench.speed.results import load as load_rows
from deploy.local.paths import ROOT, shown
from deploy.local.progress import say
from services.chassis.errors import StartupError
from sluice_client import NotStored, SluiceError

DATA = ROOT.parent / "shared" / "data" / "ir"
TIMED_QUESTIONS = 100
EXAMPLES = """
python -m bench.rerank ../shared/data/ir                       everything, about an hour
python -m bench.rerank --part timing --questions 60            ten minutes of a quiet machine
python -m bench.rerank --part quality --only 'late*'           nDCG@10 alone; others may use the machine meanwhile
python -m bench.rerank ../shared/data/ir/cranfield --questions 20
"""

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


class Part(enum.StrEnum):
    """Part of the bench."""

    QUALITY = "quality"
    TIMING = "timing"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    only: str
    part: Part
    questions: int | None

    @property
    def methods(self) -> list[Method]:
        """The methods to measure. Raises StartupError where there is none."""
        chosen = [method for key, method in METHODS.items() if fnmatchcase(key, self.only)]
        if not chosen:
            raise StartupError(f"no method matches {self.only!r}", remedy=f"There are: {', '.join(METHODS)}.")
        return [HYBRID, *(method for method in chosen if method is not HYBRID)]


@app.command(epilog=examples(EXAMPLES))
def main(
    data: Annotated[
        list[Path] | None, typer.Argument(metavar="[DATA]...", help="Folders in BEIR's layout, or folders of them.")
    ] = None,
    only: Annotated[str, typer.Option(help="Methods whose name matches, as in 'late*'; hybrid is always asked.")] = "*",
    part: Annotated[
        Part, typer.Option(help="`quality` may run on a busy machine, `timing` needs a quiet one.")
    ] = Part.ALL,
    questions: Annotated[
        int | None,
        typer.Option(metavar="N", min=10, help="Questions of each collection; all for quality, 100 for timing."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure nDCG@10 and milliseconds of every method of reranking, through a stack of real processes of its own.

    Rows go to build/bench/rerank.json, what else it costs to build/bench/rerank_costs.json, over earlier ones of the
    same names. Collections are indexed once. Answers that quality is computed of are kept: it goes on where it was.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("WARNING"))
    console = wide_console(stderr=as_json)
    try:
        datasets = [load(folder) for folder in find(data or [DATA])]
        asyncio.run(measure(console, datasets, Options(only, part, questions)))
    except StartupError as error:
        say(error, console)
        sys.exit(1)
    except (SluiceError, NotStored) as error:
        console.print(f"{error}\nStart again when it is mended: what was answered so far is kept.", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("Stopped; start again to go on.")
        sys.exit(130)
    rows, costs = (load_rows(path) for path in (results.FILE, results.COSTS))
    if as_json:
        print(json.dumps({"rows": rows, "costs": costs}, indent=1))
    else:
        console.print(results.table(rows), results.costs_table(costs))
    if rows:
        drawn = results.plot(rows)
        plot = shown(results.PLOT) if drawn else "no plot: matplotlib is missing, `pip install -e '.[bench]'`"
        console.print(f"Written to {shown(results.FILE)} and {shown(results.COSTS)}; {plot}", soft_wrap=True)


async def measure(console: Console, datasets: Sequence[Dataset], options: Options) -> None:
    """Measure, and keep every row as soon as there is one."""
    methods = options.methods
    async with platform(console) as running:
        with progress_bars(console) as progress:
            collections = {dataset.name: await running.stored(dataset, progress) for dataset in datasets}
            passages = sum(len(dataset.documents) for dataset in datasets)
            results.store_costs([indexing.on_disk(running, collections.values(), passages)])
            if options.part is not Part.TIMING:
                for dataset in datasets:
                    await measuring.quality(
                        running, dataset, collections[dataset.name], methods, options.questions, progress
                    )
                results.store_costs(measuring.means(datasets))
            if options.part is not Part.QUALITY:
                count = options.questions or TIMED_QUESTIONS
                asked = {
                    dataset.name: timing.Asking(
                        running.client, collections[dataset.name], measuring.sample(dataset, count)
                    )
                    for dataset in datasets
                }
                await measuring.times(asked, methods, progress)
                largest = max(datasets, key=lambda dataset: len(dataset.documents))
                await measuring.load(asked[largest.name], largest.name, progress)
                bar = progress.add_task(f"{largest.name}: indexing", total=2 * indexing.ROUNDS)
                rates = await indexing.rates(running, largest.documents, lambda: progress.advance(bar))
                results.store_costs(rates)
                await measuring.against_peers(asked[largest.name], largest.name, progress)


if __name__ == "__main__":
    app()
