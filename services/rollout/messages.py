"""Between the wire and the domain: protobuf messages to what the control plane knows, and back."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from services.chassis.errors import InvalidArgument
from services.chassis.timing import duration
from services.experiment.bucketing import Arm
from services.experiment.guardrails import Guardrail
from services.experiment.latencies import EDGES
from services.experiment.snapshot_hash import content_hash
from services.rollout.control import ArmReport, Command
from services.rollout.decisions import LIMIT_THRESHOLD, Limit
from services.rollout.evidence import ArmSummary, GuardrailEvidence
from services.rollout.features import Feature, FeatureState, Overrides
from services.rollout.gateways import Gateway
from services.rollout.plans import Criteria, Plan, PlanStep
from services.rollout.records import HistoryEntry, SealedSnapshot
from services.rollout.snapshots import Quarantined, SnapshotFeature
from sluice.rollout.v1 import rollout_pb2 as pb

EnumT = TypeVar("EnumT", bound=enum.Enum)

_STATES: Mapping[FeatureState, pb.FeatureState.ValueType] = {
    FeatureState.READY: pb.FEATURE_STATE_READY,
    FeatureState.RAMPING: pb.FEATURE_STATE_RAMPING,
    FeatureState.HELD: pb.FEATURE_STATE_HELD,
    FeatureState.COMPLETE: pb.FEATURE_STATE_COMPLETE,
    FeatureState.ROLLED_BACK: pb.FEATURE_STATE_ROLLED_BACK,
    FeatureState.KILLED: pb.FEATURE_STATE_KILLED,
}
_GUARDRAILS: Mapping[Guardrail, pb.Guardrail.ValueType] = {
    Guardrail.ERRORS: pb.GUARDRAIL_ERRORS,
    Guardrail.LATENCY: pb.GUARDRAIL_LATENCY,
    Guardrail.EMPTY_RESULTS: pb.GUARDRAIL_EMPTY_RESULTS,
    Guardrail.QUALITY: pb.GUARDRAIL_QUALITY,
}
_ARMS: Mapping[Arm, pb.Arm.ValueType] = {
    Arm.TREATMENT: pb.ARM_TREATMENT,
    Arm.CONTROL: pb.ARM_CONTROL,
    Arm.STANDARD: pb.ARM_STANDARD,
}


def command_of(message: pb.Command) -> Command:
    """Who wants something and why."""
    return Command(message.actor, message.reason, message.command_id)


def overrides_of(message: pb.Overrides) -> Overrides:
    """What a feature switches."""
    return Overrides(**_given(message, Overrides))


def plan_of(message: pb.Plan) -> Plan:
    """A plan; what it leaves unset has its default."""
    steps = tuple(
        PlanStep(step.treatment_ppm, _seconds(step.dwell, f"plan.steps[{place}].dwell"), step.automatic)
        for place, step in enumerate(message.steps)
    )
    criteria = {
        name: _seconds(value, f"plan.criteria.{name}") if isinstance(value, Duration) else value
        for name, value in _given(message.criteria, Criteria).items()
    }
    return Plan(message.name, steps, Criteria(**criteria), message.holdback_ppm, message.shadow_ppm)


def arm_report_of(message: pb.ArmEvidence, where: str) -> ArmReport:
    """What a gateway saw in one arm."""
    events: dict[Guardrail, int] = {}
    units: dict[Guardrail, Sequence[int]] = {}
    for place, bad in enumerate(message.bad_events):
        guardrail = _known(_GUARDRAILS, bad.guardrail, f"{where}.bad_events[{place}].guardrail")
        if guardrail in events:
            raise InvalidArgument(f"{where}.bad_events[{place}].guardrail", "is there twice")
        events[guardrail], units[guardrail] = bad.event_count, bad.units
    return ArmReport(
        feature=message.feature,
        ramp_id=message.ramp_id,
        arm=_known(_ARMS, message.arm, f"{where}.arm"),
        units=message.units,
        event_counts=events,
        bad_units=units,
        latency_counts=message.latency_counts,
        **{
            name: getattr(message, name)
            for name in (
                "request_count",
                "shadow_win_count",
                "shadow_loss_count",
                "shadow_tie_count",
                "shadow_overlap_sum",
                "quality_score_sum",
                "quality_score_count",
            )
        },
    )


def quarantined_of(messages: Sequence[pb.QuarantinedFeature]) -> tuple[Quarantined, ...]:
    """What a gateway does not serve."""
    return tuple(Quarantined(message.name, message.reason) for message in messages)


def seal(lease_seconds: float) -> Any:
    """What encodes snapshots whose ramps have a lease of so long; see `services.rollout.control.Seal`."""

    def encode(features: Sequence[SnapshotFeature]) -> tuple[bytes, str]:
        encoded = [_snapshot_feature(feature, lease_seconds) for feature in features]
        return pb.Snapshot(features=encoded).SerializeToString(deterministic=True), content_hash(encoded)

    return encode


def snapshot_message(sealed: SealedSnapshot) -> pb.Snapshot:
    """A snapshot as gateways get it."""
    snapshot = pb.Snapshot.FromString(sealed.body)
    snapshot.version = sealed.version
    snapshot.content_hash = sealed.content_hash
    snapshot.create_time.CopyFrom(timestamp(sealed.create_time))
    return snapshot


def feature_message(feature: Feature) -> pb.Feature:
    """A feature as operators see it."""
    message = pb.Feature(
        name=feature.name,
        description=feature.description,
        salt=feature.salt,
        overrides=_overrides_message(feature.overrides),
        state=_STATES[feature.state],
        treatment_ppm=feature.treatment_ppm,
        step=feature.step,
        breach_count=feature.breach_count,
        reason=feature.reason,
        ramp_id=feature.ramp_id,
    )
    if feature.plan is not None:
        message.plan.CopyFrom(_plan_message(feature.plan))
    if feature.step_start_time is not None:
        message.step_start_time.CopyFrom(timestamp(feature.step_start_time))
    return message


def history_message(entry: HistoryEntry) -> pb.HistoryEntry:
    """An entry of the history."""
    message = pb.HistoryEntry(
        number=entry.number,
        time=timestamp(entry.time),
        feature=entry.feature,
        action=entry.action,
        actor=entry.actor,
        reason=entry.reason,
        old_treatment_ppm=entry.old_treatment_ppm,
        new_treatment_ppm=entry.new_treatment_ppm,
        state=_STATES[entry.state],
        snapshot_version=entry.snapshot_version,
        guardrails=[guardrail_message(row) for row in entry.findings.guardrails],
        arms=[arm_message(arm) for arm in entry.findings.arms],
    )
    if entry.done_time is not None:
        message.done_time.CopyFrom(timestamp(entry.done_time))
    return message


def guardrail_message(row: GuardrailEvidence) -> pb.GuardrailEvidence:
    """What speaks against a feature."""
    return pb.GuardrailEvidence(
        guardrail=_GUARDRAILS[row.guardrail],
        treatment_count=row.treatment_count,
        control_count=row.control_count,
        log_evidence=row.log_evidence,
        log_threshold=row.log_threshold,
        log_non_inferiority=row.log_non_inferiority,
        log_non_inferiority_threshold=row.log_non_inferiority_threshold,
    )


def limit_message(limit: Limit) -> pb.LimitEvidence:
    """What speaks for a hard limit being passed."""
    return pb.LimitEvidence(
        name=limit.name,
        share=limit.share,
        bad_count=limit.bad_count,
        log_evidence=limit.log_evidence,
        log_threshold=LIMIT_THRESHOLD,
    )


def arm_message(summary: ArmSummary) -> pb.ArmTotals:
    """What an arm saw."""
    message = pb.ArmTotals(
        arm=_ARMS[summary.arm],
        request_count=summary.request_count,
        unit_count=summary.unit_count,
        bad_events=[
            pb.BadEventCount(guardrail=_GUARDRAILS[guardrail], event_count=count)
            for guardrail, count in summary.event_counts.items()
        ],
        quality_score=summary.quality_score,
        shadow_overlap=summary.shadow_overlap,
    )
    for name in ("p50", "p95", "p99"):
        if (seconds := getattr(summary, name)) is not None:
            getattr(message, name).CopyFrom(duration(seconds))
    for place, count in enumerate(summary.latency_counts):
        if count:
            bucket = message.latency.add(count=count, lower=duration(EDGES[place - 1] if place else 0.0))
            if place < len(EDGES):
                bucket.upper.CopyFrom(duration(EDGES[place]))
    return message


def gateway_message(gateway: Gateway, *, live: bool) -> pb.Gateway:
    """A gateway and what it serves."""
    return pb.Gateway(
        name=gateway.name,
        version=gateway.version,
        last_seen_time=timestamp(gateway.last_seen_time),
        live=live,
        quarantined=[pb.QuarantinedFeature(name=one.name, reason=one.reason) for one in gateway.quarantined],
        locally_killed=gateway.locally_killed,
    )


def timestamp(seconds: float) -> Timestamp:
    """A moment, from seconds since 1970."""
    message = Timestamp()
    message.FromMicroseconds(round(seconds * 1e6))
    return message


def _snapshot_feature(feature: SnapshotFeature, lease_seconds: float) -> pb.SnapshotFeature:
    message = pb.SnapshotFeature(
        name=feature.name,
        salt=feature.salt,
        overrides=_overrides_message(feature.overrides),
        killed=feature.killed,
        treatment_ppm=feature.treatment_ppm,
        control_ppm=feature.control_ppm,
        ramp_id=feature.ramp_id,
        shadow_ppm=feature.shadow_ppm,
    )
    if feature.leased:
        message.lease_duration.CopyFrom(duration(lease_seconds))
    if feature.latency_threshold is not None:
        message.latency_threshold.CopyFrom(duration(feature.latency_threshold))
    return message


def _overrides_message(overrides: Overrides) -> pb.Overrides:
    return pb.Overrides(**{field.name: getattr(overrides, field.name) for field in fields(overrides)})


def _plan_message(plan: Plan) -> pb.Plan:
    criteria = pb.Criteria()
    for field in fields(plan.criteria):
        value = getattr(plan.criteria, field.name)
        if field.name in ("p95_max", "p99_max"):
            getattr(criteria, field.name).CopyFrom(duration(value))
        elif value is not None:
            setattr(criteria, field.name, value)
    return pb.Plan(
        name=plan.name,
        steps=[
            pb.PlanStep(treatment_ppm=step.treatment_ppm, dwell=duration(step.dwell_seconds), automatic=step.automatic)
            for step in plan.steps
        ],
        criteria=criteria,
        holdback_ppm=plan.holdback_ppm,
        shadow_ppm=plan.shadow_ppm,
    )


def _given(message: Any, kind: type) -> dict[str, Any]:
    """The fields of a message, named as those of a dataclass, that are set."""
    return {field.name: getattr(message, field.name) for field in fields(kind) if message.HasField(field.name)}


def _seconds(message: Duration, where: str) -> float:
    seconds = message.seconds + message.nanos / 1e9
    if not (math.isfinite(seconds) and seconds >= 0):
        raise InvalidArgument(where, "must not be negative")
    return seconds


def _known(numbers: Mapping[EnumT, Any], number: int, where: str) -> EnumT:
    found = next((member for member, value in numbers.items() if value == number), None)
    if found is None:
        raise InvalidArgument(where, f"is unknown ({number})")
    return found
