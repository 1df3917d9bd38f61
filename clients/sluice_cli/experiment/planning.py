"""`sluice experiment plan`: the users and days that an effect needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from sluice_cli.calls import (
    DONE,
    NEEDS_A_LOOK,
    WRONG_COMMAND_LINE,
    Connection,
    Problem,
    command,
    connection_of,
    print_json,
    say_warning,
    stderr,
    stdout,
    table,
)
from sluice_cli.experiment.app import PlanSource, experiment
from sluice_cli.experiment.plans import PLANS
from sluice_cli.experiment.readings import RATES, metric_words, value_words
from sluice_cli.options import AsJson
from sluice_cli.rollout.views import span
from sluice_client import (
    EVERYBODY_PPM,
    AnswerFeedback,
    EventAction,
    ExperimentMethod,
    ExperimentMetric,
    ExperimentPlan,
)
from sluice_statistics import planning
from sluice_statistics.answers import AnswerEvent, AnswerOutcome, Metric
from sluice_statistics.sequences import Moments
from sluice_statistics.units import UnitValues

_ACTIONS = {EventAction.CLICK, EventAction.CITE, EventAction.RATE}
_FEWEST_USERS = 30
_LIKELY_CREDIT = 0.5


@dataclass(frozen=True, slots=True)
class Recorded:
    """Users as they were recorded."""

    users: int
    days: float
    answers_per_user: float
    mean: float
    """Of users' values in the metric that decides."""
    variance: float
    credited_share: float
    """Share of the users who opened or cited something."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A question: the users that an effect needs."""

    metric: ExperimentMetric
    effect: float
    """Difference of the means; of a preference, as it is."""
    mean: float | None
    variance: float | None
    """Of users' values."""
    credited_share: float
    users_per_day: float
    share: float
    alpha: float
    power: float

    def need(self, effect: float) -> planning.Need:
        """Users and days for an effect. Raises Problem for one that nobody can find."""
        common = {"new_users_a_day": self.users_per_day, "share": self.share, "alpha": self.alpha, "power": self.power}
        try:
            if self.metric is ExperimentMetric.PREFERENCE:
                return planning.interleaving(effect, self.credited_share, **common)
            return planning.ab_test(effect, self.variance or 0.0, **common)
        except (ValueError, ZeroDivisionError) as error:
            raise Problem(
                f"no number of users can be told: {error}", "ask for a larger --effect", exit_code=WRONG_COMMAND_LINE
            ) from None


@experiment.command()
@command
async def plan(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    source: PlanSource,
    mean: Annotated[
        float | None, typer.Option(min=0, help="Control's mean of the metric that decides: 0.31 of a rate, seconds.")
    ] = None,
    deviation: Annotated[
        float | None,
        typer.Option(min=0, help="Standard deviation of answers in that metric; not needed for a rate."),
    ] = None,
    answers: Annotated[float, typer.Option("--answers-per-user", min=1, help="Answers of a user in all.")] = 4.0,
    users_per_day: Annotated[
        float | None, typer.Option(min=1, help="Users that come a day and did not come before, of all users.")
    ] = None,
    credited: Annotated[
        float | None, typer.Option(min=0.01, max=1, help="Interleaving: share of users who open anything; 0.5.")
    ] = None,
    measured: Annotated[
        bool, typer.Option("--measured", help="Take all of these from the answers that were recorded.")
    ] = False,
    days: Annotated[float, typer.Option(min=0.01, help="Days of recorded answers to read, with --measured.")] = 7.0,
    collection: Annotated[str, typer.Option(metavar="NAME", help="Only its recorded answers.")] = "",
    power: Annotated[
        float, typer.Option(min=0.1, max=0.99, help="Probability of finding the effect.")
    ] = planning.POWER,
    as_json: AsJson = False,
) -> int:
    """Say how many users and days the least effect of a plan needs, and others twice and half as large.

    The users are those of the experiment, all arms together. Rates are given, or come from recorded answers
    (FEEDBACK_IMPRESSIONS=all records those outside experiments, too).

    \b
    Examples:
      sluice experiment plan interleave --credited 0.6 --users-per-day 5000
      sluice experiment plan ab --mean 0.41 --deviation 0.39 --users-per-day 5000
      sluice experiment plan mine.yaml --measured --days 14
    """
    found = PLANS.read(source).plan()
    recorded = None
    if measured:
        with stderr.status("reading recorded answers"):
            recorded = await _recorded(connection_of(context), found, days, collection)
    wanted = _wanted(found, recorded, mean, deviation, answers, users_per_day, credited, power)
    needs = [(part, wanted.need(wanted.effect * part)) for part in (2.0, 1.0, 0.5)]
    if as_json:
        print_json(_json(found, wanted, needs, recorded))
    else:
        stdout.print(_shown(found, wanted, needs, recorded))
    horizon = found.horizon or timedelta(days=28)
    days = needs[1][1].days
    if math.isfinite(wanted.users_per_day) and days > horizon / timedelta(days=1):
        say_warning(
            f"{days:,.0f} days are more than the horizon of {span(horizon)}: take a larger share, or interleave"
        )
        return NEEDS_A_LOOK
    return DONE


def _wanted(  # one an option
    plan: ExperimentPlan,
    recorded: Recorded | None,
    mean: float | None,
    deviation: float | None,
    answers: float,
    users_per_day: float | None,
    credited: float | None,
    power: float,
) -> Wanted:
    metric = plan.primary
    credited = credited if credited is not None else recorded.credited_share if recorded else _LIKELY_CREDIT
    if users_per_day is None:
        users_per_day = recorded.users / recorded.days if recorded else math.inf
    effect, variance = plan.minimum_effect, None
    if metric is not ExperimentMetric.PREFERENCE:
        mean, variance = _spread(metric, recorded, mean, deviation, answers)
        effect = plan.minimum_effect * mean
    # Only two arms of several are compared with one another.
    share = plan.share_ppm / EVERYBODY_PPM * 2 / len(plan.arms)
    alpha = planning.ALPHA if plan.alpha is None else plan.alpha
    return Wanted(metric, effect, mean, variance, max(credited, 0.01), users_per_day, share, alpha, power)


def _spread(
    metric: ExperimentMetric, recorded: Recorded | None, mean: float | None, deviation: float | None, answers: float
) -> tuple[float, float]:
    """Mean of a metric, and the variance of users' values. Raises Problem where they are not known."""
    if recorded is not None and mean is None:
        return recorded.mean, recorded.variance
    if mean is None:
        remedy = "give --mean, or read it from recorded answers with --measured"
        raise Problem(f"the control's {metric_words(metric)} is not known", remedy, exit_code=WRONG_COMMAND_LINE)
    if deviation is None and metric in RATES:
        if not 0 < mean < 1:
            raise Problem(f"{mean:g} is no rate", "give --mean between 0 and 1", exit_code=WRONG_COMMAND_LINE)
        deviation = math.sqrt(mean * (1 - mean))
    if deviation is None:
        remedy = "give --deviation, or read it from recorded answers with --measured"
        raise Problem(f"the spread of {metric_words(metric)} is not known", remedy, exit_code=WRONG_COMMAND_LINE)
    return mean, planning.variance_of_users(deviation**2, answers)


async def _recorded(connection: Connection, plan: ExperimentPlan, days: float, collection: str) -> Recorded:
    """Read recorded answers. Raises Problem where there are too few."""
    metric = Metric[plan.primary.name]
    values, used, count = UnitValues(1), set[int](), 0
    seen: set[int] = set()
    async with connection.experiment_client() as client:
        since = datetime.now(UTC) - timedelta(days=days)
        async for answer in client.feedback(start_time=since, collection=collection):
            unit = answer.served.impression.unit
            if not unit:
                continue
            count += 1
            seen.add(unit)
            outcome = outcome_of(answer)
            if outcome.best_position:
                used.add(unit)
            values.add(unit, 0, outcome.value(metric))
    if len(seen) < _FEWEST_USERS:
        raise Problem(
            f"only {len(seen)} users were recorded in {days:g} days",
            "let gateways record more (FEEDBACK_IMPRESSIONS=all), read more --days, or give --mean and --deviation",
        )
    moments: Moments = values.moments(0)
    return Recorded(len(seen), days, count / len(seen), moments.mean, moments.variance, len(used) / len(seen))


def outcome_of(answer: AnswerFeedback) -> AnswerOutcome:
    """Sum up what was done with a recorded answer."""
    served = answer.served
    return AnswerOutcome.of(
        (
            AnswerEvent(event.action, event.object_id, event.position, event.rating)
            for event in answer.events
            if event.action in _ACTIONS
        ),
        seconds=served.duration.total_seconds() if served.duration else 0.0,
        tokens=served.model_token_count,
        first_position=served.impression.first_position,
    )


def _shown(
    plan: ExperimentPlan, wanted: Wanted, needs: Sequence[tuple[float, planning.Need]], recorded: Recorded | None
) -> RenderableType:
    metric = metric_words(wanted.metric)
    origin = "as given"
    if recorded is not None:
        origin = (
            f"from {recorded.users:,} users in {recorded.days:g} days, with {recorded.answers_per_user:.1f} answers "
            "each"
        )
    about = [f"{metric}, {origin}"]
    if wanted.metric is ExperimentMetric.PREFERENCE:
        about.append(f"{wanted.credited_share:.0%} of the users use a result of either arm")
    elif wanted.mean is not None:
        spread = math.sqrt(wanted.variance or 0.0)
        about.append(f"control {value_words(wanted.metric, wanted.mean)}, deviation of users {spread:.3g}")
    shown = table("effect", "users", "days", right=frozenset({"effect", "users", "days"}))
    for part, need in needs:
        style = "bold" if part == 1 else ""
        days = f"{need.days:,.1f}" if need.days and math.isfinite(need.days) else "-"
        effect = f"{plan.minimum_effect * part * 100:.3g} %"
        shown.add_row(Text(effect, style=style), Text(f"{need.users:,}", style=style), Text(days, style=style))
    told: list[RenderableType] = [Text("; ".join(about)), shown]
    chance = f"found with a probability of {wanted.power:.0%}, false verdicts at most {wanted.alpha:.0%}"
    if math.isfinite(wanted.users_per_day):
        chance += f"; {wanted.users_per_day:,.0f} new users a day, {wanted.share:.0%} of them in the experiment"
    else:
        chance += "; --users-per-day tells the days"
    told.append(Text(chance, style="dim"))
    if plan.method is ExperimentMethod.AB and len(plan.arms) > 2:
        told.append(
            Text(f"users of two arms; {len(plan.arms)} arms need {len(plan.arms) / 2:g} times as many", style="dim")
        )
    return Group(*told)


def _json(
    plan: ExperimentPlan, wanted: Wanted, needs: Sequence[tuple[float, planning.Need]], recorded: Recorded | None
) -> dict[str, object]:
    return {
        "experiment": plan.name,
        "method": plan.method,
        "metric": wanted.metric,
        "mean": wanted.mean,
        "variance": wanted.variance,
        "credited_share": wanted.credited_share,
        "alpha": wanted.alpha,
        "power": wanted.power,
        "users_per_day": wanted.users_per_day if math.isfinite(wanted.users_per_day) else None,
        "recorded_users": recorded.users if recorded else None,
        "needs": [
            {
                "minimum_effect": plan.minimum_effect * part,
                "users": need.users,
                "days": need.days if need.days and math.isfinite(need.days) else None,
            }
            for part, need in needs
        ],
    }
