"""Command lines of `sluice rollout`."""

# ruff: noqa: PLC0415  # imports inside the commands keep --help quick

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sluice_cli.options import AsJson, FlagCommand, Sure, flags_of

if TYPE_CHECKING:
    from sluice_cli.rollout.commands import Order

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="FEATURE", help="Name of the feature, as in `sluice rollout list`.")]
Actor = Annotated[str, typer.Option(metavar="NAME", help="Author of the change; you, if not given.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Reason, for the history.")]


@app.callback()
def connection(
    context: typer.Context,
    service: Annotated[
        str, typer.Option(metavar="ADDRESS", envvar="SLUICE_ROLLOUT", help="Rollout service, as host:port.")
    ] = "127.0.0.1:50057",
) -> None:
    """Bring features to users in steps, watch them, and take them back in seconds.

    Every change has an author and a reason, is kept in the history, and is safe to repeat. Commands that change the
    share of users return when all gateways serve it, with exit code 1 if one does not within five seconds.

    \b
    Examples:
      sluice rollout plan weekly                              a plan, to be read or changed
      sluice rollout start weekly --reason "week 1"           puts its next feature on its way
      sluice rollout status                                   shares and evidence, as they change
      sluice rollout promote rerank --reason "looks good"     to the plan's next step
      sluice rollout kill rerank                              off for all users, now
      sluice rollout report rerank --html review.html         the review
    """
    context.obj = (*context.obj, service)


@app.command("list")
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List all features: states, shares of users, and reasons.

    \b
    Examples:
      sluice rollout list
      sluice rollout list --json | jq -r '.features[] | select(.treatment_ppm > 0) | .name'
    """
    from sluice_cli import calls
    from sluice_cli.rollout import commands

    calls.run(context, commands.show_all, as_json=as_json)


@app.command()
def show(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Show one feature: its plan, its evidence, and the gateways that serve it.

    \b
    Examples:
      sluice rollout show rerank
      sluice rollout show rerank --json | jq '.guardrails'
    """
    from sluice_cli import calls
    from sluice_cli.rollout import commands

    calls.run(context, commands.show, name, as_json=as_json)


@app.command(cls=FlagCommand)
def create(  # one an option, and typer calls it
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="FEATURE", help="1 to 64 lower case letters, digits and dashes.")],
    reason: Reason,
    description: Annotated[str, typer.Option(metavar="TEXT", help="Description, to be shown.")] = "",
    salt: Annotated[
        str, typer.Option(metavar="TEXT", help="Salt of the users' buckets; the name if not given. It never changes.")
    ] = "",
    actor: Actor = "",
    as_json: AsJson = False,
) -> None:
    """Make a feature that reaches no users yet. `start` makes those of a plan by itself.

    \b
    Examples:
      sluice rollout create rerank --rerank --rerank-candidate-count 50 --reason "the new cross-encoder"
      sluice rollout create phrases --expansion --expansion-strategy multi_query --reason "low recall"
    """
    from sluice_cli import calls
    from sluice_cli.rollout import commands

    calls.run(context, commands.create, _order(actor, reason, as_json), name, flags_of(context), description, salt)


@app.command()
def start(
    context: typer.Context,
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="A plan file (.yaml, .toml), or a template's name.")],
    reason: Reason,
    feature: Annotated[
        str, typer.Option(metavar="NAME", help="A feature of the plan; the first not complete, if not given.")
    ] = "",
    actor: Actor = "",
    as_json: AsJson = False,
) -> None:
    """Put the next feature of a plan on its way: the first that is not complete yet. Makes it if it does not exist.

    A plan with several features is worked off by giving the same command again, week by week; while one is on its way,
    that changes nothing. A plan that cannot be read changes nothing either.

    \b
    Examples:
      sluice rollout start weekly --reason "week 1: baseline"
      sluice rollout start my-plan.yaml --reason "OPS-71"
      sluice rollout start my-plan.toml --feature rerank --reason "once more, with the fix"
    """
    from sluice_cli import calls
    from sluice_cli.rollout import commands

    calls.run(context, commands.start, _order(actor, reason, as_json), plan, feature)


@app.command()
def promote(context: typer.Context, name: Name, reason: Reason, actor: Actor = "", as_json: AsJson = False) -> None:
    """Go on to the plan's next step, where the evidence allows it; what is held goes on, too.

    \b
    Examples:
      sluice rollout promote rerank --reason "two days without a complaint"
    """
    from sluice_cli import calls
    from sluice_cli.rollout import commands

    calls.run(context, commands.change, _order(actor, reason, as_json), name, lambda client: client.promote)


@app.command()
def hold(context: typer.Context, name: Name, reason: Reason, actor: Actor = "", as_json: AsJson = False) -> None:
    """Keep a feature where it is until it is promoted. It is still taken back if it turns out worse.

    \b
    Examples:
      sluice rollout hold rerank --reason "release freeze"
    """
    from sluice_cli import calls
    from sluice_cli.rollout import commands

    calls.run(context, commands.change, _order(actor, reason, as_json), name, lambda client: client.hold)


@app.command("set")
def set_(
    context: typer.Context,
    name: Name,
    share: Annotated[str, typer.Argument(metavar="SHARE", help="Of all users, as in 25%.")],
    reason: Reason,
    sure: Sure = False,
    actor: Actor = "",
    as_json: AsJson = False,
) -> None:
    """Set the share of users by hand, whatever the evidence shows.

    \b
    Examples:
      sluice rollout set rerank 5% --reason "carefully"
      sluice rollout set rerank 25% --yes --reason "load test tonight"
    """
    from sluice_cli import calls
    from sluice_cli.rollout import commands

    calls.run(context, commands.set_share, _order(actor, reason, as_json), name, share, sure=sure)


@app.command()
def halve(
    context: typer.Context, name: Name, reason: Reason = "by hand", actor: Actor = "", as_json: AsJson = False
) -> None:
    """Take a feature back from half of its users: last in, first out.

    \b
    Examples:
      sluice rollout halve rerank --reason "P95 is creeping up"
    """
    from sluice_cli import calls
    from sluice_cli.rollout import commands

    calls.run(context, commands.change, _order(actor, reason, as_json), name, lambda client: client.halve)


@app.command()
def rollback(
    context: typer.Context, name: Name, reason: Reason = "by hand", actor: Actor = "", as_json: AsJson = False
) -> None:
    """Take a feature back from all users, now. Requests may still ask for it; `kill` ends that, too.

    \b
    Examples:
      sluice rollout rollback rerank
      sluice rollout rollback rerank --reason "complaints from support"
    """
    from sluice_cli import calls
    from sluice_cli.rollout import commands

    calls.run(context, commands.change, _order(actor, reason, as_json), name, lambda client: client.roll_back)


@app.command()
def kill(
    context: typer.Context, name: Name, reason: Reason = "by hand", actor: Actor = "", as_json: AsJson = False
) -> None:
    """Switch a feature off for all users, now, even for requests that ask for it.

    \b
    Examples:
      sluice rollout kill rerank
      sluice rollout kill rerank --reason "the reranker answers nonsense"
    """
    from sluice_cli import calls
    from sluice_cli.rollout import commands

    calls.run(context, commands.change, _order(actor, reason, as_json), name, lambda client: client.kill)


@app.command()
def rearm(context: typer.Context, name: Name, reason: Reason, actor: Actor = "", as_json: AsJson = False) -> None:
    """Let a feature that was rolled back or killed be started again. It reaches no users until then.

    \b
    Examples:
      sluice rollout rearm rerank --reason "fixed in OPS-72"
    """
    from sluice_cli import calls
    from sluice_cli.rollout import commands

    calls.run(context, commands.change, _order(actor, reason, as_json), name, lambda client: client.rearm)


@app.command()
def history(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="[FEATURE]", help="Only this feature.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show the history, oldest first: changes, authors, reasons, and times until all gateways served them.

    \b
    Examples:
      sluice rollout history
      sluice rollout history rerank --json | jq -r '.[] | select(.actor == "sluice") | .reason'
    """
    from sluice_cli import calls
    from sluice_cli.rollout import commands

    calls.run(context, commands.history, name, as_json=as_json)


@app.command()
def status(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="[FEATURE]", help="Only this feature.")] = "",
    once: Annotated[bool, typer.Option("--once", help="Show it once, and end.")] = False,
    seconds: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.2, help="Time between two looks.")
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Show features as they change: shares, arms, evidence against its threshold, gateways. Ctrl-C ends it.

    Evidence is the log of an e-value. Against a feature: at its threshold the feature is taken back. For it: at its
    threshold the feature is shown to be no worse than its plan allows, and may go on.

    \b
    Examples:
      sluice rollout status
      sluice rollout status rerank --once
      sluice rollout status --json | jq '.features[].guardrails'
    """
    from sluice_cli import calls
    from sluice_cli.rollout import status as command

    calls.run(context, command.status, name, once=once, seconds=seconds, as_json=as_json)


@app.command()
def report(
    context: typer.Context,
    name: Name,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page that needs nothing else.")] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write Markdown, with plots next to it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the review of a feature's rollout: history, decisions, comparisons and plots.

    Without a file it is Markdown on standard output, without plots.

    \b
    Examples:
      sluice rollout report rerank --html rerank.html
      sluice rollout report rerank --markdown docs/reviews/rerank.md
      sluice rollout report rerank | less
    """
    from sluice_cli import calls

    try:
        from sluice_cli.rollout.report import report as command
    except ModuleNotFoundError as missing:
        calls.say_problem(
            f"a report needs {missing.name}, which is not installed", "pip install 'sluice-retrieval[report]'"
        )
        raise typer.Exit(calls.NOT_DONE) from None
    calls.run(context, command, name, html=html, markdown=markdown, as_json=as_json)


@app.command()
def plan(
    context: typer.Context,
    template: Annotated[str, typer.Argument(metavar="TEMPLATE", help="ramp, or weekly.")],
) -> None:
    """Print a plan that comes with the command: ramp (one feature, 10 -> 50 -> 100 %) or weekly (four, a week each).

    \b
    Examples:
      sluice rollout plan ramp > my-plan.yaml
    """
    from sluice_cli import calls
    from sluice_cli.rollout import commands

    calls.run(context, commands.template, template)


@app.command()
def check(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="PLAN", help="A plan file (.yaml, .toml), or a template's name.")],
    as_json: AsJson = False,
) -> None:
    """Read a plan and show it, without any service.

    \b
    Examples:
      sluice rollout check my-plan.yaml
    """
    from sluice_cli import calls
    from sluice_cli.rollout import commands

    calls.run(context, commands.check, source, as_json=as_json)


def _order(actor: str, reason: str, as_json: bool) -> Order:
    from sluice_cli.calls import user_name
    from sluice_cli.rollout.commands import Order

    actor = actor or user_name()
    if not actor:
        raise typer.BadParameter("this machine does not know your name; give it", param_hint="--actor")
    return Order(actor=actor, reason=reason, as_json=as_json)
