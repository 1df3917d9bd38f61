"""`sluice experiment`: the commands that change experiments."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from sluice_cli.calls import (
    DONE,
    NEEDS_A_LOOK,
    WRONG_COMMAND_LINE,
    Connection,
    Problem,
    command,
    connection_of,
    plain,
    print_json,
    say_warning,
    stdout,
    words,
)
from sluice_cli.experiment.app import Name, PlanSource, experiment
from sluice_cli.experiment.plans import PLANS
from sluice_cli.options import AsJson
from sluice_cli.rollout import views
from sluice_cli.rollout.app import ACKNOWLEDGED_WITHIN_SECONDS, POLL_SECONDS, Actor, Order, Reason, order_of
from sluice_client import AttachedEvidence, Experiment, LadderStep

MOST_BYTES = 256 * 1024  # of a result, at the rollout service
_MOST_FILE_BYTES = 8 * MOST_BYTES  # with spaces for readers
_STEPS = {step.value: step for step in (LadderStep.OFFLINE, LadderStep.REPLAY)}


@experiment.command()
@command
async def create(
    context: typer.Context, plan: PlanSource, reason: Reason, actor: Actor = "", as_json: AsJson = False
) -> int:
    """Store an experiment that reaches no users yet.

    A plan that cannot be read changes nothing; the line and the field that are wrong are named.

    \b
    Examples:
      sluice experiment create mine.yaml --reason "OPS-71: names win by chance"
    """
    order, file = order_of(actor, reason, as_json), PLANS.read(plan)
    async with connection_of(context).experiment_client(order.actor) as client:
        made = await client.create(file.plan(), reason=order.reason)
    _print(made, order)
    if not as_json:
        stdout.print(f"`sluice experiment start {plain(made.name)} --reason ...` begins it")
    return DONE


@experiment.command()
@command
async def start(context: typer.Context, name: Name, reason: Reason, actor: Actor = "", as_json: AsJson = False) -> int:
    """Begin a run: users fall into its arms within seconds.

    An experiment that has ended may be started again, with evidence of its own.

    \b
    Examples:
      sluice experiment start closer-look --reason "judged and replayed, nothing speaks against it"
    """
    order = order_of(actor, reason, as_json)
    connection = connection_of(context)
    async with connection.experiment_client(order.actor) as client:
        started = await client.start(name, reason=order.reason)
    _print(started, order)
    return await _acknowledged(connection, name, order)


@experiment.command()
@command
async def stop(
    context: typer.Context, name: Name, reason: Reason = "by hand", actor: Actor = "", as_json: AsJson = False
) -> int:
    """End a run: all users get the standard again.

    \b
    Examples:
      sluice experiment stop closer-look
      sluice experiment stop closer-look --reason "release freeze"
    """
    order = order_of(actor, reason, as_json)
    connection = connection_of(context)
    async with connection.experiment_client(order.actor) as client:
        stopped = await client.stop(name, reason=order.reason)
    _print(stopped, order)
    return await _acknowledged(connection, name, order)


@experiment.command()
@command
async def attach(  # one an option, and typer calls it
    context: typer.Context,
    name: Name,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON of `sluice evaluate` or `sluice whatif`, at most 256 KiB.")
    ],
    step: Annotated[
        str, typer.Option(metavar="STEP", help="offline or replay; the file says it itself if not given.")
    ] = "",
    summary: Annotated[
        str, typer.Option(metavar="TEXT", help="One line for the report; the file says it itself if not given.")
    ] = "",
    reason: Reason = "evidence",
    actor: Actor = "",
    as_json: AsJson = False,
) -> int:
    """Keep what was measured before users saw anything, for the report.

    Takes the place of earlier evidence of the same step.

    \b
    Examples:
      sluice experiment attach closer-look evaluation.json
      sluice experiment attach closer-look own.json --step offline --summary "nDCG@10 0.72 against 0.69"
    """
    order, evidence = order_of(actor, reason, as_json), _evidence(file, step, summary)
    async with connection_of(context).experiment_client(order.actor) as client:
        await client.attach(name, evidence, reason=order.reason)
    if as_json:
        print_json({"experiment": name, "step": evidence.step, "summary": evidence.summary, "time": evidence.time})
    else:
        stdout.print(f"{plain(name)} has {evidence.step} evidence: {plain(evidence.summary)}")
    return DONE


def _evidence(file: Path, step: str, summary: str) -> AttachedEvidence:
    """Read a file of evidence. Raises Problem."""
    try:
        with file.open("rb") as opened:
            raw = opened.read(_MOST_FILE_BYTES)
        time_ = datetime.fromtimestamp(file.stat().st_mtime, UTC)
    except OSError as error:
        what = f"{plain(str(file))} cannot be read: {error.strerror or error}"
        raise Problem(what, "name a file that `sluice evaluate` or `sluice whatif` wrote with --output") from None
    try:
        found: Any = json.loads(raw)
    except ValueError as error:
        raise _unfit(file, f"is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise _unfit(file, "is no JSON object")
    result = json.dumps(found.get("result", found))
    if len(result) > MOST_BYTES:
        raise _unfit(file, f"holds more than {MOST_BYTES // 1024} KiB")
    step, summary = step or str(found.get("step", "")), summary or str(found.get("summary", ""))
    if step not in _STEPS:
        raise _unfit(file, f"does not say its step, {' or '.join(_STEPS)}", "add --step")
    if not summary:
        raise _unfit(file, "has no summary", "add --summary with one line for the report")
    if isinstance(at := found.get("time"), str):
        try:
            moment = datetime.fromisoformat(at)
        except ValueError:
            raise _unfit(file, f"has a time that is none: {at[:40]!r}", "write it as 2026-11-28T12:00:00Z") from None
        time_ = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return AttachedEvidence(_STEPS[step], summary, result, time_)


def _unfit(
    file: Path, what: str, remedy: str = "name a file that `sluice evaluate` or `sluice whatif` wrote"
) -> Problem:
    return Problem(f"{plain(str(file))} {what}", remedy, exit_code=WRONG_COMMAND_LINE)


def _print(made: Experiment, order: Order) -> None:
    if order.as_json:
        print_json(made)
        return
    share = views.percent(made.plan.share_ppm)
    stdout.print(f"{plain(made.name)} is {words(made.state)}: {share} of the users, {_versus(made)}")


def _versus(made: Experiment) -> str:
    control, *others = [plain(arm.name) for arm in made.plan.arms]
    return f"{' and '.join(others)} against {control}"


async def _acknowledged(connection: Connection, name: str, order: Order) -> int:
    """Wait until all live gateways serve the newest change."""
    started = time.monotonic()
    async with connection.rollout_client(order.actor) as client:
        while True:
            entries = [entry async for entry in client.history(name)]
            took = time.monotonic() - started
            if not entries or entries[-1].done_time is not None or took > ACKNOWLEDGED_WITHIN_SECONDS:
                break
            await asyncio.sleep(POLL_SECONDS)
    if not entries or entries[-1].done_time is None:
        say_warning(
            "not every gateway has said that it serves it; one that is cut off falls back to standard when its lease "
            f"ends. `sluice rollout history {plain(name)}` shows when it is done"
        )
        return NEEDS_A_LOOK
    if not order.as_json:
        stdout.print(f"all gateways serve it, {took:.1f} s after the decision")
    return DONE
