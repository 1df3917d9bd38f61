"""`python -m demo`: questions to the standard library's documentation."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from demo import corpus as documentation
from demo import report
from demo.corpus import Corpus, CorpusError
from demo.indexing import collection_for, is_stored, store
from demo.questions import CONFIGS, QUESTIONS, Run, ask
from deploy.local import LocalStack
from deploy.local.paths import BUILD, shown
from deploy.local.progress import say, starting
from services.chassis.errors import StartupError
from sluice_client import AsyncClient, SluiceError

_RESULT = BUILD / "demo.json"
_NARROWEST = 150


def main() -> None:
    """Index the standard library's documentation, and ask it questions.

    The first run takes some minutes, the later ones reuse what it made. Writes build/demo.json.
    """
    console = Console()
    if not console.is_terminal and console.width < _NARROWEST:  # a pipe or a file, which has no width of its own
        console = Console(width=_NARROWEST)
    try:
        asyncio.run(_demonstrate(console))
    except StartupError as error:
        say(error, console)
        sys.exit(1)
    except (CorpusError, SluiceError) as error:
        console.print(str(error), style="bold red", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("Stopped; what is indexed so far stays.")
        sys.exit(130)


async def _demonstrate(console: Console) -> None:
    started = time.monotonic()
    with console.status("Reading the documentation of the standard library"):
        # The whole of it would take the first run some minutes more.
        corpus = (await asyncio.to_thread(documentation.load, BUILD / "demo")).overview()
    version = ".".join(map(str, sys.version_info[:3]))
    console.print(f"[bold]{len(corpus.passages):,}[/] passages: modules, classes and functions of Python {version}")
    async with _stack(console) as stack, AsyncClient(stack.address("gateway")) as client:
        collection = await collection_for(client, corpus)
        if await is_stored(client, corpus, collection):
            console.print(f"Collection [bold]{collection}[/] is there already.")
        else:
            await _store(client, corpus, collection, console)
        runs = await _ask(client, collection, console)
    console.print("[dim]Arrows: against `off`. Each answer is computed anew: the stages keep no results.[/]")
    report.write(_RESULT, len(corpus.passages), runs)
    console.print(
        f"Everything is stopped after {time.monotonic() - started:.0f} s; all answers are in {shown(_RESULT)}. "
        f"To ask your own questions:\n"
        f'  [bold]make up[/]\n  [bold]sluice search "your question" --collection {collection} --rerank --explain[/]\n'
        f"  [bold]make down[/]",
        soft_wrap=True,
    )


@asynccontextmanager
async def _stack(console: Console) -> AsyncIterator[LocalStack]:
    async with AsyncExitStack() as exits:
        with starting(console) as on_serving:
            # The same question is asked in several ways, and none is to profit from the one before.
            nothing_kept = {"CACHE_ENTRIES": "0"}
            stack = await exits.enter_async_context(
                LocalStack(name="demo", environment=nothing_kept, on_serving=on_serving)
            )
        yield stack


async def _store(client: AsyncClient, corpus: Corpus, collection: str, console: Console) -> None:
    columns = (
        TextColumn("Indexing"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, speed_estimate_period=20) as progress:
        bar = progress.add_task("", total=len(corpus.passages))
        await store(client, corpus, collection, on_progress=lambda count: progress.advance(bar, count))


async def _ask(client: AsyncClient, collection: str, console: Console) -> list[Run]:
    runs: list[Run] = []
    for question in QUESTIONS:
        answers = {config: await ask(client, question, config, collection=collection) for config in CONFIGS}
        console.print(report.table(answers))
        runs += answers.values()
    return runs


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Show passages a second."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.0f}/s")


if __name__ == "__main__":
    typer.run(main)
