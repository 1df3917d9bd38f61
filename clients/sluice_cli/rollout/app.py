"""What can be said to `sluice rollout`. What is done lies in the modules beside it, imported when it is called."""

# ruff: noqa: PLC0415  # imports inside the commands keep --help quick

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from sluice_cli.rollout.commands import Wish

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="FEATURE", help="Name of the feature; `sluice rollout list` has them.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Actor = Annotated[str, typer.Option(metavar="NAME", help="Who wants it; you, if not given.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why, for the history.")]


@app.callback()
def connection(
    context: typer.Context,
    service: Annotated[
        str, typer.Option(metavar="ADDRESS", envvar="SLUICE_ROLLOUT", help="Rollout service, as host:port.")
    ] = "127.0.0.1:50057",
) -> None:
    """Bring features to users in steps, watch them, and take them back in seconds.

    Every change says who wants it and why, is kept in the history, and is safe to repeat. Commands that change who gets
    a feature return when all gateways serve it, with exit code 1 if one does not within five seconds.

    \b
    Examples:
      sluice rollout plan weekly                              a plan, to be read or changed
      sluice rollout start weekly --reason "week 1"           puts its next feature on its way
      sluice rollout status                                   how it does, as it happens
      sluice rollout promote rerank --reason "looks good"     to the plan's next step
      sluice rollout kill rerank                              off for everybody, now
      sluice rollout report rerank --html review.html         what to show afterwards
    """
    context.obj = (*context.obj, service)


@app.command("list")
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List all features: where they are, whom they reach, and why.

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


@app.command()
def create(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="FEATURE", help="1 to 64 lower case letters, digits and dashes.")],
    reason: Reason,
    dense: Annotated[bool | None, typer.Option("--dense/--no-dense", help="Search by vectors.")] = None,
    lexical: Annotated[bool | None, typer.Option("--lexical/--no-lexical", help="Search by words.")] = None,
    expand: Annotated[bool | None, typer.Option("--expand/--no-expand", help="Search for variants, too.")] = None,
    strategy: Annotated[
        Literal["synonyms", "multi_query"] | None, typer.Option(help="How variants are made, where they are.")
    ] = None,
    variants: Annotated[int | None, typer.Option(metavar="N", min=1, max=16, help="Most variants.")] = None,
    rerank: Annotated[bool | None, typer.Option("--rerank/--no-rerank", help="Reorder by a cross-encoder.")] = None,
    candidates: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=1000, help="How many the cross-encoder reads.")
    ] = None,
    description: Annotated[str, typer.Option(metavar="TEXT", help="For people.")] = "",
    salt: Annotated[
        str, typer.Option(metavar="TEXT", help="Deals the users; the name if not given. It never changes.")
    ] = "",
    actor: Actor = "",
    as_json: AsJson = False,
) -> None:
    """Make a feature that reaches nobody yet. `start` makes those of a plan by itself.

    \b
    Examples:
      sluice rollout create rerank --rerank --candidates 50 --reason "the new cross-encoder"
      sluice rollout create phrases --expand --strategy multi_query --variants 5 --reason "recall is low"
    """
    from sluice_cli import calls
    from sluice_cli.rollout import commands
    from sluice_client import Features, Strategy

    overrides = Features(
        dense=dense,
        lexical=lexical,
        expansion=expand,
        expansion_strategy=None if strategy is None else Strategy(strategy),
        max_variant_count=variants,
        rerank=rerank,
        rerank_candidate_count=candidates,
    )
    calls.run(context, commands.create, _wish(actor, reason, as_json), name, overrides, description, salt)


@app.command()
def start(
    context: typer.Context,
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="A plan file (.yaml, .toml), or a template's name.")],
    reason: Reason,
    feature: Annotated[
        str, typer.Option(metavar="NAME", help="Which of the plan's features; the first not complete, if not given.")
    ] = "",
    actor: Actor = "",
    as_json: AsJson = False,
) -> None:
    """Put the next feature of a plan on its way: the first that is not complete yet. Makes it if it is not there.

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

    calls.run(context, commands.start, _wish(actor, reason, as_json), plan, feature)


@app.command()
def promote(context: typer.Context, name: Name, reason: Reason, actor: Actor = "", as_json: AsJson = False) -> None:
    """Go on to the plan's next step, where the evidence allows it; what is held goes on, too.

    \b
    Examples:
      sluice rollout promote rerank --reason "two days without a complaint"
    """
    from sluice_cli import calls
    from sluice_cli.rollout import commands

    calls.run(context, commands.change, _wish(actor, reason, as_json), name, lambda client: client.promote)


@app.command()
def hold(context: typer.Context, name: Name, reason: Reason, actor: Actor = "", as_json: AsJson = False) -> None:
    """Keep a feature where it is until it is promoted. It is still taken back if it turns out worse.

    \b
    Examples:
      sluice rollout hold rerank --reason "release freeze"
    """
    from sluice_cli import calls
    from sluice_cli.rollout import commands

    calls.run(context, commands.change, _wish(actor, reason, as_json), name, lambda client: client.hold)


@app.command("set")
def set_(
    context: typer.Context,
    name: Name,
    share: Annotated[str, typer.Argument(metavar="SHARE", help="Of all users, as in 25%.")],
    reason: Reason,
    sure: Annotated[bool, typer.Option("--yes", help="Do not ask, where more users than before get it.")] = False,
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

    calls.run(context, commands.set_share, _wish(actor, reason, as_json), name, share, sure=sure)


@app.command()
def halve(
    context: typer.Context, name: Name, reason: Reason = "by hand", actor: Actor = "", as_json: AsJson = False
) -> None:
    """Take a feature back from half of those who have it: last in, first out.

    \b
    Examples:
      sluice rollout halve rerank --reason "P95 is creeping up"
    """
    from sluice_cli import calls
    from sluice_cli.rollout import commands

    calls.run(context, commands.change, _wish(actor, reason, as_json), name, lambda client: client.halve)


@app.command()
def rollback(
    context: typer.Context, name: Name, reason: Reason = "by hand", actor: Actor = "", as_json: AsJson = False
) -> None:
    """Take a feature back from everybody, now. Requests may still ask for it; `kill` ends that, too.

    \b
    Examples:
      sluice rollout rollback rerank
      sluice rollout rollback rerank --reason "complaints from support"
    """
    from sluice_cli import calls
    from sluice_cli.rollout import commands

    calls.run(context, commands.change, _wish(actor, reason, as_json), name, lambda client: client.roll_back)


@app.command()
def kill(
    context: typer.Context, name: Name, reason: Reason = "by hand", actor: Actor = "", as_json: AsJson = False
) -> None:
    """Switch a feature off for everybody, now, whatever requests ask for.

    \b
    Examples:
      sluice rollout kill rerank
      sluice rollout kill rerank --reason "the reranker answers nonsense"
    """
    from sluice_cli import calls
    from sluice_cli.rollout import commands

    calls.run(context, commands.change, _wish(actor, reason, as_json), name, lambda client: client.kill)


@app.command()
def rearm(context: typer.Context, name: Name, reason: Reason, actor: Actor = "", as_json: AsJson = False) -> None:
    """Let a feature that was rolled back or killed be started again. It reaches nobody until then.

    \b
    Examples:
      sluice rollout rearm rerank --reason "fixed in OPS-72"
    """
    from sluice_cli import calls
    from sluice_cli.rollout import commands

    calls.run(context, commands.change, _wish(actor, reason, as_json), name, lambda client: client.rearm)


@app.command()
def history(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="[FEATURE]", help="Only this feature.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show what happened, oldest first: who changed what, why, and when all gateways served it.

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
    seconds: Annotated[float, typer.Option("--every", metavar="SECONDS", min=0.2, help="How often it looks.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Show how features do, as it happens: shares, arms, evidence against its threshold, gateways. Ctrl-C ends it.

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
        Path | None, typer.Option(metavar="FILE", help="Write Markdown; its plots lie beside it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the review of a feature's rollout: what happened, what was decided, before and after, and plots.

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
    """Read a plan and show what it says, without any service.

    \b
    Examples:
      sluice rollout check my-plan.yaml
    """
    from sluice_cli import calls
    from sluice_cli.rollout import commands

    calls.run(context, commands.check, source, as_json=as_json)


def _wish(actor: str, reason: str, as_json: bool) -> Wish:
    from sluice_cli.calls import who
    from sluice_cli.rollout.commands import Wish

    actor = actor or who()
    if not actor:
        raise typer.BadParameter("this machine does not know who you are; say it", param_hint="--actor")
    return Wish(actor=actor, reason=reason, as_json=as_json)
