"""`python -m drills.experiments.aa`: 2,000 A/A experiments of each method; build/experiments-aa.json."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.local.paths import BUILD, shown
from drills.experiments.aa.false_verdicts import EXPERIMENTS, MOST_FALSE, run

RESULT = BUILD / "experiments-aa.json"


def main(experiments: Annotated[int, typer.Option(min=1, help="Of each method.")] = EXPERIMENTS) -> None:
    """Simulate experiments that change nothing. Exit code 1 if there are too many false verdicts."""
    console = Console()
    found = run(experiments, console)
    table = Table("experiments that change nothing", "experiments", "false verdicts", "95 %", "ship", "stop", "by")
    for row in found["aa"]:
        table.add_row(
            row["scenario"],
            f"{row['experiments']:,}",
            f"{row['false']:.2%}",
            f"{row['low']:.2%} to {row['high']:.2%}",
            f"{row['ship']:,}",
            f"{row['stop']:,}",
            ", ".join(f"{cause} {count}" for cause, count in row["causes"].items()),
        )
    console.print(table)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    console.print(f"{found['aa_looks']:,} judgments. Written to {shown(RESULT)}.")
    sys.exit(0 if max(found["aa_false_ab"], found["aa_false_interleave"]) <= MOST_FALSE else 1)


if __name__ == "__main__":
    typer.run(main)
