"""`sluice rollout`: the commands that change features."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeAlias

import typer
from rich.text import Text

from sluice_cli.calls import (
    DONE,
    NEEDS_A_LOOK,
    Problem,
    command,
    confirm,
    connection_of,
    plain,
    print_json,
    say_warning,
    stderr,
    stdout,
    words,
)
from sluice_cli.options import AsJson, FlagCommand, Sure, flags_of
from sluice_cli.plan_files import parse_share
from sluice_cli.rollout import views
from sluice_cli.rollout.app import (
    ACKNOWLEDGED_WITHIN_SECONDS,
    POLL_SECONDS,
    Actor,
    Name,
    Order,
    Reason,
    order_of,
    rollout,
)
from sluice_cli.rollout.plans import PLANS, FeatureFile, PlanFile
from sluice_client import AsyncRolloutClient, Feature, FeatureState, Gateway, features


@rollout.command(cls=FlagCommand)
@command
async def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="FEATURE", help="1 to 64 lower case letters, digits and dashes.")],
    reason: Reason,
    description: Annotated[str, typer.Option(metavar="TEXT", help="Description, to be shown.")] = "",
    salt: Annotated[
        str, typer.Option(metavar="TEXT", help="Salt of the users' buckets; the name if not given. It never changes.")
    ] = "",
    actor: Actor = "",
    as_json: AsJson = False,
) -> int:
    """Make a feature that reaches no users yet.

    `start` makes those of a plan by itself.

    \b
    Examples:
      sluice rollout create rerank --rerank --rerank-candidate-count 50 --reason "the new cross-encoder"
      sluice rollout create phrases --expansion --expansion-strategy multi_query --reason "low recall"
    """
    order = order_of(actor, reason, as_json)
    async with connection_of(context).rollout_client(order.actor) as client:
        feature = await client.create(
            name, features(**flags_of(context)), reason=order.reason, description=description, salt=salt
        )
    _print(feature, order)
    return DONE


@rollout.command()
@command
async def start(
    context: typer.Context,
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="A plan file (.yaml, .toml), or a template's name.")],
    reason: Reason,
    feature: Annotated[
        str, typer.Option(metavar="NAME", help="A feature of the plan; the first not complete, if not given.")
    ] = "",
    actor: Actor = "",
    as_json: AsJson = False,
) -> int:
    """Start the next feature of a plan: the first not complete yet.

    Makes the feature if it does not exist.

    A plan with several features is worked off by giving the same command again, week by week; while one is on its way,
    that changes nothing. A plan that cannot be read changes nothing either.

    \b
    Examples:
      sluice rollout start weekly --reason "week 1: baseline"
      sluice rollout start my-plan.yaml --reason "OPS-71"
      sluice rollout start my-plan.toml --feature rerank --reason "once more, with the fix"
    """
    order = order_of(actor, reason, as_json)
    file = PLANS.read(plan)
    async with connection_of(context).rollout_client(order.actor) as client:
        known = {feature.name: feature for feature in (await client.features()).features}
        wanted = [file.feature(feature)] if feature else file.features
        for place, one in enumerate(wanted):
            there = known.get(one.name)
            if there is None:
                await client.create(one.name, one.overrides, reason=order.reason, description=one.description)
            elif there.features != one.overrides:
                raise Problem(
                    f"{one.name} exists already, and sets other flags: {views.flags_words(there.features)}",
                    "give the new one another name in the plan; a feature keeps its meaning",
                )
            elif there.state is FeatureState.COMPLETE and not feature:
                continue
            elif there.state is not FeatureState.READY:
                return _under_way(there, file, order)
            if not order.as_json:
                for later in wanted[place + 1 :]:
                    stderr.print(Text(f"after it, by the same command: {later.name}", style="dim"))
            return await _begin(client, file, one, order)
    if order.as_json:
        print_json({"plan": file.name, "complete": True})
    else:
        stdout.print(f"all of {plain(file.name)} is complete: nothing to start")
    return DONE


@rollout.command("set")
@command
async def set_(
    context: typer.Context,
    name: Name,
    share: Annotated[str, typer.Argument(metavar="SHARE", help="Of all users, as in 25%.")],
    reason: Reason,
    sure: Sure = False,
    actor: Actor = "",
    as_json: AsJson = False,
) -> int:
    """Set the share of users by hand, whatever the evidence shows.

    \b
    Examples:
      sluice rollout set rerank 5% --reason "carefully"
      sluice rollout set rerank 25% --yes --reason "load test tonight"
    """
    order = order_of(actor, reason, as_json)
    treatment_ppm = parse_share(share)
    async with connection_of(context).rollout_client(order.actor) as client:
        before = (await client.feature(name)).feature.treatment_ppm
        if treatment_ppm > before:
            what = f"{name} goes from {views.percent(before)} to {views.percent(treatment_ppm)}, whatever is shown"
            confirm(what, sure)
        feature = await client.set_share(name, treatment_ppm, reason=order.reason)
        _print(feature, order)
        return await _acknowledged(client, name, order)


async def _change(context: typer.Context, order: Order, name: str, action: Action) -> int:
    """Make a change that needs only a name; wait for the gateways."""
    async with connection_of(context).rollout_client(order.actor) as client:
        feature = await action(client)(name, reason=order.reason)
        _print(feature, order)
        return await _acknowledged(client, name, order)


Action: TypeAlias = Callable[[AsyncRolloutClient], Callable[..., Awaitable[Feature]]]


def _add(name: str, action: Action, text: str, *examples: str, urgent: bool = False) -> None:
    """Add a command that needs only a name; an urgent one needs no reason."""

    async def change(
        context: typer.Context, name: Name, reason: Reason, actor: Actor = "", as_json: AsJson = False
    ) -> int:
        return await _change(context, order_of(actor, reason, as_json), name, action)

    async def change_now(
        context: typer.Context, name: Name, reason: Reason = "by hand", actor: Actor = "", as_json: AsJson = False
    ) -> int:
        return await _change(context, order_of(actor, reason, as_json), name, action)

    shown = "\n".join(f"  sluice rollout {name} {example}" for example in examples)
    rollout.command(name, help=f"{text}\n\n\b\nExamples:\n{shown}")(command(change_now if urgent else change))


_add(
    "promote",
    lambda client: client.promote,
    "Go on to the plan's next step, where the evidence allows it; a feature that is held goes on, too.",
    'rerank --reason "two days without a complaint"',
)
_add(
    "hold",
    lambda client: client.hold,
    "Keep a feature at its share until it is promoted. It is still taken back if it turns out worse.",
    'rerank --reason "release freeze"',
)
_add(
    "halve",
    lambda client: client.halve,
    "Take a feature back from half of its users, the latest first.",
    'rerank --reason "P95 is creeping up"',
    urgent=True,
)
_add(
    "rollback",
    lambda client: client.roll_back,
    "Take a feature back from all users. Requests may still ask for it; `kill` ends that, too.",
    "rerank",
    'rerank --reason "complaints from support"',
    urgent=True,
)
_add(
    "kill",
    lambda client: client.kill,
    "Switch a feature off, even for requests that ask for it.",
    "rerank",
    'rerank --reason "the reranker answers nonsense"',
    urgent=True,
)
_add(
    "rearm",
    lambda client: client.rearm,
    "Let a feature that was rolled back or killed be started again.",
    'rerank --reason "fixed in OPS-72"',
)


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
        stdout.print(f"{_state_words(feature)}: nothing was changed")
    if not going_on:
        taken_back = f"`sluice rollout history {feature.name}` tells why; then `rearm`, and this again"
        then = {
            FeatureState.HELD: f"`sluice rollout promote {feature.name}` goes on",
            FeatureState.ROLLED_BACK: taken_back,
            FeatureState.KILLED: taken_back,
        }
        say_warning(f"{feature.name} is not on its way: {then.get(feature.state, 'it follows another plan')}")
    return DONE if going_on else NEEDS_A_LOOK


def _print(feature: Feature, order: Order) -> None:
    if order.as_json:
        print_json(feature)
    else:
        stdout.print(_state_words(feature))


def _state_words(feature: Feature) -> str:
    step = views.step_words(feature)
    told = f", step {step}" if step != "-" else ""
    return f"{plain(feature.name)} is {words(feature.state)}: {views.percent(feature.treatment_ppm)} of the users{told}"


async def _acknowledged(client: AsyncRolloutClient, name: str, order: Order) -> int:
    """Wait until all live gateways serve the decision."""
    started = time.monotonic()
    newest = (await client.features()).snapshot_version
    while True:
        gateways = [gateway for gateway in (await client.feature(name)).gateways if gateway.live]
        behind = [gateway for gateway in gateways if gateway.version < newest]
        took = time.monotonic() - started
        if not behind or took > ACKNOWLEDGED_WITHIN_SECONDS:
            break
        await asyncio.sleep(POLL_SECONDS)
    if behind:
        say_warning(_behind(behind, newest))
        return NEEDS_A_LOOK
    if not gateways:
        say_warning("no gateway is connected; each learns of it once connected, and its lease ends the earlier share")
    elif not order.as_json:
        count = f"all {len(gateways)} gateways serve" if len(gateways) > 1 else "the gateway serves"
        stdout.print(f"{count} it (snapshot {newest}), {took:.1f} s after the decision")
    return DONE


def _behind(behind: list[Gateway], newest: int) -> str:
    named = ", ".join(f"{plain(gateway.name)} (snapshot {gateway.version})" for gateway in behind)
    return (
        f"not served yet (snapshot {newest}) by {named}: a gateway that is cut off falls back to standard when its "
        f"lease ends; to be sure now, write ROLLOUT_KILL=NAME into its ROLLOUT_OVERRIDES_PATH. "
        f"`sluice rollout status` goes on looking"
    )
