"""The commands of `sluice rollout`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import typer
from rich.text import Text

from sluice_cli.calls import (
    DONE,
    NEEDS_A_LOOK,
    Connection,
    Problem,
    confirm,
    plain,
    print_json,
    say_warning,
    stderr,
    stdout,
    words,
)
from sluice_cli.rollout import views
from sluice_cli.rollout.plans import FeatureFile, PlanFile, parse_share, read_plan, template_text
from sluice_client import AsyncRolloutClient, Feature, FeatureState, FlagValue, Gateway, features

# A gateway looks every second; one that needs longer is cut off, and its lease ends.
ACKNOWLEDGED_WITHIN_SECONDS = 5.0
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Author and reason of a change, and the form of the output."""

    actor: str
    reason: str
    as_json: bool


async def show_all(connection: Connection, *, as_json: bool) -> int:
    """List all features, and return the exit code."""
    async with connection.rollout_client() as client:
        found = await client.features()
    if as_json:
        print_json(found)
    elif found.features:
        stdout.print(views.features_view(found.features))
    else:
        stdout.print("no features yet; `sluice rollout start weekly` begins a rollout, `create` makes a feature")
    return DONE


async def show(connection: Connection, name: str, *, as_json: bool) -> int:
    """Show one feature with plan, evidence and gateways, and return the exit code."""
    async with connection.rollout_client() as client:
        status, listing = await client.feature(name), await client.features()
    if as_json:
        print_json(status)
        return DONE
    feature = status.feature
    stdout.print(views.status_view(status))
    if feature.description:
        stdout.print(plain(feature.description), markup=False)
    if feature.plan is not None:
        stdout.print(views.plan_view(feature.plan, feature.features))
    else:
        stdout.print(f"sets: {views.flags_words(feature.features)}", markup=False)
    stdout.print(views.gateways_view(status.gateways, listing.snapshot_version))
    return DONE


async def create(
    connection: Connection, order: Order, name: str, flags: Mapping[str, FlagValue], description: str, salt: str
) -> int:
    """Make a feature, and return the exit code."""
    async with connection.rollout_client(order.actor) as client:
        feature = await client.create(name, features(**flags), reason=order.reason, description=description, salt=salt)
    _print(feature, order)
    return DONE


async def start(connection: Connection, order: Order, source: str, name: str) -> int:
    """Start the first feature of a plan that is not complete, and return the exit code."""
    file = read_plan(source)
    async with connection.rollout_client(order.actor) as client:
        known = {feature.name: feature for feature in (await client.features()).features}
        wanted = [file.feature(name)] if name else file.features
        for place, feature in enumerate(wanted):
            there = known.get(feature.name)
            if there is None:
                await client.create(
                    feature.name, feature.overrides, reason=order.reason, description=feature.description
                )
            elif there.features != feature.overrides:
                raise Problem(
                    f"{feature.name} exists already, and sets other flags: {views.flags_words(there.features)}",
                    "give the new one another name in the plan; a feature keeps its meaning",
                )
            elif there.state is FeatureState.COMPLETE and not name:
                continue
            elif there.state is not FeatureState.READY:
                return _under_way(there, file, order)
            if not order.as_json:
                for later in wanted[place + 1 :]:
                    stderr.print(Text(f"after it, by the same command: {later.name}", style="dim"))
            return await _begin(client, file, feature, order)
    if order.as_json:
        print_json({"plan": file.name, "complete": True})
    else:
        stdout.print(f"all of {plain(file.name)} is complete: nothing to start", markup=False)
    return DONE


async def _begin(client: AsyncRolloutClient, file: PlanFile, feature: FeatureFile, order: Order) -> int:
    started = await client.start(feature.name, file.plan(feature), reason=order.reason)
    _print(started, order)
    return await _acknowledged(client, started.name, order)


def _under_way(feature: Feature, file: PlanFile, order: Order) -> int:
    same = feature.plan is not None and feature.plan.name == file.name
    going_on = feature.state is FeatureState.RAMPING and same
    if order.as_json:
        print_json(feature)
    else:
        stdout.print(f"{_state_words(feature)}: nothing was changed", markup=False)
    if not going_on:
        taken_back = f"`sluice rollout history {feature.name}` tells why; then `rearm`, and this again"
        then = {
            FeatureState.HELD: f"`sluice rollout promote {feature.name}` goes on",
            FeatureState.ROLLED_BACK: taken_back,
            FeatureState.KILLED: taken_back,
        }
        say_warning(f"{feature.name} is not on its way: {then.get(feature.state, 'it follows another plan')}")
    return DONE if going_on else NEEDS_A_LOOK


async def set_share(connection: Connection, order: Order, name: str, share: str, *, sure: bool) -> int:
    """Set the share of users by hand, and return the exit code. More users than before need a confirmation."""
    treatment_ppm = parse_share(share)
    async with connection.rollout_client(order.actor) as client:
        before = (await client.feature(name)).feature.treatment_ppm
        if treatment_ppm > before:
            what = f"{name} goes from {views.percent(before)} to {views.percent(treatment_ppm)}, whatever is shown"
            confirm(what, sure)
        feature = await client.set_share(name, treatment_ppm, reason=order.reason)
        _print(feature, order)
        return await _acknowledged(client, name, order)


async def change(
    connection: Connection,
    order: Order,
    name: str,
    command: Callable[[AsyncRolloutClient], Callable[..., Awaitable[Feature]]],
) -> int:
    """Give a command that needs only a name, wait for the gateways, and return the exit code."""
    async with connection.rollout_client(order.actor) as client:
        feature = await command(client)(name, reason=order.reason)
        _print(feature, order)
        return await _acknowledged(client, name, order)


async def history(connection: Connection, name: str, *, as_json: bool) -> int:
    """Show the history, and return the exit code."""
    async with connection.rollout_client() as client:
        entries = [entry async for entry in client.history(name)]
    if as_json:
        print_json(entries)
    else:
        stdout.print(views.history_view(entries) if entries else "nothing has happened yet")
    return DONE


async def template(_connection: Connection, name: str) -> int:
    """Write a template to standard output, and return the exit code."""
    typer.echo(template_text(name), nl=False)
    return DONE


async def check(_connection: Connection, source: str, *, as_json: bool) -> int:
    """Read a plan, show it, and return the exit code."""
    file = read_plan(source)
    if as_json:
        print_json({feature.name: file.plan(feature) for feature in file.features})
        return DONE
    for feature in file.features:
        stdout.print(Text(f"{plain(feature.name)}  {plain(feature.description)}", style="bold"))
        stdout.print(views.plan_view(file.plan(feature), feature.overrides))
    return DONE


def _print(feature: Feature, order: Order) -> None:
    if order.as_json:
        print_json(feature)
    else:
        stdout.print(_state_words(feature), markup=False)


def _state_words(feature: Feature) -> str:
    step = views.step_words(feature)
    told = f", step {step}" if step != "-" else ""
    return f"{plain(feature.name)} is {words(feature.state)}: {views.percent(feature.treatment_ppm)} of the users{told}"


async def _acknowledged(client: AsyncRolloutClient, name: str, order: Order) -> int:
    """Wait until all live gateways serve the decision, and print the time that it took."""
    started = time.monotonic()
    newest = (await client.features()).snapshot_version
    while True:
        gateways = [gateway for gateway in (await client.feature(name)).gateways if gateway.live]
        behind = [gateway for gateway in gateways if gateway.version < newest]
        took = time.monotonic() - started
        if not behind or took > ACKNOWLEDGED_WITHIN_SECONDS:
            break
        await asyncio.sleep(_POLL_SECONDS)
    if behind:
        say_warning(_behind(behind, newest))
        return NEEDS_A_LOOK
    if not gateways:
        say_warning("no gateway is connected; each learns of it once connected, and its lease ends the earlier share")
    elif not order.as_json:
        count = f"all {len(gateways)} gateways serve" if len(gateways) > 1 else "the gateway serves"
        stdout.print(f"{count} it (snapshot {newest}), {took:.1f} s after the decision", markup=False)
    return DONE


def _behind(behind: list[Gateway], newest: int) -> str:
    named = ", ".join(f"{plain(gateway.name)} (snapshot {gateway.version})" for gateway in behind)
    return (
        f"not served yet (snapshot {newest}) by {named}: a gateway that is cut off falls back to standard when its "
        f"lease ends; to be sure now, write ROLLOUT_KILL=NAME into its ROLLOUT_OVERRIDES_PATH. "
        f"`sluice rollout status` goes on looking"
    )
