"""`sluice rollout status`: shows features as they change."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from sluice_cli.calls import DONE, command, connection_of, plain, print_json, stdout
from sluice_cli.options import AsJson
from sluice_cli.rollout import views
from sluice_cli.rollout.app import rollout
from sluice_client import AsyncRolloutClient, FeatureState, FeatureStatus, SluiceError

_QUIET_STATES = {FeatureState.READY}


@rollout.command()
@command
async def status(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="[FEATURE]", help="Only this feature.")] = "",
    once: Annotated[bool, typer.Option("--once", help="Show it once, and end.")] = False,
    seconds: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.2, help="Time between two looks.")
    ] = 1.0,
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
        with Live(view, console=stdout, auto_refresh=False, screen=True) as live:
            while True:
                await asyncio.sleep(seconds)
                try:
                    view = _view(*await _look(client, name), connection.rollout)
                    live.update(view, refresh=True)
                except SluiceError as error:  # it may come back; the last view stays
                    lost = Text(f"not answering: {plain(error.message)}", style="bold red")
                    live.update(Group(view, lost), refresh=True)


async def _look(client: AsyncRolloutClient, name: str) -> tuple[list[FeatureStatus], int]:
    listing = await client.features()
    names = [name] if name else [feature.name for feature in listing.features]
    return [await client.feature(one) for one in names], listing.snapshot_version


def _view(found: Sequence[FeatureStatus], newest: int, address: str) -> RenderableType:
    now = datetime.now(UTC)
    head = Text(f"{address}, snapshot {newest}, {views.clock(now)}\n", style="dim")
    if not found:
        return Group(head, Text("no features yet; `sluice rollout start weekly` begins a rollout"))
    quiet = [status.feature.name for status in found if status.feature.state in _QUIET_STATES and len(found) > 1]
    blocks: list[RenderableType] = [views.status_view(status) for status in found if status.feature.name not in quiet]
    if quiet:
        blocks.append(Text(f"ready to be started: {', '.join(map(plain, quiet))}\n", style="dim"))
    gateways = {gateway.name: gateway for status in found for gateway in status.gateways}
    return Group(head, *blocks, views.gateways_view(list(gateways.values()), newest, now))
