"""The ladder of a change: what each step on the way to all users came to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sluice_cli.calls import words
from sluice_cli.rollout import views
from sluice_client import (
    Arm,
    AttachedEvidence,
    Experiment,
    ExperimentMethod,
    ExperimentReport,
    ExperimentState,
    FeatureState,
    Guardrail,
    LadderStep,
    RolloutReport,
    Verdict,
)

NOT_DONE = "not done"
_METHODS = {ExperimentMethod.INTERLEAVE: "interleave", ExperimentMethod.AB: "A/B"}
_RAMPED = {
    FeatureState.COMPLETE: "done",
    FeatureState.ROLLED_BACK: "taken back",
    FeatureState.KILLED: "taken back",
    FeatureState.RAMPING: "going on",
    FeatureState.HELD: "going on",
}
_VERDICTS = {
    Verdict.SHIP: "better",
    Verdict.STOP: "worse",
    Verdict.INCONCLUSIVE: "as good, or open",
    Verdict.GO_ON: "going on",
}
_UNDER_WAY = {FeatureState.RAMPING, FeatureState.HELD}


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of the ladder."""

    step: str
    time: datetime | None
    evidence: str
    """One line."""
    verdict: str
    """"better", "worse", "open", "not done" or the like."""
    explained: str
    """Purpose of the step."""


def ladder(report: ExperimentReport, others: Sequence[Experiment], rollouts: Sequence[RolloutReport]) -> list[Rung]:
    """Climb the ladder of a change: offline, replay, shadow, experiments, ramp.

    `others` are the experiments that compare the same flags, `rollouts` those of features that set them.
    """
    tried = sorted([report.experiment, *others], key=lambda one: (one.plan.method is ExperimentMethod.AB, one.name))
    interleaved = [one for one in tried if one.plan.method is ExperimentMethod.INTERLEAVE]
    compared = [one for one in tried if one.plan.method is ExperimentMethod.AB]
    return [
        _attached(LadderStep.OFFLINE, report.attached, "judged results of known questions; no user is involved"),
        _attached(LadderStep.REPLAY, report.attached, "recorded questions asked again, on spare capacity"),
        _shadow(rollouts),
        *_experiments("interleave", interleaved, "both configurations in one answer: which one people prefer"),
        *_experiments("A/B", compared, "each user has one configuration: by how much it changes what they do"),
        *_ramps(rollouts),
    ]


def same_change(experiment: Experiment, other: Experiment) -> bool:
    """True if another experiment compares some of the same flags."""
    ours = [arm.features for arm in experiment.plan.arms[1:]]
    return other.name != experiment.name and any(arm.features in ours for arm in other.plan.arms[1:])


def _attached(step: LadderStep, attached: Iterable[AttachedEvidence], explained: str) -> Rung:
    for evidence in attached:
        if evidence.step is step:
            return Rung(step, evidence.time, evidence.summary, verdict_of(evidence.result_json), explained)
    return Rung(step, None, "", NOT_DONE, explained)


def verdict_of(result_json: str) -> str:
    """Read the verdict of attached evidence; "open" where it has none."""
    try:
        found: Any = json.loads(result_json)
    except ValueError:
        return "open"
    verdict = found.get("verdict") if isinstance(found, dict) else None
    return words(verdict) if isinstance(verdict, str) and verdict else "open"


def _shadow(rollouts: Sequence[RolloutReport]) -> Rung:
    explained = "answered beside the users' answers, unseen"
    for rollout in rollouts:
        for step in reversed(rollout.steps):
            quality = next((one for one in step.guardrails if one.guardrail is Guardrail.QUALITY), None)
            overlaps = [one.shadow_overlap for one in step.arms if one.shadow_overlap is not None]
            scores = {one.arm: one.quality_score for one in step.arms if one.quality_score is not None}
            if not overlaps and len(scores) < 2:
                continue
            told = []
            if len(scores) > 1:
                told.append(f"quality {scores[Arm.TREATMENT]:.3f} against {scores[Arm.CONTROL]:.3f}")
            if overlaps:
                told.append(f"{overlaps[0] * 100:.0f} % of the first results are the same")
            verdict = "open"
            if quality is not None and quality.breached:
                verdict = "worse"
            elif quality is not None and quality.shown:
                verdict = "not worse"
            return Rung(LadderStep.SHADOW, step.start_time, "; ".join(told), verdict, explained)
    return Rung(LadderStep.SHADOW, None, "", NOT_DONE, explained)


def _experiments(step: str, found: Sequence[Experiment], explained: str) -> list[Rung]:
    return [_experiment(step, one, explained) for one in found] or [Rung(step, None, "", NOT_DONE, explained)]


def _experiment(step: str, experiment: Experiment, explained: str) -> Rung:
    if experiment.state is ExperimentState.READY:
        return Rung(step, None, f"{experiment.name}: stored, not started", NOT_DONE, explained)
    reasons = "; ".join(experiment.reasons) or "no findings yet"
    verdict = _VERDICTS.get(experiment.verdict or Verdict.GO_ON, "open")
    if experiment.state is ExperimentState.ENDED and verdict == "going on":
        verdict = "stopped early"
    return Rung(step, experiment.start_time, f"{experiment.name}: {reasons}", verdict, explained)


def _ramps(rollouts: Sequence[RolloutReport]) -> list[Rung]:
    explained = "all users, in steps; taken back by itself where it hurts"
    rungs = []
    for rollout in rollouts:
        feature = rollout.feature
        if feature.state is FeatureState.READY:
            continue
        reached = max((entry.new_treatment_ppm for entry in rollout.history), default=feature.treatment_ppm)
        told = f"{feature.name}: {words(feature.state)}, reached {views.percent(reached)} of the users"
        if feature.reason and feature.state not in _UNDER_WAY:
            told += f" ({feature.reason})"
        started = rollout.steps[0].start_time if rollout.steps else None
        rungs.append(Rung(LadderStep.RAMP, started, told, _RAMPED.get(feature.state, "open"), explained))
    return rungs or [Rung(LadderStep.RAMP, None, "", NOT_DONE, explained)]
