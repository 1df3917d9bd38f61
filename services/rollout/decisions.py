"""Decisions about a feature from its evidence alone. Pure: the clock is an argument.

In this order: breach (zero on a hard limit or a second statistical breach, else half) > mismatch, no data, stale (hold)
> promote > wait. A kill comes before all of it: what is killed has no evidence to decide upon. Nothing is promoted on
evidence that is inconclusive, and nothing is started again but by a person.
"""

from __future__ import annotations

import enum
import math
from dataclasses import asdict, dataclass, field

from services.experiment.bucketing import BUCKETS, Arm
from services.experiment.guardrails import Guardrail
from services.rollout.evidence import (
    STRICT_ALPHA,
    ArmTotals,
    GuardrailEvidence,
    latency_percentile,
    log_above,
    log_sample_ratio,
    weigh,
)
from services.rollout.features import Feature, FeatureState, HoldCause
from services.rollout.plans import Criteria
from sluice.rollout.v1 import rollout_pb2 as pb

COMPARED = (Arm.TREATMENT, Arm.CONTROL)
FEWEST_RATERS = 30
"""Users below which their mean rating says nothing."""


class Action(enum.Enum):
    """A step that evidence asks for."""

    ROLL_BACK = "roll back"
    HALVE = "halve"
    HOLD = "hold"
    RESUME = "resume"
    PROMOTE = "promote"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Decision:
    """An action and its reason."""

    action: Action
    reason: str
    hold_cause: HoldCause | None = None
    breached: bool = False
    """True for a statistical breach, which is counted."""


@dataclass(slots=True)
class Run:
    """One run of evidence: the time during which the share stayed the same."""

    number: int
    feature: str
    treatment_ppm: int
    control_ppm: int
    start_time: float
    end_time: float | None
    latency_threshold: float | None
    """T in seconds; None while there is none yet."""
    window_start_time: float
    watched_seconds: float = 0.0
    """Time with evidence, so that a ramp stands still while nothing is seen."""
    misplaced_unit_count: int = 0
    """Units that a gateway reported in an arm to which their bucket does not belong."""
    point_time: float = 0.0
    """Time of the last point of its curve. Seconds since 1970."""
    arms: dict[Arm, ArmTotals] = field(default_factory=lambda: {arm: ArmTotals() for arm in COMPARED})

    @property
    def exposure(self) -> float:
        """Users of treatment over those of control; 1 without control."""
        return self.treatment_ppm / self.control_ppm if self.control_ppm else 1.0


@dataclass(frozen=True, slots=True)
class Ratings:
    """Ratings of treatment's answers: users who rated any, and the mean of their mean ratings, 0 to 1."""

    user_count: int = 0
    mean: float = 0.0


NO_RATINGS = Ratings()


@dataclass(frozen=True, slots=True)
class Patience:
    """Longest time without evidence, in seconds."""

    no_data_seconds: float
    """Without a request in an arm."""
    stale_seconds: float
    """Without a report of any gateway."""


def guardrails_of(feature: Feature) -> list[Guardrail]:
    """Guardrails that compare the arms: quality only where shadow pairs are made; exposure is a hard limit."""
    shadowed = feature.plan is not None and feature.plan.shadow_ppm > 0
    left_out = {Guardrail.EXPOSURE} if shadowed else {Guardrail.EXPOSURE, Guardrail.QUALITY}
    return [guardrail for guardrail in Guardrail if guardrail not in left_out]


def criteria_of(feature: Feature) -> Criteria:
    """Criteria of the plan, or the defaults for a share that was set by hand."""
    return feature.plan.criteria if feature.plan else Criteria()


def evidence_of(feature: Feature, run: Run) -> list[GuardrailEvidence]:
    """Evidence of a run by guardrail, with the plan's ratios."""
    criteria = criteria_of(feature)
    ratio = criteria.non_inferiority_ratio or (2.0 if run.treatment_ppm < BUCKETS // 2 else 1.5)
    return weigh(
        run.arms,
        guardrails_of(feature),
        allowed_ratio=criteria.allowed_ratio,
        non_inferiority_ratio=ratio,
        exposure=run.exposure,
    )


def mismatch_of(run: Run) -> float:
    """Log of the evidence that units are missing from an arm; breach at `MISMATCH_THRESHOLD`."""
    if not run.control_ppm:
        return 0.0
    treatment, control = (run.arms[arm].unit_count for arm in COMPARED)
    return float(log_sample_ratio(treatment, control, run.exposure))


MISMATCH_THRESHOLD = math.log(1 / STRICT_ALPHA)
LIMIT_THRESHOLD = math.log(1 / STRICT_ALPHA)


@dataclass(frozen=True, slots=True)
class Limit:
    """A hard limit of treatment, and the evidence that it is passed."""

    label: str
    allowed_ratio: float
    """Ratio of requests that may be beyond it, 0 to 1."""
    bad_count: int
    log_evidence: float

    @property
    def breached(self) -> bool:
        """True if it is passed beyond doubt."""
        return self.log_evidence >= LIMIT_THRESHOLD

    def to_proto(self) -> pb.LimitEvidence:
        """Write the limit with its evidence."""
        return pb.LimitEvidence(log_threshold=LIMIT_THRESHOLD, **asdict(self))


def limits_of(feature: Feature, run: Run) -> list[Limit]:
    """Hard limits: errors, answers without the feature, requests above the largest P95 and P99."""
    criteria, treatment = criteria_of(feature), run.arms[Arm.TREATMENT]
    measured = sum(treatment.latency_counts)
    rows = (
        (
            f"errors {criteria.error_rate_max:.3g}",
            criteria.error_rate_max,
            treatment.event_counts.get(Guardrail.ERRORS, 0),
            treatment.request_count,
        ),
        (
            f"feature did not run {criteria.exposure_failure_rate_max:.3g}",
            criteria.exposure_failure_rate_max,
            treatment.event_counts.get(Guardrail.EXPOSURE, 0),
            treatment.request_count,
        ),
        (f"P95 {criteria.p95_max:.3g} s", 0.05, treatment.slower_than(criteria.p95_max), measured),
        (f"P99 {criteria.p99_max:.3g} s", 0.01, treatment.slower_than(criteria.p99_max), measured),
    )
    return [
        Limit(name, share, bad, float(log_above(bad, max(0, total - bad), share)) if share < 1 else 0.0)
        for name, share, bad, total in rows
    ]


def decide(
    feature: Feature,
    run: Run,
    *,
    now: float,
    since: float,
    reported: float,
    patience: Patience,
    ratings: Ratings = NO_RATINGS,
) -> Decision:
    """Decide about a feature that is watched.

    `since` is when this process began to look, before which nothing can have been missing, and `reported` is when any
    gateway last reported anything. Seconds since 1970.
    """
    if (breach := _breach(feature, run)) is not None:
        return breach
    if feature.state is FeatureState.HELD and feature.hold_cause in (HoldCause.PERSON, HoldCause.BREACH):
        return Decision(Action.WAIT, feature.reason)
    return _missing(run, now, max(since, run.start_time), reported, patience) or _progress(feature, run, ratings)


def _progress(feature: Feature, run: Run, ratings: Ratings) -> Decision:
    """Decide where nothing speaks against a feature."""
    if feature.state is FeatureState.HELD:
        return Decision(Action.RESUME, f"evidence is there again ({_cause(feature)} is over)")
    obstacles = obstacles_of(feature, run, ratings)
    if obstacles:
        return Decision(Action.WAIT, "; ".join(obstacles))
    if feature.plan is not None and not feature.plan.steps[feature.step - 1].automatic:
        return Decision(Action.WAIT, "all holds; the plan asks a person to promote")
    return Decision(Action.PROMOTE, promotion_reason(feature, run))


def promotion_reason(feature: Feature, run: Run) -> str:
    """Reason for a promotion, in numbers."""
    treatment = run.arms[Arm.TREATMENT]
    return f"all holds after {treatment.request_count:,} requests of {treatment.unit_count:,} users in treatment"


def obstacles_of(feature: Feature, run: Run, ratings: Ratings = NO_RATINGS) -> list[str]:
    """Readable obstacles to the next step; empty where there are none."""
    if feature.plan is None or feature.step == 0:
        return ["no plan is under way"]
    step = feature.plan.steps[feature.step - 1]
    obstacles = []
    if run.watched_seconds < step.dwell_seconds:
        obstacles.append(f"watched for {run.watched_seconds:,.0f} of {step.dwell_seconds:,.0f} s")
    if run.arms[Arm.TREATMENT].request_count == 0:
        obstacles.append("nothing was seen yet")
    # At 100 % there is no control to compare with: the hard limits alone watch.
    if run.control_ppm:
        unshown = [row.guardrail.value for row in evidence_of(feature, run) if not row.shown]
        if unshown:
            obstacles.append(f"not yet shown to be no worse: {', '.join(unshown)}")
    return [*obstacles, *_unmet(criteria_of(feature), run, ratings)]


def _breach(feature: Feature, run: Run) -> Decision | None:
    passed = [limit for limit in limits_of(feature, run) if limit.breached]
    if passed:
        seen = run.arms[Arm.TREATMENT].request_count
        told = ", ".join(f"{limit.label} ({limit.bad_count:,} of {seen:,} requests beyond it)" for limit in passed)
        return Decision(Action.ROLL_BACK, f"hard limit passed: {told}")
    worse = [row for row in evidence_of(feature, run) if row.breached] if run.control_ppm else []
    if not worse:
        return None
    told = "; ".join(
        f"{row.guardrail.value}: {row.treatment_count:,} of {row.treatment_count + row.control_count:,} first bad "
        f"events are treatment's (evidence {row.log_evidence:.2f}, breach at {row.log_threshold:.2f})"
        for row in worse
    )
    if feature.breach_count > 0:
        return Decision(Action.ROLL_BACK, f"second breach: {told}", breached=True)
    return Decision(Action.HALVE, f"first breach: {told}", breached=True)


def _missing(run: Run, now: float, since: float, reported: float, patience: Patience) -> Decision | None:
    if run.misplaced_unit_count or mismatch_of(run) >= MISMATCH_THRESHOLD:
        units = {arm: run.arms[arm].unit_count for arm in COMPARED}
        told = f"{units[Arm.TREATMENT]:,} users in treatment, {units[Arm.CONTROL]:,} in control"
        if run.misplaced_unit_count:
            told += f", {run.misplaced_unit_count:,} in an arm that is not theirs"
        return Decision(Action.HOLD, f"users do not fall into the arms as they must: {told}", HoldCause.MISMATCH)
    if now - max(since, reported) > patience.stale_seconds:
        return Decision(
            Action.HOLD, f"no gateway has reported for {patience.stale_seconds:g} s and more", HoldCause.STALE
        )
    silent = [
        arm.value
        for arm, share in ((Arm.TREATMENT, run.treatment_ppm), (Arm.CONTROL, run.control_ppm))
        if share and now - max(since, run.arms[arm].last_request_time) > patience.no_data_seconds
    ]
    if silent:
        return Decision(
            Action.HOLD,
            f"no request in {' and '.join(silent)} for {patience.no_data_seconds:g} s and more",
            HoldCause.NO_DATA,
        )
    return None


def _unmet(criteria: Criteria, run: Run, ratings: Ratings) -> list[str]:
    """Criteria of promotion that do not hold as measured."""
    treatment, control = run.arms[Arm.TREATMENT], run.arms[Arm.CONTROL]
    unmet = []
    rate = treatment.event_counts.get(Guardrail.ERRORS, 0) / max(1, treatment.request_count)
    if rate > criteria.error_rate_max:
        unmet.append(f"errors {rate:.2%}, above {criteria.error_rate_max:.2%}")
    rate = treatment.event_counts.get(Guardrail.EXPOSURE, 0) / max(1, treatment.request_count)
    if rate > criteria.exposure_failure_rate_max:
        unmet.append(f"the feature did not run in {rate:.2%}, above {criteria.exposure_failure_rate_max:.2%}")
    for name, percent, most, increase in (
        ("P95", 95, criteria.p95_max, criteria.p95_increase_max),
        ("P99", 99, criteria.p99_max, criteria.p99_increase_max),
    ):
        taken = latency_percentile(treatment.latency_counts, percent)
        other = latency_percentile(control.latency_counts, percent)
        if taken is not None and taken > most:
            unmet.append(f"{name} {taken:.3g} s, above {most:.3g} s")
        if increase is not None and taken is not None and other is not None and taken > other * (1 + increase):
            unmet.append(f"{name} is {taken / other - 1:.0%} above control's, more than {increase:.0%}")
    if criteria.quality_score_min is not None:
        score = treatment.quality_score
        if score is None:
            unmet.append("no quality score yet")
        elif score < criteria.quality_score_min:
            unmet.append(f"quality score {score:.3f}, below {criteria.quality_score_min:.3f}")
    if criteria.satisfaction_min is not None:
        if ratings.user_count < FEWEST_RATERS:
            unmet.append(f"ratings of {ratings.user_count} users, fewer than {FEWEST_RATERS}")
        elif ratings.mean < criteria.satisfaction_min:
            unmet.append(f"satisfaction {ratings.mean:.3f}, below {criteria.satisfaction_min:.3f}")
    return unmet


def _cause(feature: Feature) -> str:
    return feature.hold_cause.value if feature.hold_cause else "the hold"
