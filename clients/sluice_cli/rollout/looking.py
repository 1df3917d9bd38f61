"""`sluice rollout`: the commands that show features, history and plans."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from sluice_cli.calls import DONE, Problem, command, connection_of, plain, print_json, stderr, stdout
from sluice_cli.options import AsJson
from sluice_cli.progress import live
from sluice_cli.rollout import views
from sluice_cli.rollout.app import Every, Name, Once, rollout
from sluice_cli.rollout.plans import PLANS
from sluice_client import AsyncRolloutClient, FeatureState, FeatureStatus


@rollout.command("list")
@command
async def list_(context: typer.Context, as_json: AsJson = False) -> int:
    """List all features: states, shares of users, and reasons.

    \b
    Examples:
      sluice rollout list
      sluice rollout list --json | jq -r '.features[] | select(.treatment_ppm > 0) | .name'
    """
    async with connection_of(context).rollout_client() as client:
        found = await client.features()
    if as_json:
        print_json(found)
    elif found.features:
        stdout.print(views.features_view(found.features))
    else:
        stdout.print("no features yet; `sluice rollout start weekly` begins a rollout, `create` makes a feature")
    return DONE


@rollout.command()
@command
async def show(context: typer.Context, name: Name, as_json: AsJson = False) -> int:
    """Show one feature: its plan, its evidence, and its gateways.

    \b
    Examples:
      sluice rollout show rerank
      sluice rollout show rerank --json | jq '.guardrails'
    """
    async with connection_of(context).rollout_client() as client:
        status, listing = await client.feature(name), await client.features()
    if as_json:
        print_json(status)
        return DONE
    feature = status.feature
    stdout.print(views.status_view(status))
    if feature.description:
        stdout.print(plain(feature.description))
    if feature.plan is not None:
        stdout.print(views.plan_view(feature.plan, feature.features))
    else:
        stdout.print(f"sets: {views.flags_words(feature.features)}")
    stdout.print(views.gateways_view(status.gateways, listing.snapshot_version))
    return DONE


@rollout.command()
@command
async def history(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="[FEATURE]", help="Only this feature.")] = "",
    as_json: AsJson = False,
) -> int:
    """Show the history, oldest first: changes, authors and reasons.

    \b
    Examples:
      sluice rollout history
      sluice rollout history rerank --json | jq -r '.[] | select(.actor == "sluice") | .reason'
    """
    async with connection_of(context).rollout_client() as client:
        entries = [entry async for entry in client.history(name)]
    if as_json:
        print_json(entries)
    else:
        stdout.print(views.history_view(entries) if entries else "nothing has happened yet")
    return DONE


@rollout.command()
@command
async def plan(
    context: typer.Context,
    template: Annotated[str, typer.Argument(metavar="TEMPLATE", help="ramp, or weekly.")],
) -> int:
    """Print a plan that comes with the command: ramp or weekly.

    ramp has one feature and the steps 10, 50 and 100 %; weekly has four features, a week each.

    \b
    Examples:
      sluice rollout plan ramp > my-plan.yaml
    """
    typer.echo(PLANS.template_text(template), nl=False)
    return DONE


@rollout.command()
@command
async def check(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="PLAN", help="A plan file (.yaml, .toml), or a template's name.")],
    as_json: AsJson = False,
) -> int:
    """Read a plan and show it, without any service.

    \b
    Examples:
      sluice rollout check my-plan.yaml
    """
    file = PLANS.read(source)
    if as_json:
        print_json({feature.name: file.plan(feature) for feature in file.features})
        return DONE
    for feature in file.features:
        stdout.print(Text(f"{plain(feature.name)}  {plain(feature.description)}", style="bold"))
        stdout.print(views.plan_view(file.plan(feature), feature.overrides))
    return DONE


@rollout.command()
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
    """Write the review of a feature's rollout: history, decisions, comparisons and plots.

    Without a file it is Markdown on standard output, without plots.

    \b
    Examples:
      sluice rollout report rerank --html rerank.html
      sluice rollout report rerank --markdown docs/reviews/rerank.md
      sluice rollout report rerank | less
    """
    try:
        from sluice_cli.rollout import report as writer  # noqa: PLC0415  # an extra
    except ModuleNotFoundError as missing:
        problem = f"a report needs {missing.name}, which is not installed"
        raise Problem(problem, "pip install 'sluice-retrieval[report]'") from None
    async with connection_of(context).rollout_client() as client:
        with stderr.status("asking for the evidence"):
            found = await client.report(name)
    if as_json:
        print_json(found)
    elif html is None and markdown is None:
        typer.echo(writer.markdown_of(found), nl=False)
    else:
        with stderr.status("drawing"):
            written = writer.write(found, html=html, markdown=markdown)
        for path in written:
            stdout.print(f"{plain(str(path))} written")
    return DONE


@rollout.command()
@command
async def status(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="[FEATURE]", help="Only this feature.")] = "",
    once: Once = False,
    seconds: Every = 1.0,
    as_json: AsJson = False,
) -> int:
    """Show shares, arms, evidence and gateways as they change, until Ctrl-C.

    Evidence is the log of an e-value. Against a feature: at its threshold the feature is taken back. For it: at its
    threshold the feature is shown to be no worse than its plan allows, and may go on.

    \b
    Examples:
      sluice rollout status
      sluice rollout status rerank --once
      sluice rollout status --json | jq '.features[].guardrails'
    """
    connection = connection_of(context)
    async with connection.rollout_client() as client:
        found, newest = await _look(client, name)
        if as_json:
            print_json({"snapshot_version": newest, "features": found})
            return DONE
        view = _view(found, newest, connection.rollout)
        if once or not stdout.is_terminal:
            stdout.print(view)
            return DONE
        await live(view, partial(_looked, client, name, connection.rollout), seconds)
    return DONE


async def _looked(client: AsyncRolloutClient, name: str, address: str) -> RenderableType:
    return _view(*await _look(client, name), address)


async def _look(client: AsyncRolloutClient, name: str) -> tuple[list[FeatureStatus], int]:
    listing = await client.features()
    names = [name] if name else [feature.name for feature in listing.features]
    return [await client.feature(one) for one in names], listing.snapshot_version


def _view(found: Sequence[FeatureStatus], newest: int, address: str) -> RenderableType:
    now = datetime.now(UTC)
    head = Text(f"{address}, snapshot {newest}, {views.clock(now)}\n", style="dim")
    if not found:
        return Group(head, Text("no features yet; `sluice rollout start weekly` begins a rollout"))
    quiet = [status.feature.name for status in found if status.feature.state is FeatureState.READY and len(found) > 1]
    blocks: list[RenderableType] = [views.status_view(status) for status in found if status.feature.name not in quiet]
    if quiet:
        blocks.append(Text(f"ready to be started: {', '.join(map(plain, quiet))}\n", style="dim"))
    gateways = {gateway.name: gateway for status in found for gateway in status.gateways}
    return Group(head, *blocks, views.gateways_view(list(gateways.values()), newest, now))
