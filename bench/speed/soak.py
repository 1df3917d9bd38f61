"""`python -m bench.speed.soak`: whether the embedder's memory stays flat over very many calls of random length."""

from __future__ import annotations

import random
import sys
from typing import Annotated

import numpy as np
import structlog
import typer

from bench.speed import results
from bench.speed.cli import AsJson, examples, progress_bars, report, wide_console
from bench.speed.load import OK, Call, LoadProcess
from bench.speed.results import Row
from bench.speed.session import embed, embed_document
from bench.speed.stages import serving
from bench.speed.workload import LENGTHS, Workload
from deploy.local.progress import say
from services.chassis.errors import StartupError

EXAMPLES = """
python -m bench.speed.soak
python -m bench.speed.soak --requests 20000
"""
NAME = "embed/soak_rss_mib"

_CONCURRENCY = 16
_STEPS = 100
_SECONDS_A_CALL = 1.0
# Mostly short, so that it ends in minutes: lengths fall off exponentially, and the longest still come.
_MEAN_TOKENS = 12.0

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(epilog=examples(EXAMPLES))
def main(
    requests: Annotated[int, typer.Option(min=_STEPS, help="How many calls, one text each.")] = 100_000,
    as_json: AsJson = False,
) -> None:
    """Send calls of random length to an embedder and watches its resident memory.

    The first tenth fills the cache of results; from there on memory must not grow.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("WARNING"))
    console = wide_console(stderr=as_json)
    texts = Workload(3)
    chance = random.Random(3)
    resident: list[tuple[int, float]] = []
    sent = 0
    try:
        with progress_bars(console) as progress, serving("embedder") as server, LoadProcess() as load:
            bar = progress.add_task(NAME, total=requests)
            while sent < requests:
                count = min(requests // _STEPS, requests - sent)
                calls = [Call(embed_document(texts.text(_length(chance)).text), 1) for _ in range(count)]
                answered = load.every(embed(server), calls, concurrency=_CONCURRENCY).result()
                if answered.codes() != {OK: count}:
                    console.print(f"not every call was answered: {answered.codes()}", style="bold red")
                    sys.exit(1)
                sent += count
                resident.append((sent, server.process.resident_mib))
                progress.update(bar, completed=sent)
    except StartupError as error:
        say(error, console)
        sys.exit(1)
    row = _row(resident)
    results.store([row])
    report(console, [row.as_json()], as_json=as_json)


def _length(chance: random.Random) -> int:
    shortest, longest = LENGTHS
    return min(longest, shortest + int(chance.expovariate(1 / _MEAN_TOKENS)))


def _row(resident: list[tuple[int, float]]) -> Row:
    """Memory at the end against memory when the caches were full, and how it went on from there."""
    settled = resident[len(resident) // 10 - 1 :]
    slope = float(np.polyfit([sent for sent, _ in settled], [mib for _, mib in settled], 1)[0])
    return Row(
        NAME,
        ours=settled[-1][1],
        reference=settled[0][1],
        unit="MiB",
        details={
            "requests": settled[-1][0],
            "slope_mib_per_10k_requests": round(slope * 10_000, 4),
            "resident": [[sent, round(mib, 1)] for sent, mib in resident],
            "command": f"python -m bench.speed.soak --requests {settled[-1][0]}",
        },
    )


if __name__ == "__main__":
    app()
