"""Verdicts on a run, from its findings alone. Pure: the clock is an argument.

In this order: users who do not fall into the arms as they must (stop) > a guardrail that is broken (stop) > the primary
metric: better (ship), worse (stop), an effect that matters excluded on both sides (inconclusive) > the horizon
(inconclusive) > go on. The first two come first because a metric of arms that cannot be compared means nothing, and
because no gain pays for harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.rollout.experiments.experiments import Cause, Judgment, Verdict
from services.rollout.experiments.findings import ArmGuardrail, MetricFinding
from services.rollout.experiments.plan import ExperimentPlan, Method
from sluice_statistics.answers import Metric
from sluice_statistics.sequences import SMALLEST_SAMPLE


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a verdict depends on."""

    mismatch: str
    """Readable fault of the sample ratio; empty where there is none."""
    guardrails: Sequence[ArmGuardrail]
    limits: Sequence[MetricFinding]
    """Metrics that are guardrails, of every arm, with intervals of the guardrails' alpha."""
    primary: Sequence[MetricFinding]
    """The primary metric of every arm of which enough is known for an interval."""
    seconds: float
    """Time since the run began."""


def judge(plan: ExperimentPlan, evidence: Evidence) -> Judgment:
    """Judge a run."""
    if evidence.mismatch:
        reason = f"users do not fall into the arms as they must: {evidence.mismatch}"
        return Judgment(Verdict.STOP, (reason,), cause=Cause.SAMPLE_RATIO)
    return (
        _broken(plan, evidence)
        or _decided(plan, evidence.primary)
        or _over(plan, evidence)
        or Judgment(Verdict.GO_ON, tuple(_missing(plan, evidence.primary)))
    )


def _broken(plan: ExperimentPlan, evidence: Evidence) -> Judgment | None:
    """A stop for the first arm with a broken guardrail, with all of its broken guardrails."""
    allowed = {rule.metric: rule.allowed_change for rule in plan.guardrails}
    for arm in plan.arms[1:]:
        reasons = [
            f"guardrail {row.evidence.guardrail.value}: {row.evidence.treatment_count:,} of "
            f"{row.evidence.treatment_count + row.evidence.control_count:,} users with such an answer are those of "
            f"{arm.name} (evidence {row.evidence.log_evidence:.2f}, breach at {row.evidence.log_threshold:.2f})"
            for row in evidence.guardrails
            if row.arm == arm.name and row.evidence.breached
        ]
        for finding in evidence.limits:
            least = -allowed[finding.metric] * abs(finding.control_mean)
            if finding.arm == arm.name and finding.better_by[1] < least:
                reasons.append(f"guardrail {told(finding)}: worse by more than {allowed[finding.metric]:.3g} allow")
        if reasons:
            return Judgment(Verdict.STOP, tuple(reasons), arm.name, Cause.GUARDRAIL)
    return None


def _decided(plan: ExperimentPlan, primary: Sequence[MetricFinding]) -> Judgment | None:
    """The verdict of the primary metric, if it has come to one."""
    better = [finding for finding in primary if finding.better_by[0] > 0]
    if better:
        best = max(better, key=lambda finding: sum(finding.better_by))
        return Judgment(Verdict.SHIP, (f"{told(best)}: better", *_others(primary, best)), best.arm, Cause.METRIC)
    if len(primary) < len(plan.arms) - 1:
        return None
    worse = [finding for finding in primary if finding.better_by[1] < 0]
    if len(worse) == len(primary):
        worst = min(worse, key=lambda finding: sum(finding.better_by))
        reasons = tuple(f"{told(finding)}: worse" for finding in worse)
        return Judgment(Verdict.STOP, reasons, worst.arm, Cause.METRIC)
    idle = [finding for finding in primary if finding not in worse]
    if all(-_least(plan, finding) < finding.lower <= finding.upper < _least(plan, finding) for finding in idle):
        return Judgment(
            Verdict.INCONCLUSIVE,
            tuple(f"{told(finding)}: a change of {_effect(plan)} is excluded" for finding in idle),
            cause=Cause.METRIC,
        )
    return None


def _over(plan: ExperimentPlan, evidence: Evidence) -> Judgment | None:
    if evidence.seconds < plan.horizon_seconds:
        return None
    days = plan.horizon_seconds / 86_400
    reasons = (f"the time is over ({days:.3g} days)", *_missing(plan, evidence.primary))
    return Judgment(Verdict.INCONCLUSIVE, reasons, cause=Cause.TIME)


def _missing(plan: ExperimentPlan, primary: Sequence[MetricFinding]) -> list[str]:
    """Readable lines of what is missing for a verdict."""
    known = {finding.arm: finding for finding in primary}
    lines = []
    for arm in plan.arms[1:]:
        finding = known.get(arm.name)
        if finding is None:
            counted = (
                "with credit" if plan.method is Method.INTERLEAVE else f"in each of {plan.control.name}, {arm.name}"
            )
            lines.append(
                f"{plan.primary_metric.value} of {arm.name}: fewer than {SMALLEST_SAMPLE} users {counted}, or all alike"
            )
            continue
        # The interval shrinks with the root of the users: until it leaves 0, or lies within what does not matter.
        width = (finding.upper - finding.lower) / 2
        target = max(abs(finding.difference), _least(plan, finding) - abs(finding.difference))
        more = ""
        if target > 0:
            users = finding.user_count * max(1.0, (width / target) ** 2)
            more = f"; about {float(f'{users:.2g}'):,.0f} users may be needed, {finding.user_count:,} are there"
        lines.append(f"{told(finding)}: not decided{more}")
    return lines


def _others(primary: Sequence[MetricFinding], best: MetricFinding) -> list[str]:
    return [f"{told(finding)}" for finding in primary if finding is not best]


def _least(plan: ExperimentPlan, finding: MetricFinding) -> float:
    """The least effect that matters, in the metric's own measure."""
    if finding.metric is Metric.PREFERENCE:
        return plan.minimum_effect
    return plan.minimum_effect * abs(finding.control_mean)


def _effect(plan: ExperimentPlan) -> str:
    if plan.primary_metric is Metric.PREFERENCE:
        return f"{plan.minimum_effect:.3g}"
    return f"{plan.minimum_effect:.3g} of control's mean"


def told(finding: MetricFinding) -> str:
    """A finding in words and numbers."""
    if finding.metric is Metric.PREFERENCE:
        return f"preference for {finding.arm} {finding.difference:+.3g} ({finding.lower:+.3g} to {finding.upper:+.3g})"
    change = ""
    if finding.control_mean:
        share, low, high = (
            value / abs(finding.control_mean) for value in (finding.difference, finding.lower, finding.upper)
        )
        change = f" {share:+.1%} ({low:+.1%} to {high:+.1%})"
    return f"{finding.metric.value} of {finding.arm}{change}, {finding.arm_mean:.4g} against {finding.control_mean:.4g}"
