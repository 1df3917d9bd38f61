"""`sluice experiment`: the commands that show experiments and plans."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from sluice_cli.calls import DONE, Connection, Problem, command, connection_of, plain, print_json, stderr, stdout
from sluice_cli.experiment import views
from sluice_cli.experiment.app import Name, PlanSource, experiment
from sluice_cli.experiment.ladder import ladder, same_change
from sluice_cli.experiment.plans import PLANS
from sluice_cli.options import AsJson
from sluice_cli.progress import live
from sluice_cli.rollout.app import Every, Once
from sluice_cli.rollout.views import clock
from sluice_client import (
    AsyncExperimentClient,
    Experiment,
    ExperimentReport,
    ExperimentState,
    ExperimentStatus,
    RolloutReport,
)


@experiment.command("list")
@command
async def list_(context: typer.Context, as_json: AsJson = False) -> int:
    """List all experiments: states, verdicts and reasons.

    \b
    Examples:
      sluice experiment list
      sluice experiment list --json | jq -r '.[] | select(.verdict == "ship") | .arm'
    """
    async with connection_of(context).experiment_client() as client:
        found = [one async for one in client.experiments()]
    if as_json:
        print_json(found)
    elif found:
        stdout.print(views.experiments_view(found))
    else:
        stdout.print("no experiments yet; `sluice experiment template interleave > mine.yaml` writes a plan for one")
    return DONE


@experiment.command()
@command
async def template(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="TEMPLATE", help="ab, or interleave.")],
) -> int:
    """Print a plan that comes with the command: ab or interleave.

    \b
    Examples:
      sluice experiment template interleave > mine.yaml
    """
    typer.echo(PLANS.template_text(name), nl=False)
    return DONE


@experiment.command()
@command
async def check(context: typer.Context, source: PlanSource, as_json: AsJson = False) -> int:
    """Read a plan and show it, without any service.

    \b
    Examples:
      sluice experiment check mine.yaml
    """
    plan = PLANS.read(source).plan()
    if as_json:
        print_json(plan)
    else:
        stdout.print(views.plan_view(plan))
    return DONE


@experiment.command()
@command
async def status(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="[EXPERIMENT]", help="Only this experiment.")] = "",
    once: Once = False,
    seconds: Every = 1.0,
    as_json: AsJson = False,
) -> int:
    """Show users, effects and evidence as they change, until Ctrl-C.

    The interval of a change holds at all times together: looking often does no harm. An experiment ends by itself when
    the interval of the metric that decides is on one side of zero, or so close to it that no change is left that
    matters.

    \b
    Examples:
      sluice experiment status
      sluice experiment status closer-look --once
      sluice experiment status --json | jq '.[].findings.metrics'
    """
    connection = connection_of(context)
    async with connection.experiment_client() as client:
        found = await _look(client, name)
        if as_json:
            print_json(found)
            return DONE
        view = _view(found, connection.rollout)
        if once or not stdout.is_terminal:
            stdout.print(view)
            return DONE
        await live(view, partial(_looked, client, name, connection.rollout), seconds)
    return DONE


async def _looked(client: AsyncExperimentClient, name: str, address: str) -> RenderableType:
    return _view(await _look(client, name), address)


async def _look(client: AsyncExperimentClient, name: str) -> list[ExperimentStatus]:
    names = [name] if name else [one.name async for one in client.experiments()]
    return [await client.experiment(one) for one in names]


def _view(found: Sequence[ExperimentStatus], address: str) -> RenderableType:
    now = datetime.now(UTC)
    head = Text(f"{address}, {clock(now)}\n", style="dim")
    if not found:
        return Group(head, Text("no experiments yet; `sluice experiment create` makes one"))
    running = [one for one in found if one.experiment.state is ExperimentState.RUNNING or len(found) == 1]
    blocks = [views.status_view(one, now) for one in running]
    others = [one.experiment for one in found if one not in running]
    if others:
        blocks.append(views.experiments_view(others))
    return Group(head, *blocks)


@experiment.command()
@command
async def report(
    context: typer.Context,
    name: Name,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page that needs nothing else.")] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write Markdown, with plots next to it.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Write the report of an experiment: verdict, effects over time, users, and the ladder to all users.

    Without a file it is Markdown on standard output, without plots.

    \b
    Examples:
      sluice experiment report closer-look --html closer-look.html
      sluice experiment report closer-look --markdown docs/reports/closer-look.md
      sluice experiment report closer-look --json | jq '.ladder'
    """
    try:
        from sluice_cli.experiment import report as writer  # noqa: PLC0415  # an extra
    except ModuleNotFoundError as missing:
        problem = f"a report needs {missing.name}, which is not installed"
        raise Problem(problem, "pip install 'sluice-retrieval[report]'") from None
    with stderr.status("asking for the evidence"):
        found, others, rollouts = await _material(connection_of(context), name)
    material = writer.Material(found, others, rollouts)
    if as_json:
        fields = {one: getattr(found, one) for one in found.__slots__}
        print_json({**fields, "ladder": ladder(found, others, rollouts)})
    elif html is None and markdown is None:
        typer.echo(writer.markdown_of(material), nl=False)
    else:
        with stderr.status("drawing"):
            written = writer.write(material, html=html, markdown=markdown)
        for path in written:
            stdout.print(f"{plain(str(path))} written")
    return DONE


async def _material(
    connection: Connection, name: str
) -> tuple[ExperimentReport, list[Experiment], list[RolloutReport]]:
    """Ask for a report, and for the other steps of its ladder."""
    async with connection.experiment_client() as client, connection.rollout_client() as rollout:
        found = await client.report(name)
        others = [one async for one in client.experiments() if same_change(found.experiment, one)]
        rollouts = [await rollout.report(feature.name) for feature in found.features]
    return found, others, rollouts
