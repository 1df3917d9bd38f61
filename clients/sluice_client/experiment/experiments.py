"""Experiments: plans, findings and verdicts.

Shares of users are in parts per million of all users (ppm): 100,000 is 10 %.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sluice.rollout.v1 import experiment_pb2 as pb
from sluice.type.v1 import experiment_pb2
from sluice.type.v1.features_pb2 import Features
from sluice_client.messages import Received, Sent
from sluice_client.rollout.features import Feature, GuardrailEvidence, HistoryEntry


class ExperimentMethod(enum.StrEnum):
    """Way to compare."""

    AB = "ab"
    """Each user has one arm."""
    INTERLEAVE = "interleave"
    """Each answer has results of both arms."""
    UNKNOWN = "unknown"
    """Sent by a newer service."""


class ExperimentMetric(enum.StrEnum):
    """A mean over users of what a user's answers came to. Each user counts once, however active."""

    CLICK_RATE = "click_rate"
    """Share of answers of which a result was opened. More is better."""
    CITATION_RATE = "citation_rate"
    """Share of answers of which a passage was cited. More is better."""
    SATISFACTION = "satisfaction"
    """Mean rating of answers that were rated, 0 to 1. More is better."""
    ABANDONMENT = "abandonment"
    """Share of answers of which nothing was used. Less is better."""
    RECIPROCAL_RANK = "reciprocal_rank"
    """Mean of 1 / position of the first result that was used, 0 where none was. More is better."""
    LATENCY = "latency"
    """Seconds an answer took. Less is better."""
    COST = "cost"
    """Tokens that models read for an answer. Less is better."""
    PREFERENCE = "preference"
    """Interleaving alone: preference for the second arm, -1 to 1. More is better."""
    UNKNOWN = "unknown"

    @property
    def less_is_better(self) -> bool:
        """True if a smaller value is the better one."""
        return self in {ExperimentMetric.ABANDONMENT, ExperimentMetric.LATENCY, ExperimentMetric.COST}


class ExperimentState(enum.StrEnum):
    """Progress of an experiment."""

    READY = "ready"
    """It reaches no users, and may be started."""
    RUNNING = "running"
    """Users are in its arms."""
    ENDED = "ended"
    """Its evidence, its horizon or a person ended it."""
    UNKNOWN = "unknown"


class Verdict(enum.StrEnum):
    """Conclusion of an experiment."""

    SHIP = "ship"
    """The arm is better, and no guardrail speaks against it."""
    STOP = "stop"
    """The arm is worse, a guardrail is broken, or users did not fall into the arms as they must."""
    GO_ON = "go_on"
    """Not decided yet."""
    INCONCLUSIVE = "inconclusive"
    """The time is over, or an effect that matters is excluded."""
    UNKNOWN = "unknown"


class LadderStep(enum.StrEnum):
    """Step on the way of a change to all users."""

    OFFLINE = "offline"
    """Measured by judgments."""
    REPLAY = "replay"
    """Recorded questions asked again."""
    SHADOW = "shadow"
    """Answered beside the users' answers, unseen."""
    EXPERIMENT = "experiment"
    RAMP = "ramp"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ExperimentArm(Sent, proto=experiment_pb2.ExperimentArm):
    """One of the configurations."""

    name: str
    features: Features | None = None
    """The flags that it sets; the control may set none."""


@dataclass(frozen=True, slots=True)
class MetricGuardrail(Sent, proto=pb.MetricGuardrail):
    """A metric that must not become worse."""

    metric: ExperimentMetric
    allowed_change: float
    """Change to the worse that is allowed, as a share of control's mean: 0.02 is 2 %."""


@dataclass(frozen=True, slots=True)
class ExperimentPlan(Sent, proto=pb.ExperimentPlan):
    """Configurations that are compared, and the end of the comparison."""

    name: str
    """1 to 64 lower case letters, digits and dashes."""
    method: ExperimentMethod
    arms: Sequence[ExperimentArm]
    """Two to eight, two for interleaving; the first is the control."""
    share_ppm: int
    """Share of all users, all arms together."""
    minimum_effect: float
    """Least change of the primary metric that matters: a share of control's mean, or a preference."""
    hypothesis: str = ""
    """Expectation, and its reason, for people."""
    layer: str = ""
    """Experiments of one layer never share a user."""
    primary_metric: ExperimentMetric | None = None
    """Decides; None means preference for interleaving, and reciprocal rank otherwise."""
    guardrails: Sequence[MetricGuardrail] = ()
    horizon: timedelta | None = None
    """Longest time; None means 28 days."""
    alpha: float | None = None
    """Probability of a false verdict, over the whole experiment; None means 0.05."""
    history: timedelta | None = None
    """Time before the run whose events adjust metrics (CUPED); None means 7 days, zero none."""

    @property
    def primary(self) -> ExperimentMetric:
        """The metric that decides."""
        if self.primary_metric is not None:
            return self.primary_metric
        interleaved = self.method is ExperimentMethod.INTERLEAVE
        return ExperimentMetric.PREFERENCE if interleaved else ExperimentMetric.RECIPROCAL_RANK


@dataclass(frozen=True, slots=True)
class Experiment(Received, proto=pb.Experiment):
    """A plan and the course of its run."""

    plan: ExperimentPlan
    state: ExperimentState
    run_id: str
    """Names the run; empty before the first."""
    first_bucket: int
    start_time: datetime | None
    end_time: datetime | None
    """None while it runs."""
    verdict: Verdict | None
    """None before the first findings."""
    reasons: Sequence[str]
    """Reasons for the verdict, in words."""
    arm: str
    """The arm that the verdict is about; empty where it is about none."""

    @property
    def name(self) -> str:
        """Name of the plan."""
        return self.plan.name


@dataclass(frozen=True, slots=True)
class ExperimentArmTotals(Received, proto=pb.ExperimentArmTotals):
    """Totals of one arm; of both together for an interleaved experiment."""

    arm: str
    user_count: int
    impression_count: int
    """Answers."""
    event_count: int
    failed_count: int
    one_arm_count: int
    """Interleaved answers that had the results of one arm alone, and are not counted."""
    p50: timedelta | None
    p95: timedelta | None


@dataclass(frozen=True, slots=True)
class MetricFinding(Received, proto=pb.MetricFinding):
    """Difference of an arm from the control in one metric, with an interval that holds at all times together."""

    metric: ExperimentMetric
    arm: str
    control_mean: float
    """Mean of the control; 0 for the preference."""
    arm_mean: float
    difference: float
    """Adjusted by history where there is one."""
    lower: float
    upper: float
    user_count: int
    """Users that count."""
    variance_reduction: float
    """Share of the variance that history took away, 0 to 1."""


@dataclass(frozen=True, slots=True)
class ArmGuardrail(Received, proto=pb.ArmGuardrail):
    """Evidence of one guardrail against one arm."""

    arm: str
    evidence: GuardrailEvidence


@dataclass(frozen=True, slots=True)
class ExperimentFindings(Received, proto=pb.ExperimentFindings):
    """Knowledge about a run at one moment."""

    time: datetime
    arms: Sequence[ExperimentArmTotals]
    """The control first. For an interleaved experiment there is one, of both."""
    metrics: Sequence[MetricFinding]
    """Every metric of every arm but the control."""
    guardrails: Sequence[ArmGuardrail] = ()
    """Errors, empty answers and slow answers, as in a rollout."""
    log_mismatch: float = 0.0
    """Log of the e-value against users falling into arms as they must."""
    log_mismatch_threshold: float = 0.0
    verdict: Verdict | None = None
    reasons: Sequence[str] = ()
    arm: str = ""

    def of(self, metric: ExperimentMetric) -> Sequence[MetricFinding]:
        """Findings of one metric, by arm."""
        return tuple(finding for finding in self.metrics if finding.metric is metric)


@dataclass(frozen=True, slots=True)
class ExperimentStatus(Received, proto=pb.GetExperimentResponse):
    """An experiment with its newest findings."""

    experiment: Experiment
    findings: ExperimentFindings | None = None
    """None before there are any."""


@dataclass(frozen=True, slots=True)
class AttachedEvidence(Sent, proto=pb.AttachedEvidence):
    """Result of one step of the ladder, measured before users saw anything."""

    step: LadderStep
    """Offline or replay."""
    summary: str
    """One readable line."""
    result_json: str
    """The whole result as JSON, at most 256 KiB."""
    time: datetime | None = None
    """Time of the measurement."""


@dataclass(frozen=True, slots=True)
class ExperimentReport(Received, proto=pb.GetExperimentReportResponse):
    """Material for the review of an experiment."""

    experiment: Experiment
    history: Sequence[HistoryEntry] = ()
    """Oldest first."""
    points: Sequence[ExperimentFindings] = ()
    """Findings as they grew, oldest first, the newest among them."""
    attached: Sequence[AttachedEvidence] = ()
    features: Sequence[Feature] = ()
    """Features that set the same flags as one of its arms, for the last step of the ladder."""

    @property
    def newest(self) -> ExperimentFindings | None:
        """The newest findings; None before there are any."""
        return self.points[-1] if self.points else None
