"""Analysis of a run from its stored answers alone: the same rows have the same findings. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from services.experiment.bucketing import Arm
from services.experiment.guardrails import Guardrail
from services.rollout.evidence import STRICT_ALPHA, log_multinomial, weigh
from services.rollout.experiments.experiments import Experiment
from services.rollout.experiments.findings import ArmGuardrail, Findings, MetricFinding
from services.rollout.experiments.observations import BOTH, Observations, outcome_of, value_of
from services.rollout.experiments.plan import METRICS_OF, ExperimentPlan, Method
from services.rollout.experiments.verdicts import Evidence, judge
from services.rollout.feedback.rows import AnswerRow
from sluice_statistics import sequences
from sluice_statistics.answers import Metric
from sluice_statistics.sequences import Interval
from sluice_statistics.units import UnitValues

GUARDRAIL_ALPHA = 0.01
"""Probability of a false alarm of all guardrails of all arms together, in an experiment that changes nothing.

Less than in a ramp, where a first breach only halves: here it ends the run."""
MISMATCH_THRESHOLD = math.log(1 / STRICT_ALPHA)
FEWEST_CROSSED = 10
CROSSED_SHARE = 0.01
"""Users in more than one arm that may be: who opens the next page of somebody else's search is in that one's arm."""
NON_INFERIORITY_RATIO = 1.5
_GUARDRAILS = {
    Method.AB: (Guardrail.ERRORS, Guardrail.LATENCY, Guardrail.EMPTY_RESULTS),
    # An interleaved answer is empty for both arms, or for none.
    Method.INTERLEAVE: (Guardrail.ERRORS, Guardrail.LATENCY),
}

Histories = Mapping[Metric, Mapping[int, float]]
"""Of each metric, the values of users before the run."""


def history_metrics(plan: ExperimentPlan) -> tuple[Metric, ...]:
    """The metrics that history adjusts: those that decide. A preference has none."""
    if plan.method is Method.INTERLEAVE:
        return ()
    return (plan.primary_metric, *(rule.metric for rule in plan.guardrails))


def histories(plan: ExperimentPlan, rows: Iterable[AnswerRow]) -> Histories:
    """Values of users before the run, from the answers of that time."""
    found = {metric: UnitValues(1) for metric in history_metrics(plan)}
    for row in rows:
        if row.unit:
            outcome = outcome_of(row)
            for metric, values in found.items():
                value = value_of(row, outcome, metric)
                values.add(row.unit, 0, None if math.isnan(value) else value)
    return {metric: values.means() for metric, values in found.items()}


def analyse(experiment: Experiment, rows: Iterable[AnswerRow], history: Histories, now: float) -> Findings:
    """Analyse a run. `now` is in seconds since 1970, `rows` are in the order of their time."""
    plan = experiment.plan
    seen = Observations(plan)
    seen.add(rows)
    guardrails = guardrails_of(plan, seen)
    mismatch, counts = sample_ratio(plan, seen)
    # The primary metric decides by the plan's alpha, guardrails by theirs; the others only inform.
    primary = _metric(plan, seen, plan.primary_metric, plan.alpha / (len(plan.arms) - 1), history)
    limits = [
        finding
        for rule in plan.guardrails
        for finding in _metric(plan, seen, rule.metric, GUARDRAIL_ALPHA / guardrail_count(plan), history)
    ]
    guarded = {rule.metric for rule in plan.guardrails}
    others = [
        finding
        for metric in METRICS_OF[plan.method]
        if metric is not plan.primary_metric and metric not in guarded
        for finding in _metric(plan, seen, metric, plan.alpha / (len(plan.arms) - 1), {})
    ]
    since = now - (experiment.start_time if experiment.start_time is not None else now)
    found = Evidence(fault(plan, seen, mismatch, counts), guardrails, limits, primary, since)
    totals = [arm.totals(named.name) for named, arm in zip(plan.arms, seen.arms, strict=True)]
    if plan.method is Method.INTERLEAVE:
        totals = [seen.both.totals(BOTH)]
    return Findings(
        now,
        tuple(totals),
        (*primary, *limits, *others),
        tuple(guardrails),
        mismatch,
        MISMATCH_THRESHOLD,
        judge(plan, found),
    )


def guardrail_count(plan: ExperimentPlan) -> int:
    """Number of guardrails of all arms."""
    return (len(_GUARDRAILS[plan.method]) + len(plan.guardrails)) * (len(plan.arms) - 1)


def guardrails_of(plan: ExperimentPlan, seen: Observations) -> list[ArmGuardrail]:
    """Evidence of errors, slow and empty answers against every arm but the control."""
    control, kinds = seen.arms[0].evidence(), _GUARDRAILS[plan.method]
    return [
        ArmGuardrail(named.name, row)
        for named, arm in zip(plan.arms[1:], seen.arms[1:], strict=True)
        for row in weigh(
            {Arm.TREATMENT: arm.evidence(), Arm.CONTROL: control},
            kinds,
            allowed_ratio=1.0,
            non_inferiority_ratio=NON_INFERIORITY_RATIO,
            exposure=1.0,
            alpha=GUARDRAIL_ALPHA * len(kinds) / guardrail_count(plan),
        )
    ]


def sample_ratio(plan: ExperimentPlan, seen: Observations) -> tuple[float, Sequence[int]]:
    """Log of the evidence against an even split, and the counts that it is of."""
    if plan.method is Method.INTERLEAVE:
        teams = list(seen.first_teams.values())
        counts = [teams.count(1), teams.count(2)]
    else:
        counts = [len(arm.units) for arm in seen.arms]
    return float(log_multinomial(counts, [1 / len(counts)] * len(counts))), counts


def fault(plan: ExperimentPlan, seen: Observations, mismatch: float, counts: Sequence[int]) -> str:
    """Readable fault of the sample ratio; empty where there is none."""
    if len(seen.crossed) > max(FEWEST_CROSSED, CROSSED_SHARE * sum(counts)):
        return f"{len(seen.crossed):,} of them were in more than one arm"
    if mismatch < MISMATCH_THRESHOLD:
        return ""
    told = ", ".join(f"{count:,} in {arm.name}" for arm, count in zip(plan.arms, counts, strict=True))
    if plan.method is Method.INTERLEAVE:
        return f"the coin does not fall evenly; first choices of users' first answers: {told}"
    return told


def _metric(
    plan: ExperimentPlan, seen: Observations, metric: Metric, alpha: float, history: Histories
) -> list[MetricFinding]:
    """Findings of every arm but the control, of which enough is known for an interval."""
    values = seen.values
    places = len(plan.arms) if plan.method is Method.AB else 1
    units = UnitValues.of(
        values.units, values.arms, values.values[metric], count=places, history=history.get(metric) or None
    )
    if plan.method is Method.INTERLEAVE:
        moments = units.moments()
        found = sequences.mean(moments, alpha)
        return _finding(metric, plan.arms[1].name, 0.0, found.value, int(moments.count), found)
    control = units.moments(0)
    return [
        finding
        for place, arm in enumerate(plan.arms[1:], 1)
        for finding in _finding(
            metric,
            arm.name,
            float(control.mean),
            float(units.moments(place).mean),
            int(control.count + units.moments(place).count),
            units.difference(place, alpha),
        )
    ]


def _finding(
    metric: Metric, arm: str, control_mean: float, arm_mean: float, users: int, found: Interval
) -> list[MetricFinding]:
    """The finding, if the interval is one: infinite ones say nothing."""
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return []
    return [
        MetricFinding(
            metric,
            arm,
            control_mean,
            arm_mean,
            float(found.value),
            float(found.low),
            float(found.high),
            users,
            float(found.variance_reduction),
        )
    ]
