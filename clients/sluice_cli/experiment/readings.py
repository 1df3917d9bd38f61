"""Readings of findings: what an interval says, in words, with the units of its metric."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from sluice_cli.calls import words
from sluice_client import Experiment, ExperimentFindings, ExperimentMetric, ExperimentPlan, MetricFinding

RATES = {ExperimentMetric.CLICK_RATE, ExperimentMetric.CITATION_RATE, ExperimentMetric.ABANDONMENT}


class Told(enum.StrEnum):
    """Statement of an interval."""

    BETTER = "better"
    """The whole interval is on the better side."""
    WORSE = "worse"
    """The whole interval is on the worse side, or beyond what a guardrail allows."""
    AS_GOOD = "as good"
    """A change that matters is excluded."""
    NOT_WORSE = "not worse"
    """More than a guardrail allows is excluded."""
    OPEN = "open"
    """It may be either."""
    TOO_EARLY = "too early"
    """There are too few users for an interval."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A metric of one arm against the control."""

    finding: MetricFinding
    role: str
    """"decides", "guarded" or empty."""
    limit: float | None
    """Least effect that matters, or the change to the worse that is allowed; a share of control's mean."""
    told: Told

    @property
    def control(self) -> str:
        """Mean of the control, with its unit; empty for a preference."""
        preferred = self.finding.metric is ExperimentMetric.PREFERENCE
        return "" if preferred else value_words(self.finding.metric, self.finding.control_mean)

    @property
    def arm(self) -> str:
        """Mean of the arm, with its unit."""
        return value_words(self.finding.metric, self.finding.arm_mean)

    @property
    def change(self) -> str:
        """The change, without its interval."""
        return share_words(relative(self.finding, self.finding.difference))

    @property
    def interval(self) -> str:
        """The interval of the change."""
        low, high = (relative(self.finding, bound) for bound in (self.finding.lower, self.finding.upper))
        return f"{share_words(low)} to {share_words(high)}" if self.told is not Told.TOO_EARLY else ""

    @property
    def limit_words(self) -> str:
        """The limit in words; empty without one."""
        if self.limit is None:
            return ""
        return f"{'matters from' if self.role == DECIDES else 'may be worse by'} {self.limit * 100:.3g} %"


DECIDES, GUARDED = "decides", "guarded"


def readings(experiment: Experiment, findings: ExperimentFindings | None) -> list[Reading]:
    """Read all metrics: first the one that decides, then those that are guarded, then the others."""
    if findings is None:
        return []
    read = [_reading(experiment.plan, finding) for finding in findings.metrics]
    return sorted(read, key=lambda one: (one.role != DECIDES, one.role != GUARDED))


def relative(finding: MetricFinding, number: float) -> float:
    """Change as a share of control's mean; of a preference, as it is; nan where there is no such share."""
    if finding.metric is ExperimentMetric.PREFERENCE:
        return number
    return number / abs(finding.control_mean) if finding.control_mean else math.nan


def value_words(metric: ExperimentMetric, value: float) -> str:
    """Write a value of a metric with its unit."""
    match metric:
        case ExperimentMetric.LATENCY:
            return f"{value * 1000:,.0f} ms" if value < 10 else f"{value:,.1f} s"
        case ExperimentMetric.COST:
            return f"{value:,.0f} tokens"
        case ExperimentMetric.PREFERENCE:
            return share_words(value)
        case _ if metric in RATES:
            return f"{value * 100:.1f} %"
    return f"{value:.3f}"


def share_words(share: float) -> str:
    """Write a change in percent, with its sign."""
    if not math.isfinite(share):
        return "-"
    return f"{share * 100:+.{1 if abs(share) >= 0.0995 else 2}f} %"


def metric_words(metric: ExperimentMetric) -> str:
    """Name a metric for people."""
    return words(metric)


def flipped(finding: MetricFinding) -> tuple[float, float]:
    """Interval of the change, turned so that more is better."""
    low, high = relative(finding, finding.lower), relative(finding, finding.upper)
    return (-high, -low) if finding.metric.less_is_better else (low, high)


def _reading(plan: ExperimentPlan, finding: MetricFinding) -> Reading:
    low, high = flipped(finding)
    allowed = next((rule.allowed_change for rule in plan.guardrails if rule.metric is finding.metric), None)
    role = GUARDED if allowed is not None else ""
    limit = allowed
    if finding.metric is plan.primary:
        role, limit = DECIDES, plan.minimum_effect
    return Reading(finding, role, limit, _told(low, high, role, limit))


def _told(low: float, high: float, role: str, limit: float | None) -> Told:
    if not (math.isfinite(low) and math.isfinite(high)):
        return Told.TOO_EARLY
    worse_by = limit if role == GUARDED and limit is not None else 0.0
    if low > 0:
        return Told.BETTER
    if high < -worse_by:
        return Told.WORSE
    if role == DECIDES and limit is not None and -limit < low and high < limit:
        return Told.AS_GOOD
    if role == GUARDED and low >= -worse_by:
        return Told.NOT_WORSE
    return Told.OPEN
