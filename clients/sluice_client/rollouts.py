"""Features on their way to users: where they are, what speaks against them, who serves them.

Shares are in parts per million of all users (ppm): 100,000 is 10 %.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sluice_client.answers import Arm, Features

EVERYBODY_PPM = 1_000_000


class FeatureState(enum.StrEnum):
    """Where a feature is."""

    READY = "ready"
    """It reaches nobody, and may be started."""
    RAMPING = "ramping"
    """It is on its way through a plan."""
    HELD = "held"
    """It is kept where it is, by a person or by missing evidence."""
    COMPLETE = "complete"
    """It reaches everybody, but a holdback if there is one."""
    ROLLED_BACK = "rolled back"
    """It was taken back; a person has to arm it again."""
    KILLED = "killed"
    """It is off for everybody, for requests that ask for it, too."""
    UNKNOWN = "unknown"
    """One that a newer service has and this client does not know."""


class Guardrail(enum.StrEnum):
    """Something that must not become worse."""

    ERRORS = "errors"
    """Failed requests."""
    LATENCY = "latency"
    """Slow requests."""
    EMPTY_RESULTS = "empty results"
    """Answers without a result."""
    QUALITY = "quality"
    """Answers that are worse than the other arm's to the same question."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class PlanStep:
    """A share of users for a time."""

    treatment_ppm: int
    dwell: timedelta
    """At least so long."""
    automatic: bool = False
    """Whether it goes on by itself once all holds; otherwise it asks a person."""


@dataclass(frozen=True, slots=True)
class Criteria:
    """What must hold; None is not looked at. Times are in seconds, increases are over control: 0.3 is 30 %."""

    error_rate_max: float | None = None
    p95_increase_max: float | None = None
    p99_increase_max: float | None = None
    p95_max: float | None = None
    p99_max: float | None = None
    quality_score_min: float | None = None
    allowed_ratio: float | None = None
    """How many times as many bad events as control treatment may have, before that is a breach."""
    non_inferiority_ratio: float | None = None
    """How many times as many it must be shown not to have, before it goes on."""


@dataclass(frozen=True, slots=True)
class Plan:
    """In which steps a feature reaches everybody, and what must hold on the way."""

    name: str
    steps: Sequence[PlanStep]
    criteria: Criteria = Criteria()
    holdback_ppm: int = 0
    """Share of users that stay without the feature at the end."""
    shadow_ppm: int = 0
    """Share of control requests that run the treatment, too, for evidence in pairs."""


@dataclass(frozen=True, slots=True)
class Feature:
    """A named set of overrides on its way to users."""

    name: str
    description: str
    salt: str
    overrides: Features
    """What it switches; None is left as it is without the feature."""
    state: FeatureState
    treatment_ppm: int
    """Share of users that it reaches."""
    plan: Plan | None
    step: int
    """Step of the plan, from 1; 0 before the first."""
    step_started: datetime | None
    breach_count: int
    """Statistical breaches since it was armed."""
    reason: str
    """Why it is where it is."""
    ramp_id: str
    """Names the run of evidence."""


@dataclass(frozen=True, slots=True)
class GuardrailEvidence:
    """What speaks against a feature, and what speaks for it, as logs of e-values."""

    guardrail: Guardrail
    treatment_count: int
    """First bad events of treatment's users."""
    control_count: int
    log_evidence: float
    """Against the feature."""
    log_threshold: float
    """Breach from here on."""
    log_non_inferiority: float
    """That it is not worse than its plan allows."""
    log_non_inferiority_threshold: float
    """Shown from here on."""

    @property
    def breached(self) -> bool:
        """Whether the feature is worse beyond doubt."""
        return self.log_threshold > 0 and self.log_evidence >= self.log_threshold

    @property
    def shown(self) -> bool:
        """Whether it is shown that the feature is not worse than allowed."""
        return self.log_non_inferiority_threshold > 0 and self.log_non_inferiority >= self.log_non_inferiority_threshold


@dataclass(frozen=True, slots=True)
class LimitEvidence:
    """What speaks for a hard limit being passed, as the log of an e-value."""

    name: str
    """For people: "P95 3 s"."""
    share: float
    """Share of requests that may be beyond it."""
    bad_count: int
    """Requests of treatment beyond it."""
    log_evidence: float
    log_threshold: float
    """Passed from here on."""


@dataclass(frozen=True, slots=True)
class LatencyBucket:
    """How many requests took from `lower` up to `upper` seconds; None is without bound."""

    lower: float
    upper: float | None
    count: int


@dataclass(frozen=True, slots=True)
class ArmTotals:
    """What an arm saw in one step."""

    arm: Arm
    request_count: int
    unit_count: int
    """Distinct users."""
    bad_events: Mapping[Guardrail, int]
    """All of them, not only the first of each user."""
    p50: float | None
    """Seconds, as the others; None without requests."""
    p95: float | None
    p99: float | None
    quality_score: float | None
    """Mean, 0 to 1; None where there is none."""
    shadow_overlap: float | None
    """Mean overlap of the first results of pairs, 0 to 1; None where there are none."""
    latency: Sequence[LatencyBucket] = ()
    """The histogram behind the percentiles; only in reports."""


@dataclass(frozen=True, slots=True)
class Replica:
    """A gateway that serves snapshots."""

    name: str
    version: int
    """The snapshot that it serves."""
    last_seen: datetime | None
    live: bool
    quarantined: Mapping[str, str]
    """Features that it does not serve because they make no sense to it, and why."""
    locally_killed: Sequence[str]
    """Features that a local override holds off there."""


@dataclass(frozen=True, slots=True)
class FeatureStatus:
    """A feature with its evidence and the gateways that serve it."""

    feature: Feature
    guardrails: Sequence[GuardrailEvidence] = ()
    """Of the current step."""
    arms: Sequence[ArmTotals] = ()
    gateways: Sequence[Replica] = ()
    limits: Sequence[LimitEvidence] = ()
    """Hard limits of the current step."""
    log_mismatch: float = 0.0
    """Log of the e-value against users falling into arms as they must."""
    log_mismatch_threshold: float = 0.0
    obstacles: Sequence[str] = ()
    """What keeps it from the next step, for people."""
    watched: timedelta = timedelta()
    """How long the step was watched; time without evidence does not count."""
    latency_threshold: float | None = None
    """Seconds beyond which a request of control is slow; None while that is not known."""


@dataclass(frozen=True, slots=True)
class FeatureList:
    """All features, in the order of their names."""

    features: Sequence[Feature]
    snapshot_version: int
    """The newest snapshot."""


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """Something that happened."""

    number: int
    time: datetime
    feature: str
    action: str
    """CREATED, STARTED, PROMOTED, HELD, SET, HALVED, ROLLED_BACK, KILLED, REARMED or COMPLETED."""
    actor: str
    """A person, or "sluice" itself."""
    reason: str
    old_treatment_ppm: int
    new_treatment_ppm: int
    state: FeatureState
    snapshot_version: int
    """The snapshot that carried it."""
    done: datetime | None
    """When every live gateway had acknowledged that snapshot."""
    guardrails: Sequence[GuardrailEvidence] = ()
    """When it was decided."""
    arms: Sequence[ArmTotals] = ()


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one run of evidence came to."""

    ramp_id: str
    treatment_ppm: int
    started: datetime
    ended: datetime | None
    """None while it runs."""
    arms: Sequence[ArmTotals]
    guardrails: Sequence[GuardrailEvidence]


@dataclass(frozen=True, slots=True)
class EvidencePoint:
    """The evidence at one moment."""

    time: datetime
    ramp_id: str
    treatment_ppm: int
    guardrails: Sequence[GuardrailEvidence]
    arms: Sequence[ArmTotals]


@dataclass(frozen=True, slots=True)
class RolloutReport:
    """What a review of a feature's rollout needs."""

    feature: Feature
    history: Sequence[HistoryEntry]
    """All of it, oldest first."""
    steps: Sequence[StepReport]
    points: Sequence[EvidencePoint] = field(default=())
    """Evidence as it grew."""
