"""The group `sluice experiment`, and the arguments that its commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from sluice_cli.rollout.app import SERVICE, Service

app = typer.Typer(rich_markup_mode=None)
experiment = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(experiment, name="experiment")

Name = Annotated[
    str, typer.Argument(metavar="EXPERIMENT", help="Name of the experiment, as in `sluice experiment list`.")
]
PlanSource = Annotated[
    str, typer.Argument(metavar="PLAN", help="A plan file (.yaml, .toml), or a template's name: ab or interleave.")
]


@experiment.callback()
def connection(context: typer.Context, service: Service = SERVICE) -> None:
    """Ask which of several configurations people prefer.

    interleave mixes the results of two configurations in one answer: it needs the fewest users. ab gives each user one
    configuration: it measures clicks, ratings, waiting and cost. Both may be looked at all the time, end by
    themselves, and take users back where an arm hurts. Callers say what people did with answers (docs/experiments.md).

    \b
    Examples:
      sluice experiment template interleave > mine.yaml      a plan, to be changed
      sluice experiment plan mine.yaml --users-per-day 5000  the users and days that it needs
      sluice experiment create mine.yaml --reason "OPS-71"   stores it; no user sees it yet
      sluice experiment start closer-look --reason "OPS-71"  begins it
      sluice experiment status                               effects with their intervals, as they change
      sluice experiment report closer-look --html report.html
    """
    context.obj = (*context.obj, service)
