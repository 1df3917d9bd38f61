"""`python -m bench.index`: the rate of indexing and the memory that it takes, measured here and now."""

from __future__ import annotations

import json
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Annotated, Any

import structlog
import typer

from bench.index.measurements import MEASUREMENTS
from bench.speed import results
from bench.speed.cli import AsJson, Only, examples, progress_bars, wide_console
from bench.speed.session import Session
from deploy.local.paths import shown

FILE = results.FOLDER / "index.json"
EXAMPLES = """
python -m bench.index                          both rows, about 20 minutes
python -m bench.index --only '*rate*' --rounds 3
python -m bench.index --share 0.1              a tenth of the passages and lines, to see that it works
"""

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(epilog=examples(EXAMPLES))
def main(
    only: Only = "*",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; sides take turns, and medians are kept.")] = 1,
    share: Annotated[float, typer.Option(min=0.001, max=1, help="The part of passages and lines to use.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Measure `sluice index` through running stages. Leave the machine alone meanwhile.

    Rows go to build/bench/index.json, over earlier ones of the same name; with a --share they have names of their own.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("WARNING"))
    console = wide_console(stderr=as_json)
    measured: list[dict[str, Any]] = []
    with (
        progress_bars(console) as progress,
        Session(rounds=rounds, scale=share, command="python -m bench.index", progress=progress) as session,
    ):
        for each in MEASUREMENTS:
            if not fnmatchcase(each.name, only):
                continue
            row = session.described(each.run(session, max(1, round(each.size * share))))
            row = replace(row, details={**row.details, "share": share})
            results.store([row], FILE)
            measured.append(row.as_json())
    if as_json:
        print(json.dumps(measured, indent=1))
    else:
        console.print(results.table(measured, title=shown(FILE)))


if __name__ == "__main__":
    app()
