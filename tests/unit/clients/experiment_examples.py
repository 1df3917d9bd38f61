"""Experiments of all kinds and verdicts, made up after the figures of real ones."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sluice_client import (
    Arm,
    ArmGuardrail,
    AttachedEvidence,
    Experiment,
    ExperimentArm,
    ExperimentArmTotals,
    ExperimentFindings,
    ExperimentMethod,
    ExperimentMetric,
    ExperimentPlan,
    ExperimentReport,
    ExperimentState,
    Features,
    FeatureState,
    Guardrail,
    GuardrailEvidence,
    HistoryAction,
    HistoryEntry,
    LadderStep,
    MetricFinding,
    MetricGuardrail,
    RolloutReport,
    StepReport,
    Verdict,
)
from tests.unit.clients.rollout_examples import rolled_back, totals

START = datetime(2026, 11, 9, 9, 0, tzinfo=UTC)
END = START + timedelta(days=11, hours=5)
RERANK = Features(rerank=True, rerank_candidate_count=50)
ARMS = (ExperimentArm("standard", Features()), ExperimentArm("rerank", RERANK))
INTERLEAVED = ExperimentPlan(
    name="closer-look",
    method=ExperimentMethod.INTERLEAVE,
    arms=ARMS,
    share_ppm=100_000,
    minimum_effect=0.05,
    hypothesis="People open results earlier when a cross-encoder reorders the best 50, because names no longer win by "
    "chance.",
    layer="default",
    primary_metric=ExperimentMetric.PREFERENCE,
    horizon=timedelta(days=14),
    alpha=0.05,
)
COMPARED = ExperimentPlan(
    name="closer-look-ab",
    method=ExperimentMethod.AB,
    arms=ARMS,
    share_ppm=200_000,
    minimum_effect=0.02,
    hypothesis="The first useful result is higher when a cross-encoder reorders the best 50, and people do wait.",
    layer="default",
    primary_metric=ExperimentMetric.RECIPROCAL_RANK,
    guardrails=(
        MetricGuardrail(ExperimentMetric.LATENCY, 0.5),
        MetricGuardrail(ExperimentMetric.ABANDONMENT, 0.02),
    ),
    horizon=timedelta(days=28),
    alpha=0.05,
    history=timedelta(days=7),
)
# Control's mean, standard deviation over users, share of users that count.
METRICS = {
    ExperimentMetric.RECIPROCAL_RANK: (0.412, 0.27, 1.0),
    ExperimentMetric.CLICK_RATE: (0.583, 0.31, 1.0),
    ExperimentMetric.CITATION_RATE: (0.081, 0.16, 1.0),
    ExperimentMetric.SATISFACTION: (0.664, 0.29, 0.12),
    ExperimentMetric.ABANDONMENT: (0.392, 0.32, 1.0),
    ExperimentMetric.LATENCY: (0.094, 0.031, 1.0),
    ExperimentMetric.COST: (11.0, 2.4, 1.0),
}
EFFECTS = {
    ExperimentMetric.RECIPROCAL_RANK: 0.061,
    ExperimentMetric.CLICK_RATE: 0.022,
    ExperimentMetric.CITATION_RATE: 0.03,
    ExperimentMetric.SATISFACTION: 0.035,
    ExperimentMetric.ABANDONMENT: -0.021,
    ExperimentMetric.LATENCY: 0.31,
    ExperimentMetric.COST: 8.9,
}
REASONS = {
    Verdict.SHIP: ["rerank is better in {metric}: {change}, and no guardrail is broken"],
    Verdict.STOP: ["rerank is worse in {metric}"],
    Verdict.INCONCLUSIVE: ["a change of {metric} that matters is excluded"],
    Verdict.GO_ON: ["{metric} is not decided yet"],
}


def width(users: float) -> float:
    """Standard errors between an estimate and its bounds, as confidence sequences have them."""
    time = users / 900
    return math.sqrt((time + 1) / time * math.log((time + 1) / 0.0025))


def finding(metric: ExperimentMetric, users: int, effect: float, wobble: float) -> MetricFinding:
    """A metric after so many users, of which the true effect is a share of control's mean."""
    mean, deviation, share = METRICS[metric]
    counted = int(users * share)
    error = 2 * deviation / math.sqrt(max(counted, 1))
    difference = effect * mean + wobble * error
    half = width(counted) * error if counted >= 100 else math.inf
    return MetricFinding(
        metric=metric,
        arm="rerank",
        control_mean=mean,
        arm_mean=mean + difference,
        difference=difference,
        lower=difference - half,
        upper=difference + half,
        user_count=counted,
        variance_reduction=0.18,
    )


def preference(users: int, effect: float, wobble: float) -> MetricFinding:
    """The preference after so many users."""
    counted = int(users * 0.71)
    error = 0.62 / math.sqrt(max(counted, 1))
    half = width(counted) * error if counted >= 50 else math.inf
    value = effect + wobble * error
    return MetricFinding(
        ExperimentMetric.PREFERENCE, "rerank", 0.0, value, value, value - half, value + half, counted, 0
    )


def guardrails(users: int, errors: float = 0.3, slow: float = 0.9) -> list[ArmGuardrail]:
    """Evidence of the guardrails that every experiment has."""
    return [
        ArmGuardrail("rerank", GuardrailEvidence(rail, int(users * rate), int(users * rate * 0.95), log, 4.4, 0, 0))
        for rail, rate, log in (
            (Guardrail.ERRORS, 0.004, errors),
            (Guardrail.EMPTY_RESULTS, 0.011, -0.1),
            (Guardrail.LATENCY, 0.02, slow),
        )
    ]


def arm_totals(
    arm: str, users: int, seconds: float, answers_each: float = 4.3, one_arm: int = 0
) -> ExperimentArmTotals:
    """An arm after so many users."""
    answers = int(users * answers_each)
    return ExperimentArmTotals(
        arm=arm,
        user_count=users,
        impression_count=answers,
        event_count=int(answers * 0.78),
        failed_count=answers // 900,
        one_arm_count=one_arm,
        p50=timedelta(seconds=seconds),
        p95=timedelta(seconds=seconds * 2.3),
    )


def points(plan: ExperimentPlan, users: int, scale: float, count: int = 120) -> Sequence[ExperimentFindings]:
    """Findings as they grew; effects are `scale` times the usual ones."""
    made = []
    for place in range(1, count + 1):
        part = place / count
        # Most users come in the first days; the estimates settle as they come.
        now = int(users * (1 - math.exp(-2.2 * part)) / (1 - math.exp(-2.2)))
        wobble = 0.9 * math.sin(5.1 * math.log(now + 1)) * (1 - 0.6 * part)
        if plan.method is ExperimentMethod.INTERLEAVE:
            arms = [arm_totals("", now, 0.128, one_arm=now // 300)]
            metrics = [preference(now, 0.118 * scale, wobble)]
            rails: list[ArmGuardrail] = guardrails(now)
        else:
            arms = [arm_totals("standard", now // 2 + 7, 0.081), arm_totals("rerank", now // 2 - 7, 0.107)]
            metrics = [
                finding(
                    metric,
                    now,
                    effect * (scale if metric not in {ExperimentMetric.LATENCY, ExperimentMetric.COST} else 1),
                    wobble,
                )
                for metric, effect in EFFECTS.items()
            ]
            rails = guardrails(now)
        made.append(
            ExperimentFindings(
                time=START + (END - START) * part,
                arms=arms,
                metrics=metrics,
                guardrails=rails,
                log_mismatch=-0.4 - 0.2 * math.sin(9 * part),
                log_mismatch_threshold=6.9 if plan.method is ExperimentMethod.AB else 0.0,
                verdict=Verdict.GO_ON,
            )
        )
    return made


def entry(number: int, time: datetime, action: HistoryAction, actor: str, reason: str) -> HistoryEntry:
    """Something that happened to an experiment."""
    return HistoryEntry(
        number=number,
        time=time,
        feature="closer-look",
        action=action,
        actor=actor,
        reason=reason,
        old_treatment_ppm=0 if action is HistoryAction.STARTED else 100_000,
        new_treatment_ppm=100_000 if action is HistoryAction.STARTED else 0,
        state=FeatureState.UNKNOWN,
        snapshot_version=number,
        done_time=time + timedelta(seconds=0.62),
    )


def attached() -> list[AttachedEvidence]:
    """Evidence from before users saw anything."""
    return [
        AttachedEvidence(
            LadderStep.OFFLINE,
            "nDCG@10 0.721 against 0.687 on 300 judged questions: +0.034 (+0.018 to +0.051); 92 wins, 41 losses",
            json.dumps({"step": "offline", "verdict": "better"}),
            START - timedelta(days=6),
        ),
        AttachedEvidence(
            LadderStep.REPLAY,
            "2,000 recorded questions: P95 230 ms against 186 ms, 74 % of the first ten results are the same",
            json.dumps({"step": "replay", "verdict": "open"}),
            START - timedelta(days=4),
        ),
    ]


def ramped() -> RolloutReport:
    """A rollout of the same flags that has reached all users, with pairs of its shadow step."""
    example = rolled_back()
    feature = dataclasses.replace(example.feature, name="closer-look-ramp", state=FeatureState.RAMPING, reason="")
    shadowed = dataclasses.replace(totals(Arm.CONTROL, 4210, 6, 0.11), shadow_overlap=0.74)
    step = StepReport(
        ramp_id="r1",
        treatment_ppm=100_000,
        start_time=END + timedelta(days=1),
        end_time=None,
        arms=[shadowed, totals(Arm.TREATMENT, 4210, 9, 0.131)],
        guardrails=[GuardrailEvidence(Guardrail.QUALITY, 0, 0, 0.1, 4.4, 4.9, 4.4)],
    )
    return dataclasses.replace(example, feature=feature, steps=[step], history=example.history[:2])


def report(plan: ExperimentPlan, verdict: Verdict, *, running: bool = False) -> ExperimentReport:
    """An experiment that came to a verdict."""
    scale = {Verdict.SHIP: 1.0, Verdict.STOP: -1.0, Verdict.INCONCLUSIVE: 0.02, Verdict.GO_ON: 0.4}.get(verdict, 0.4)
    users = {Verdict.SHIP: 4_912, Verdict.STOP: 4_912, Verdict.INCONCLUSIVE: 60_000}.get(verdict, 800)
    if plan.method is ExperimentMethod.AB:
        users *= 9
    found = list(points(plan, users, scale))
    metric = plan.primary.replace("_", " ")
    change = found[-1].of(plan.primary)[0].lower
    reasons = [text.format(metric=metric, change=f"at least {change:+.3f}") for text in REASONS[verdict]]
    found[-1] = dataclasses.replace(found[-1], verdict=verdict, reasons=reasons, arm="rerank")
    history = [
        entry(1, START - timedelta(days=1), HistoryAction.CREATED, "ann", "OPS-71: names win by chance"),
        entry(2, START, HistoryAction.STARTED, "ann", "judged and replayed, nothing speaks against it"),
    ]
    if not running:
        history.append(entry(3, END, HistoryAction.DECIDED, "sluice", "; ".join(reasons)))
    return ExperimentReport(
        experiment=Experiment(
            plan=plan,
            state=ExperimentState.RUNNING if running else ExperimentState.ENDED,
            run_id=f"{plan.name}.1",
            first_bucket=0,
            start_time=START,
            end_time=None if running else END,
            verdict=verdict,
            reasons=reasons,
            arm="rerank" if verdict is not Verdict.GO_ON else "",
        ),
        history=history,
        points=found,
        attached=attached(),
    )


def not_started(plan: ExperimentPlan = INTERLEAVED) -> ExperimentReport:
    """An experiment that is stored, and no more."""
    return ExperimentReport(
        Experiment(plan, ExperimentState.READY, "", 0, None, None, verdict=None, reasons=(), arm="")
    )
