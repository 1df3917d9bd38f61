"""Features on their way to users: states, plans and evidence.

Shares are in parts per million of all users (ppm): 100,000 is 10 %.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sluice.rollout.v1 import rollout_pb2 as pb
from sluice.type.v1.features_pb2 import Features
from sluice_client.answers import Arm
from sluice_client.messages import Received, Sent

EVERYBODY_PPM = 1_000_000


class FeatureState(enum.StrEnum):
    """State of a feature."""

    READY = "ready"
    """It reaches no users, and may be started."""
    RAMPING = "ramping"
    """It is on its way through a plan."""
    HELD = "held"
    """It is kept where it is, by a person or by missing evidence."""
    COMPLETE = "complete"
    """It reaches all users, but a holdout if there is one."""
    ROLLED_BACK = "rolled_back"
    """It was taken back; a person has to arm it again."""
    KILLED = "killed"
    """It is off for all users, for requests that ask for it, too."""
    UNKNOWN = "unknown"
    """Sent by a newer service."""


class Guardrail(enum.StrEnum):
    """A measure that must not become worse."""

    ERRORS = "errors"
    """Failed requests."""
    LATENCY = "latency"
    """Slow requests."""
    EMPTY_RESULTS = "empty_results"
    """Answers without a result."""
    QUALITY = "quality"
    """Answers that are worse than the other arm's to the same question."""
    EXPOSURE = "exposure"
    """Answers in which a stage of the feature was asked and did not do its work."""
    UNKNOWN = "unknown"


class HistoryAction(enum.StrEnum):
    """Something that happens to a feature."""

    CREATED = "created"
    STARTED = "started"
    """A plan's first step began."""
    PROMOTED = "promoted"
    """The plan's next step began."""
    HELD = "held"
    RESUMED = "resumed"
    """The ramp went on after it was held."""
    SHARE_SET = "share_set"
    """Its share was set by hand."""
    HALVED = "halved"
    ROLLED_BACK = "rolled_back"
    KILLED = "killed"
    REARMED = "rearmed"
    """It may be started again."""
    COMPLETED = "completed"
    """Its plan ended."""
    STOPPED = "stopped"
    """An experiment was ended by a person."""
    DECIDED = "decided"
    """An experiment was ended by its evidence, or by its horizon."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class PlanStep(Sent, proto=pb.PlanStep):
    """A share of users for a time."""

    treatment_ppm: int
    dwell: timedelta
    """Least time in this step."""
    automatic: bool = False
    """True if it goes on by itself once all holds; otherwise it asks a person."""


@dataclass(frozen=True, slots=True)
class Criteria(Sent, proto=pb.Criteria):
    """Conditions of a promotion. Increases are over control: 0.3 is 30 %."""

    error_rate_max: float | None = None
    p95_increase_max: float | None = None
    p99_increase_max: float | None = None
    p95_max: timedelta | None = None
    p99_max: timedelta | None = None
    quality_score_min: float | None = None
    allowed_ratio: float | None = None
    """Bad events of treatment, in times of control's, from which on it is a breach."""
    non_inferiority_ratio: float | None = None
    """Bad events of treatment, in times of control's, that must be ruled out before it goes on."""
    exposure_failure_rate_max: float | None = None
    """Most answers in which the feature did not run."""
    satisfaction_min: float | None = None
    """Least mean rating of treatment's answers, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Plan(Sent, proto=pb.Plan):
    """Steps in which a feature reaches all users, and the conditions."""

    name: str
    steps: Sequence[PlanStep]
    criteria: Criteria = Criteria()
    holdout_ppm: int = 0
    """Share of users that stay without the feature at the end."""
    shadow_ppm: int = 0
    """Share of control requests that run the treatment, too, for evidence in pairs."""


@dataclass(frozen=True, slots=True)
class Feature(Received, proto=pb.Feature):
    """A named set of flags on its way to users."""

    name: str
    description: str
    salt: str
    features: Features
    """The flags that it sets; the others are left as they are without it."""
    state: FeatureState
    treatment_ppm: int
    """Share of users that it reaches."""
    plan: Plan | None
    step: int
    """Step of the plan, from 1; 0 before the first."""
    step_start_time: datetime | None
    breach_count: int
    """Statistical breaches since it was armed."""
    reason: str
    """Reason for its state."""
    ramp_id: str
    """Names the run of evidence."""


@dataclass(frozen=True, slots=True)
class GuardrailEvidence(Received, proto=pb.GuardrailEvidence):
    """Evidence against a feature and for it, as logs of e-values."""

    guardrail: Guardrail
    treatment_count: int
    """First bad events of treatment's users."""
    control_count: int
    log_evidence: float
    """Evidence against the feature."""
    log_threshold: float
    """Breach from here on."""
    log_non_inferiority: float
    """Evidence that it is not worse than its plan allows."""
    log_non_inferiority_threshold: float
    """Shown from here on."""

    @property
    def breached(self) -> bool:
        """True if the feature is worse beyond doubt."""
        return self.log_threshold > 0 and self.log_evidence >= self.log_threshold

    @property
    def shown(self) -> bool:
        """True if the feature is shown not to be worse than allowed."""
        return self.log_non_inferiority_threshold > 0 and self.log_non_inferiority >= self.log_non_inferiority_threshold


@dataclass(frozen=True, slots=True)
class LimitEvidence(Received, proto=pb.LimitEvidence):
    """Evidence that a hard limit is passed: log of an e-value."""

    label: str
    """Text to show: "P95 3 s"."""
    allowed_ratio: float
    """Ratio of requests that may be beyond it."""
    bad_count: int
    """Requests of treatment beyond it."""
    log_evidence: float
    log_threshold: float
    """Passed from here on."""


@dataclass(frozen=True, slots=True)
class LatencyBucket(Received, proto=pb.LatencyBucket):
    """Requests that took from `lower` up to `upper`; None is unbounded."""

    lower: timedelta
    upper: timedelta | None
    count: int


@dataclass(frozen=True, slots=True)
class BadEventCount(Received, proto=pb.BadEventCount):
    """Number of bad events of a guardrail."""

    guardrail: Guardrail
    event_count: int


@dataclass(frozen=True, slots=True)
class ArmTotals(Received, proto=pb.ArmTotals):
    """Totals of an arm in one step."""

    arm: Arm
    request_count: int
    unit_count: int
    """Distinct users."""
    bad_events: Sequence[BadEventCount]
    """All of them, not only the first of each user."""
    p50: timedelta | None
    """Percentile of latency; None without requests."""
    p95: timedelta | None
    p99: timedelta | None
    quality_score: float | None
    """Mean, 0 to 1; None where there is none."""
    shadow_overlap: float | None
    """Mean overlap of the first results of pairs, 0 to 1; None where there are none."""
    latency: Sequence[LatencyBucket] = ()
    """The histogram behind the percentiles; only in reports and in the status of one feature."""

    def bad_event_count(self, guardrail: Guardrail) -> int:
        """Number of bad events of one guardrail."""
        return sum(events.event_count for events in self.bad_events if events.guardrail is guardrail)


@dataclass(frozen=True, slots=True)
class QuarantinedFeature(Received, proto=pb.QuarantinedFeature):
    """A feature that makes no sense to a gateway, which ignores it."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Gateway(Received, proto=pb.Gateway):
    """A gateway that serves snapshots."""

    name: str
    version: int
    """The snapshot that it serves."""
    last_seen_time: datetime | None
    live: bool
    quarantined: Sequence[QuarantinedFeature]
    locally_killed: Sequence[str]
    """Features that a local override holds off there."""


@dataclass(frozen=True, slots=True)
class FeatureStatus(Received, proto=pb.GetFeatureResponse):
    """A feature with its evidence and the gateways that serve it."""

    feature: Feature
    guardrails: Sequence[GuardrailEvidence] = ()
    """Evidence of the current step."""
    arms: Sequence[ArmTotals] = ()
    gateways: Sequence[Gateway] = ()
    limits: Sequence[LimitEvidence] = ()
    """Hard limits of the current step."""
    log_mismatch: float = 0.0
    """Log of the e-value against users falling into arms as they must."""
    log_mismatch_threshold: float = 0.0
    obstacles: Sequence[str] = ()
    """Reasons against the next step, in words."""
    watched_duration: timedelta = timedelta()
    """Time that the step was watched; time without evidence does not count."""
    latency_threshold: timedelta | None = None
    """Latency beyond which a request of control is slow; None while that is not known."""


@dataclass(frozen=True, slots=True)
class FeatureList(Received, proto=pb.ListFeaturesResponse):
    """Features in the order of their names."""

    features: Sequence[Feature]
    snapshot_version: int
    """The newest snapshot."""


@dataclass(frozen=True, slots=True)
class HistoryEntry(Received, proto=pb.HistoryEntry):
    """Something that happened."""

    number: int
    time: datetime
    feature: str
    action: HistoryAction
    actor: str
    """A person, or "sluice" itself."""
    reason: str
    old_treatment_ppm: int
    new_treatment_ppm: int
    state: FeatureState
    snapshot_version: int
    """The snapshot that carried it."""
    done_time: datetime | None
    """Time at which every live gateway had acknowledged that snapshot."""
    guardrails: Sequence[GuardrailEvidence] = ()
    """Evidence at the decision."""
    arms: Sequence[ArmTotals] = ()


@dataclass(frozen=True, slots=True)
class StepReport(Received, proto=pb.StepReport):
    """Result of one run of evidence."""

    ramp_id: str
    treatment_ppm: int
    start_time: datetime
    end_time: datetime | None
    """None while it runs."""
    arms: Sequence[ArmTotals]
    guardrails: Sequence[GuardrailEvidence]


@dataclass(frozen=True, slots=True)
class EvidencePoint(Received, proto=pb.EvidencePoint):
    """The evidence at one moment."""

    time: datetime
    ramp_id: str
    treatment_ppm: int
    guardrails: Sequence[GuardrailEvidence]
    arms: Sequence[ArmTotals]


@dataclass(frozen=True, slots=True)
class RolloutReport(Received, proto=pb.GetReportResponse):
    """Material for the review of a feature's rollout."""

    feature: Feature
    history: Sequence[HistoryEntry]
    """All of it, oldest first."""
    steps: Sequence[StepReport]
    points: Sequence[EvidencePoint] = ()
    """Evidence as it grew."""
