"""Between this package's values and the rollout service's protobuf messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from sluice.rollout.v1 import rollout_pb2 as pb
from sluice_client.answers import Arm, Features, Strategy
from sluice_client.errors import invalid
from sluice_client.rollouts import (
    EVERYBODY_PPM,
    ArmTotals,
    Criteria,
    EvidencePoint,
    Feature,
    FeatureList,
    FeatureState,
    FeatureStatus,
    Guardrail,
    GuardrailEvidence,
    HistoryEntry,
    LatencyBucket,
    LimitEvidence,
    Plan,
    PlanStep,
    Replica,
    RolloutReport,
    StepReport,
)
from sluice_client.wire import sendable, sendable_number

_STATES = {
    pb.FEATURE_STATE_READY: FeatureState.READY,
    pb.FEATURE_STATE_RAMPING: FeatureState.RAMPING,
    pb.FEATURE_STATE_HELD: FeatureState.HELD,
    pb.FEATURE_STATE_COMPLETE: FeatureState.COMPLETE,
    pb.FEATURE_STATE_ROLLED_BACK: FeatureState.ROLLED_BACK,
    pb.FEATURE_STATE_KILLED: FeatureState.KILLED,
}
_ARMS = {pb.ARM_TREATMENT: Arm.TREATMENT, pb.ARM_CONTROL: Arm.CONTROL, pb.ARM_STANDARD: Arm.STANDARD}
_GUARDRAILS = {
    pb.GUARDRAIL_ERRORS: Guardrail.ERRORS,
    pb.GUARDRAIL_LATENCY: Guardrail.LATENCY,
    pb.GUARDRAIL_EMPTY_RESULTS: Guardrail.EMPTY_RESULTS,
    pb.GUARDRAIL_QUALITY: Guardrail.QUALITY,
}
# What a protobuf Duration may hold, in seconds: about 10,000 years.
_LONGEST_SECONDS = 315_576_000_000


def to_overrides(overrides: Features) -> pb.Overrides:
    """What a feature switches; what is None stays unset."""
    return pb.Overrides(
        dense=overrides.dense,
        lexical=overrides.lexical,
        expansion=overrides.expansion,
        expansion_strategy=None if overrides.expansion_strategy is None else overrides.expansion_strategy.value,
        max_variant_count=sendable_number("overrides.max_variant_count", overrides.max_variant_count),
        rerank=overrides.rerank,
        rerank_candidate_count=sendable_number("overrides.rerank_candidate_count", overrides.rerank_candidate_count),
    )


def sendable_ppm(path: str, ppm: int) -> int:
    """The share, if it is one."""
    if not 0 <= ppm <= EVERYBODY_PPM:
        raise invalid(path, f"{ppm} is not between 0 and {EVERYBODY_PPM:,} parts per million")
    return ppm


def from_overrides(overrides: pb.Overrides) -> Features:
    """What a feature switches."""
    given = {name: getattr(overrides, name) for name in Features.__slots__ if overrides.HasField(name)}  # type: ignore[arg-type]  # names of fields, all optional
    strategy = given.get("expansion_strategy")
    return Features(**given | {"expansion_strategy": Strategy(strategy) if strategy in set(Strategy) else None})


def to_plan(plan: Plan) -> pb.Plan:
    """A plan."""
    criteria = plan.criteria
    return pb.Plan(
        name=sendable("plan.name", plan.name),
        steps=[
            pb.PlanStep(
                treatment_ppm=sendable_ppm(f"plan.steps[{place}].treatment_ppm", step.treatment_ppm),
                dwell=_duration(f"plan.steps[{place}].dwell", step.dwell),
                automatic=step.automatic,
            )
            for place, step in enumerate(plan.steps)
        ],
        criteria=pb.Criteria(
            error_rate_max=criteria.error_rate_max,
            p95_increase_max=criteria.p95_increase_max,
            p99_increase_max=criteria.p99_increase_max,
            p95_max=_seconds("plan.criteria.p95_max", criteria.p95_max),
            p99_max=_seconds("plan.criteria.p99_max", criteria.p99_max),
            quality_score_min=criteria.quality_score_min,
            allowed_ratio=criteria.allowed_ratio,
            non_inferiority_ratio=criteria.non_inferiority_ratio,
        ),
        holdback_ppm=sendable_ppm("plan.holdback_ppm", plan.holdback_ppm),
        shadow_ppm=sendable_ppm("plan.shadow_ppm", plan.shadow_ppm),
    )


def from_plan(plan: pb.Plan) -> Plan:
    """A plan."""
    criteria = plan.criteria
    return Plan(
        name=plan.name,
        steps=[
            PlanStep(step.treatment_ppm, timedelta(seconds=_of_duration(step.dwell)), step.automatic)
            for step in plan.steps
        ],
        criteria=Criteria(
            error_rate_max=_optional(criteria, "error_rate_max"),
            p95_increase_max=_optional(criteria, "p95_increase_max"),
            p99_increase_max=_optional(criteria, "p99_increase_max"),
            p95_max=_optional_seconds(criteria, "p95_max"),
            p99_max=_optional_seconds(criteria, "p99_max"),
            quality_score_min=_optional(criteria, "quality_score_min"),
            allowed_ratio=_optional(criteria, "allowed_ratio"),
            non_inferiority_ratio=_optional(criteria, "non_inferiority_ratio"),
        ),
        holdback_ppm=plan.holdback_ppm,
        shadow_ppm=plan.shadow_ppm,
    )


def from_feature(feature: pb.Feature) -> Feature:
    """A feature."""
    return Feature(
        name=feature.name,
        description=feature.description,
        salt=feature.salt,
        overrides=from_overrides(feature.overrides),
        state=_STATES.get(feature.state, FeatureState.UNKNOWN),
        treatment_ppm=feature.treatment_ppm,
        plan=from_plan(feature.plan) if feature.HasField("plan") else None,
        step=feature.step,
        step_started=_optional_time(feature, "step_start_time"),
        breach_count=feature.breach_count,
        reason=feature.reason,
        ramp_id=feature.ramp_id,
    )


def from_features(reply: pb.ListFeaturesResponse) -> FeatureList:
    """All features."""
    return FeatureList([from_feature(feature) for feature in reply.features], reply.snapshot_version)


def from_status(reply: pb.GetFeatureResponse) -> FeatureStatus:
    """A feature, and how it does."""
    return FeatureStatus(
        feature=from_feature(reply.feature),
        guardrails=_guardrails(reply.guardrails),
        arms=_arms(reply.arms),
        gateways=[
            Replica(
                name=gateway.name,
                version=gateway.version,
                last_seen=_optional_time(gateway, "last_seen_time"),
                live=gateway.live,
                quarantined={one.name: one.reason for one in gateway.quarantined},
                locally_killed=list(gateway.locally_killed),
            )
            for gateway in reply.gateways
        ],
        limits=[
            LimitEvidence(limit.name, limit.share, limit.bad_count, limit.log_evidence, limit.log_threshold)
            for limit in reply.limits
        ],
        log_mismatch=reply.log_mismatch,
        log_mismatch_threshold=reply.log_mismatch_threshold,
        obstacles=list(reply.obstacles),
        watched=timedelta(seconds=_of_duration(reply.watched_duration)),
        latency_threshold=_optional_seconds(reply, "latency_threshold"),
    )


def from_entry(entry: pb.HistoryEntry) -> HistoryEntry:
    """Something that happened."""
    return HistoryEntry(
        number=entry.number,
        time=_time(entry.time),
        feature=entry.feature,
        action=entry.action,
        actor=entry.actor,
        reason=entry.reason,
        old_treatment_ppm=entry.old_treatment_ppm,
        new_treatment_ppm=entry.new_treatment_ppm,
        state=_STATES.get(entry.state, FeatureState.UNKNOWN),
        snapshot_version=entry.snapshot_version,
        done=_optional_time(entry, "done_time"),
        guardrails=_guardrails(entry.guardrails),
        arms=_arms(entry.arms),
    )


def from_report(reply: pb.GetReportResponse) -> RolloutReport:
    """What a review needs."""
    return RolloutReport(
        feature=from_feature(reply.feature),
        history=[from_entry(entry) for entry in reply.history],
        steps=[
            StepReport(
                ramp_id=step.ramp_id,
                treatment_ppm=step.treatment_ppm,
                started=_time(step.start_time),
                ended=_optional_time(step, "end_time"),
                arms=_arms(step.arms),
                guardrails=_guardrails(step.guardrails),
            )
            for step in reply.steps
        ],
        points=[
            EvidencePoint(
                time=_time(point.time),
                ramp_id=point.ramp_id,
                treatment_ppm=point.treatment_ppm,
                guardrails=_guardrails(point.guardrails),
                arms=_arms(point.arms),
            )
            for point in reply.points
        ],
    )


def _guardrails(messages: Iterable[pb.GuardrailEvidence]) -> Sequence[GuardrailEvidence]:
    return [
        GuardrailEvidence(
            guardrail=_GUARDRAILS.get(message.guardrail, Guardrail.UNKNOWN),
            treatment_count=message.treatment_count,
            control_count=message.control_count,
            log_evidence=message.log_evidence,
            log_threshold=message.log_threshold,
            log_non_inferiority=message.log_non_inferiority,
            log_non_inferiority_threshold=message.log_non_inferiority_threshold,
        )
        for message in messages
    ]


def _arms(messages: Iterable[pb.ArmTotals]) -> Sequence[ArmTotals]:
    return [
        ArmTotals(
            arm=_ARMS.get(message.arm, Arm.UNKNOWN),
            request_count=message.request_count,
            unit_count=message.unit_count,
            bad_events={
                _GUARDRAILS.get(events.guardrail, Guardrail.UNKNOWN): events.event_count
                for events in message.bad_events
            },
            p50=_optional_seconds(message, "p50"),
            p95=_optional_seconds(message, "p95"),
            p99=_optional_seconds(message, "p99"),
            quality_score=_optional(message, "quality_score"),
            shadow_overlap=_optional(message, "shadow_overlap"),
            latency=[
                LatencyBucket(_of_duration(bucket.lower), _optional_seconds(bucket, "upper"), bucket.count)
                for bucket in message.latency
            ],
        )
        for message in messages
    ]


def _optional(message: Any, name: str) -> float | None:
    return getattr(message, name) if message.HasField(name) else None


def _optional_seconds(message: Any, name: str) -> float | None:
    return _of_duration(getattr(message, name)) if message.HasField(name) else None


def _optional_time(message: Any, name: str) -> datetime | None:
    return _time(getattr(message, name)) if message.HasField(name) else None


def _time(time: Timestamp) -> datetime:
    return time.ToDatetime(UTC)


def _of_duration(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _seconds(path: str, seconds: float | None) -> Duration | None:
    return None if seconds is None else _duration(path, timedelta(seconds=seconds))


def _duration(path: str, given: timedelta) -> Duration:
    if not 0 <= given.total_seconds() <= _LONGEST_SECONDS:
        raise invalid(path, f"{given} is out of range")
    duration = Duration()
    duration.FromTimedelta(given)
    return duration
