"""The group `sluice rollout`, and the arguments that its commands share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from sluice_cli.calls import user_name

app = typer.Typer(rich_markup_mode=None)
rollout = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(rollout, name="rollout")

Name = Annotated[str, typer.Argument(metavar="FEATURE", help="Name of the feature, as in `sluice rollout list`.")]
Actor = Annotated[str, typer.Option(metavar="NAME", help="Author of the change; you, if not given.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Reason, for the history.")]
Service = Annotated[
    str, typer.Option(metavar="ADDRESS", envvar="SLUICE_ROLLOUT", help="Rollout service, as host:port.")
]
Every = Annotated[float, typer.Option("--every", metavar="SECONDS", min=0.2, help="Time between two looks.")]
Once = Annotated[bool, typer.Option("--once", help="Show it once, and end.")]
SERVICE = "127.0.0.1:50057"
# A gateway looks every second; one that needs longer is cut off, and its lease ends.
ACKNOWLEDGED_WITHIN_SECONDS = 5.0
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Author and reason of a change, and the form of the output."""

    actor: str
    reason: str
    as_json: bool


def order_of(actor: str, reason: str, as_json: bool) -> Order:
    """Make an order; the author is the user of this machine if not given."""
    actor = actor or user_name()
    if not actor:
        raise typer.BadParameter("this machine does not know your name; give it", param_hint="--actor")
    return Order(actor=actor, reason=reason, as_json=as_json)


@rollout.callback()
def connection(context: typer.Context, service: Service = SERVICE) -> None:
    """Bring features to users in steps, and take them back in seconds.

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
