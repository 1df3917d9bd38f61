"""What the commands of `sluice rollout` do."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import typer
from rich.text import Text

from sluice_cli.calls import (
    DONE,
    NEEDS_A_LOOK,
    WRONG_COMMAND_LINE,
    Connection,
    Problem,
    plain,
    print_json,
    say_warning,
    stderr,
    stdout,
)
from sluice_cli.rollout import views
from sluice_cli.rollout.plans import FeatureFile, PlanFile, overrides_of, parse_share, read_plan, template_text
from sluice_client import Feature, Features, FeatureState, Replica, RolloutClient

# A gateway looks every second; one that needs longer is cut off, and its lease ends.
ACKNOWLEDGED_WITHIN_SECONDS = 5.0
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What every command has: who wants it, why, and how it is told."""

    actor: str
    reason: str
    as_json: bool


async def show_all(connection: Connection, *, as_json: bool) -> int:
    """Lists all features; the exit code."""
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
    """Shows one feature with plan, evidence and gateways; the exit code."""
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
        stdout.print(views.plan_view(feature.plan, feature.overrides))
    else:
        stdout.print(f"switches: {views.overrides_words(feature.overrides)}", markup=False)
    stdout.print(views.gateways_view(status.gateways, listing.snapshot_version))
    return DONE


async def create(
    connection: Connection, wish: Wish, name: str, overrides: Features, description: str, salt: str
) -> int:
    """Makes a feature; the exit code."""
    async with connection.rollout_client(wish.actor) as client:
        feature = await client.create(name, overrides, reason=wish.reason, description=description, salt=salt)
    _tell(feature, wish)
    return DONE


async def start(connection: Connection, wish: Wish, source: str, name: str) -> int:
    """Starts what is next in a plan: the first of its features that is not complete; the exit code."""
    file = read_plan(source)
    async with connection.rollout_client(wish.actor) as client:
        known = {feature.name: feature for feature in (await client.features()).features}
        wanted = [file.feature(name)] if name else file.features
        for place, feature in enumerate(wanted):
            there = known.get(feature.name)
            if there is None:
                await client.create(
                    feature.name, overrides_of(feature), reason=wish.reason, description=feature.description
                )
            elif there.overrides != overrides_of(feature):
                raise Problem(
                    f"{feature.name} is there already, and switches something else: "
                    f"{views.overrides_words(there.overrides)}",
                    "give what is new a name of its own in the plan; a feature keeps its meaning",
                )
            elif there.state is FeatureState.COMPLETE and not name:
                continue
            elif there.state is not FeatureState.READY:
                return _under_way(there, file, wish)
            if not wish.as_json:
                for later in wanted[place + 1 :]:
                    stderr.print(Text(f"after it, by the same command: {later.name}", style="dim"))
            return await _begin(client, file, feature, wish)
    if wish.as_json:
        print_json({"plan": file.name, "complete": True})
    else:
        stdout.print(f"all of {plain(file.name)} is complete: nothing to start", markup=False)
    return DONE


async def _begin(client: RolloutClient, file: PlanFile, feature: FeatureFile, wish: Wish) -> int:
    started = await client.start(feature.name, file.plan(feature), reason=wish.reason)
    _tell(started, wish)
    return await _acknowledged(client, started.name, wish)


def _under_way(feature: Feature, file: PlanFile, wish: Wish) -> int:
    same = feature.plan is not None and feature.plan.name == file.name
    going_on = feature.state is FeatureState.RAMPING and same
    if wish.as_json:
        print_json(feature)
    else:
        stdout.print(f"{_words(feature)}: nothing was changed", markup=False)
    if not going_on:
        taken_back = f"`sluice rollout history {feature.name}` tells why; then `rearm`, and this again"
        then = {
            FeatureState.HELD: f"`sluice rollout promote {feature.name}` goes on",
            FeatureState.ROLLED_BACK: taken_back,
            FeatureState.KILLED: taken_back,
        }
        say_warning(f"{feature.name} is not on its way: {then.get(feature.state, 'it follows another plan')}")
    return DONE if going_on else NEEDS_A_LOOK


async def set_share(connection: Connection, wish: Wish, name: str, share: str, *, sure: bool) -> int:
    """Sets the share of users by hand; the exit code. More users than before have to be confirmed."""
    treatment_ppm = parse_share(share)
    async with connection.rollout_client(wish.actor) as client:
        before = (await client.feature(name)).feature.treatment_ppm
        if treatment_ppm > before and not sure:
            _confirm(f"{name} goes from {views.percent(before)} to {views.percent(treatment_ppm)}, whatever is shown")
        feature = await client.set_share(name, treatment_ppm, reason=wish.reason)
        _tell(feature, wish)
        return await _acknowledged(client, name, wish)


def _confirm(what: str) -> None:
    if not sys.stdin.isatty():
        raise Problem(f"{what}: that needs a yes", "give --yes where nobody can be asked", exit_code=WRONG_COMMAND_LINE)
    typer.confirm(f"{what}. Do it?", abort=True, err=True)


async def change(
    connection: Connection,
    wish: Wish,
    name: str,
    command: Callable[[RolloutClient], Callable[..., Awaitable[Feature]]],
) -> int:
    """Gives one of the commands that need no more than a name, and waits for the gateways; the exit code."""
    async with connection.rollout_client(wish.actor) as client:
        feature = await command(client)(name, reason=wish.reason)
        _tell(feature, wish)
        return await _acknowledged(client, name, wish)


async def history(connection: Connection, name: str, *, as_json: bool) -> int:
    """Shows what happened; the exit code."""
    async with connection.rollout_client() as client:
        entries = [entry async for entry in client.history(name)]
    if as_json:
        print_json(entries)
    else:
        stdout.print(views.history_view(entries) if entries else "nothing has happened yet")
    return DONE


async def template(_connection: Connection, name: str) -> int:
    """Writes a template to standard output; the exit code."""
    typer.echo(template_text(name), nl=False)
    return DONE


async def check(_connection: Connection, source: str, *, as_json: bool) -> int:
    """Reads a plan and shows what it says; the exit code."""
    file = read_plan(source)
    if as_json:
        print_json({feature.name: file.plan(feature) for feature in file.features})
        return DONE
    for feature in file.features:
        stdout.print(Text(f"{plain(feature.name)}  {plain(feature.description)}", style="bold"))
        stdout.print(views.plan_view(file.plan(feature), overrides_of(feature)))
    return DONE


def _tell(feature: Feature, wish: Wish) -> None:
    if wish.as_json:
        print_json(feature)
    else:
        stdout.print(_words(feature), markup=False)


def _words(feature: Feature) -> str:
    step = views.step_words(feature)
    told = f", step {step}" if step != "-" else ""
    return f"{plain(feature.name)} is {feature.state}: {views.percent(feature.treatment_ppm)} of the users{told}"


async def _acknowledged(client: RolloutClient, name: str, wish: Wish) -> int:
    """Waits until all live gateways serve what was just decided, and says how long that took."""
    started = time.monotonic()
    newest = (await client.features()).snapshot_version
    while True:
        gateways = [replica for replica in (await client.feature(name)).gateways if replica.live]
        behind = [replica for replica in gateways if replica.version < newest]
        took = time.monotonic() - started
        if not behind or took > ACKNOWLEDGED_WITHIN_SECONDS:
            break
        await asyncio.sleep(_POLL_SECONDS)
    if behind:
        say_warning(_behind(behind, newest))
        return NEEDS_A_LOOK
    if not gateways:
        say_warning(
            "no gateway is connected; each learns of it when it is, and its lease ends what it serves till then"
        )
    elif not wish.as_json:
        count = f"all {len(gateways)} gateways serve" if len(gateways) > 1 else "the gateway serves"
        stdout.print(f"{count} it (snapshot {newest}), {took:.1f} s after the decision", markup=False)
    return DONE


def _behind(behind: list[Replica], newest: int) -> str:
    named = ", ".join(f"{plain(replica.name)} (snapshot {replica.version})" for replica in behind)
    return (
        f"not served yet (snapshot {newest}) by {named}: a gateway that is cut off falls back to standard when its "
        f"lease ends; to be sure now, write ROLLOUT_KILL=NAME into its ROLLOUT_OVERRIDES_PATH. "
        f"`sluice rollout status` goes on looking"
    )
