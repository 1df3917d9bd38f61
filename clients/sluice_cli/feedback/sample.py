"""`sluice feedback sample`: questions that users asked, for a replay."""

# ruff: noqa: PLC0415  # imports inside the command keep --help quick

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sluice_cli.feedback.export import feedback
from sluice_cli.options import AsJson


@feedback.command()
def sample(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    output: Annotated[Path, typer.Option(metavar="FILE", help="File to write: a question a line.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE...]", help="Files of `sluice feedback export`, or its folder; else the service."),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Most questions.")] = 100,
    by: Annotated[
        Literal["frequency", "distinct"],
        typer.Option(help="Draw questions by how often they were asked, or all alike; each comes once."),
    ] = "frequency",
    collection: Annotated[str, typer.Option(metavar="NAME", help="Only answers from this collection.")] = "",
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Count answers to nobody; evaluations and replays are such, too.")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed draws the same.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Draw questions that users asked, for `sluice whatif`.

    Only where the gateways keep their texts: FEEDBACK_QUERIES=clear. The file holds texts of users.

    \b
    Examples:
      sluice feedback sample --limit 200 --output sample.jsonl
      sluice feedback sample ubi/ --by distinct --output sample.jsonl
    """
    from sluice_cli import calls
    from sluice_cli.evaluation import lists
    from sluice_cli.feedback import sampling

    source = lists.Source(files or [], collection, anonymous)
    calls.run(context, sampling.sample, source, output=output, limit=limit, by=by, seed=seed, as_json=as_json)
