"""A rollout with two good steps, and one that is taken back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sluice_client import (
    Arm,
    ArmTotals,
    BadEventCount,
    Criteria,
    EvidencePoint,
    Feature,
    Features,
    FeatureState,
    Guardrail,
    GuardrailEvidence,
    HistoryAction,
    HistoryEntry,
    LatencyBucket,
    Plan,
    PlanStep,
    RolloutReport,
    StepReport,
)

START = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
EDGES = [0.001 * 1.1**power for power in range(110)]
PLAN = Plan(
    name="ramp",
    steps=[
        PlanStep(100_000, timedelta(hours=2)),
        PlanStep(500_000, timedelta(hours=24)),
        PlanStep(1_000_000, timedelta(hours=48)),
    ],
    criteria=Criteria(
        error_rate_max=0.02,
        p95_increase_max=0.3,
        p99_increase_max=0.4,
        p95_max=timedelta(seconds=3.5),
        p99_max=timedelta(seconds=5),
    ),
    shadow_ppm=100_000,
)


def histogram(count: int, median: float) -> list[LatencyBucket]:
    """Make a histogram of log-normal latencies around a median in seconds."""

    def below(edge: float) -> float:
        return 0.5 * (1 + math.erf(math.log(edge / median) / 0.45 / math.sqrt(2)))

    edges = [0.0, *EDGES]
    shares = [below(edge) for edge in EDGES]
    counts = [round(count * (high - low)) for low, high in zip([0.0, *shares], shares, strict=False)]
    return [
        LatencyBucket(timedelta(seconds=low), timedelta(seconds=high), one)
        for low, high, one in zip(edges, edges[1:], counts, strict=False)
        if one
    ]


def totals(arm: Arm, count: int, errors: int, median: float) -> ArmTotals:
    """An arm after so many requests."""
    return ArmTotals(
        arm=arm,
        request_count=count,
        unit_count=count // 3,
        bad_events=[BadEventCount(Guardrail.ERRORS, errors), BadEventCount(Guardrail.EMPTY_RESULTS, count // 500)],
        p50=timedelta(seconds=median),
        p95=timedelta(seconds=median * 2.1),
        p99=timedelta(seconds=median * 2.85),
        quality_score=0.71 if arm is Arm.TREATMENT else 0.66,
        shadow_overlap=None,
        latency=histogram(count, median),
    )


def evidence(errors: float) -> list[GuardrailEvidence]:
    """Make evidence, with the given evidence for errors."""
    return [
        GuardrailEvidence(Guardrail.ERRORS, 31, 6, errors, 4.38, 0.4, 4.38),
        GuardrailEvidence(Guardrail.LATENCY, 40, 44, 0.1, 4.38, 3.9, 4.38),
    ]


def entry(
    number: int, minutes: float, action: str, change: tuple[int, int], state: FeatureState, **more: Any
) -> HistoryEntry:
    """Something that happened so many minutes after the start."""
    time = START + timedelta(minutes=minutes)
    given: dict[str, Any] = {"actor": "ann", "reason": "as planned", **more}
    return HistoryEntry(
        number=number,
        time=time,
        feature="rerank",
        action=HistoryAction(action.lower()),
        old_treatment_ppm=change[0],
        new_treatment_ppm=change[1],
        state=state,
        snapshot_version=number,
        done_time=time + timedelta(seconds=0.42) if change[0] != change[1] else None,
        **given,
    )


def points(ramp_id: str, share: int, start: float, end: float, worst: float) -> Sequence[EvidencePoint]:
    """Evidence as it grew."""
    count = 40
    return [
        EvidencePoint(
            time=START + timedelta(minutes=start + (end - start) * place / count),
            ramp_id=ramp_id,
            treatment_ppm=share,
            guardrails=evidence(worst * (place / count) ** 2),
            arms=[
                totals(Arm.TREATMENT, 40 * place, place // 2, 0.13 + 0.02 * math.sin(place)),
                totals(Arm.CONTROL, 40 * place, place // 9, 0.11),
            ],
        )
        for place in range(1, count + 1)
    ]


def rolled_back() -> RolloutReport:
    """Make a feature that was taken back at half of the users."""
    reason = "errors: 31 of 37 users hit are in treatment; evidence 5.10 of 4.38"
    return RolloutReport(
        feature=Feature(
            name="rerank",
            description="A cross-encoder reorders the best 50.",
            salt="rerank",
            features=Features(rerank=True, rerank_candidate_count=50),
            state=FeatureState.ROLLED_BACK,
            treatment_ppm=0,
            plan=PLAN,
            step=2,
            step_start_time=START + timedelta(minutes=125),
            breach_count=2,
            reason=reason,
            ramp_id="r2",
        ),
        history=[
            entry(1, -5, "CREATED", (0, 0), FeatureState.READY),
            entry(2, 0, "STARTED", (0, 100_000), FeatureState.RAMPING, reason="week 2: rerank"),
            entry(3, 125, "PROMOTED", (100_000, 500_000), FeatureState.RAMPING, reason="nothing to complain about"),
            entry(
                4,
                160,
                "HALVED",
                (500_000, 250_000),
                FeatureState.RAMPING,
                actor="sluice",
                reason=reason,
                guardrails=evidence(5.1),
                arms=[totals(Arm.TREATMENT, 1450, 20, 0.14)],
            ),
            entry(
                5,
                175,
                "ROLLED_BACK",
                (250_000, 0),
                FeatureState.ROLLED_BACK,
                actor="sluice",
                reason=reason,
                guardrails=evidence(4.6),
                arms=[totals(Arm.TREATMENT, 612, 14, 0.14)],
            ),
        ],
        steps=[
            StepReport(
                ramp_id=ramp_id,
                treatment_ppm=share,
                start_time=START + timedelta(minutes=start),
                end_time=START + timedelta(minutes=end),
                arms=[totals(Arm.CONTROL, count, 6, 0.11), totals(Arm.TREATMENT, count, errors, 0.131)],
                guardrails=evidence(worst),
            )
            for ramp_id, share, start, end, count, errors, worst in (
                ("r1", 100_000, 0, 125, 4210, 9, 0.3),
                ("r2", 500_000, 125, 160, 1450, 40, 5.1),
                ("r3", 250_000, 160, 175, 612, 24, 4.6),
            )
        ],
        points=[
            *points("r1", 100_000, 0, 125, 0.3),
            *points("r2", 500_000, 125, 160, 5.1),
            *points("r3", 250_000, 160, 175, 4.6),
        ],
    )
