"""Content of the review of an experiment: verdict, question, effects, users and next steps; no layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sluice_cli.calls import words
from sluice_cli.experiment.ladder import Rung, ladder
from sluice_cli.experiment.readings import DECIDES, Reading, Told, metric_words, readings
from sluice_cli.rollout import views
from sluice_client import (
    Experiment,
    ExperimentArmTotals,
    ExperimentFindings,
    ExperimentMethod,
    ExperimentMetric,
    ExperimentReport,
    ExperimentState,
    HistoryEntry,
    RolloutReport,
    Verdict,
)

_MARKS = {
    Told.BETTER: "met",
    Told.NOT_WORSE: "met",
    Told.WORSE: "missed",
    Told.AS_GOOD: "open",
    Told.OPEN: "open",
    Told.TOO_EARLY: "open",
}
_GOOD = {"better", "not worse", "done"}
_BAD = {"worse", "taken back"}
VERDICT_MARKS = {Verdict.SHIP: "met", Verdict.STOP: "missed"}


@dataclass(frozen=True, slots=True)
class ArmRow:
    """One configuration, with its users."""

    name: str
    flags: str
    users: str
    answers: str
    events: str
    failed: str
    p50: str
    p95: str


@dataclass(frozen=True, slots=True)
class EffectRow:
    """One metric of one arm."""

    metric: str
    arm: str
    control_mean: str
    arm_mean: str
    change: str
    interval: str
    users: str
    limit: str
    told: str
    mark: str


@dataclass(frozen=True, slots=True)
class GuardRow:
    """One guardrail that every experiment has."""

    guardrail: str
    arm: str
    arm_users: str
    control_users: str
    evidence: str
    threshold: str
    told: str
    mark: str


@dataclass(frozen=True, slots=True)
class Review:
    """A whole review."""

    title: str
    verdict: str
    verdict_mark: str
    headline: str
    reasons: Sequence[str]
    hypothesis: str
    summary: Sequence[str]
    figures: Sequence[tuple[str, str]]
    arms: Sequence[ArmRow]
    effects: Sequence[EffectRow]
    guards: Sequence[GuardRow]
    ladder: Sequence[tuple[Rung, str]]
    """Steps of the ladder, each with the mark of its verdict."""
    timeline: Sequence[HistoryEntry]
    next_steps: Sequence[str]
    made: str


def review(
    report: ExperimentReport, others: Sequence[Experiment], rollouts: Sequence[RolloutReport], now: datetime
) -> Review:
    """Write the review of an experiment, as far as it has come."""
    experiment, findings = report.experiment, report.newest
    read = readings(experiment, findings)
    return Review(
        title=f"Experiment {experiment.name}",
        verdict=_verdict(experiment),
        verdict_mark=VERDICT_MARKS.get(experiment.verdict or Verdict.GO_ON, "open"),
        headline=headline(experiment, read),
        reasons=experiment.reasons,
        hypothesis=experiment.plan.hypothesis,
        summary=_summary(experiment, now),
        figures=_figures(experiment, findings, read, now),
        arms=_arms(experiment, findings),
        effects=[_effect(one) for one in read],
        guards=_guards(findings),
        ladder=[(rung, _mark(rung.verdict)) for rung in ladder(report, others, rollouts)],
        timeline=report.history,
        next_steps=_next_steps(experiment, read, rollouts),
        made=views.clock(now),
    )


def headline(experiment: Experiment, read: Sequence[Reading]) -> str:
    """Say in a line what the experiment came to."""
    control = experiment.plan.arms[0].name
    arm = experiment.arm or (experiment.plan.arms[1].name if len(experiment.plan.arms) == 2 else "")
    decides = next((one for one in read if one.role == DECIDES and one.finding.arm == arm), None)
    known = decides is not None and bool(decides.interval)
    said = f" {_effect_words(decides, arm, control)}" if decides is not None and known else ""
    if experiment.state is ExperimentState.READY:
        return "It has not been started: no user has seen it."
    if experiment.verdict is Verdict.STOP and not experiment.arm:
        return f"Keep {control}: the arms cannot be compared."
    return f"{_conclusion(experiment, decides, arm, control)}{said}"


def _conclusion(experiment: Experiment, decides: Reading | None, arm: str, control: str) -> str:
    told = decides.told if decides is not None else Told.OPEN
    match experiment.verdict:
        case Verdict.SHIP:
            return f"Ship {arm}."
        case Verdict.STOP:
            return f"Keep {control}, not {arm}{'' if told is Told.WORSE else ': it hurts'}."
        case Verdict.INCONCLUSIVE if told is Told.AS_GOOD:
            return "A difference that matters is excluded."
    ended = experiment.state is ExperimentState.ENDED
    return "It was ended before it was decided." if ended else "Not decided yet."


def _effect_words(decides: Reading, arm: str, control: str) -> str:
    change = f"{decides.change} (between {decides.interval.replace(' to ', ' and ')})"
    if decides.finding.metric is ExperimentMetric.PREFERENCE:
        return f"The preference of users for {arm} over {control} is {change}."
    return f"{metric_words(decides.finding.metric).capitalize()} of {arm} against {control}: {change}."


def _verdict(experiment: Experiment) -> str:
    if experiment.state is ExperimentState.READY:
        return "not started"
    return words(experiment.verdict or Verdict.GO_ON)


def _summary(experiment: Experiment, now: datetime) -> list[str]:
    plan = experiment.plan
    control, *arms = [arm.name for arm in plan.arms]
    others = " and ".join(arms)
    if plan.method is ExperimentMethod.INTERLEAVE:
        how = f"Each user of the experiment saw results of {control} and of {others} in one answer, taking turns."
    else:
        how = f"Each user of the experiment had one configuration all the time: {control}, or {others}."
    paragraphs = [how]
    if experiment.start_time is not None:
        ended = f"until {views.clock(experiment.end_time)}" if experiment.end_time else "and it still runs"
        lasted = views.span((experiment.end_time or now) - experiment.start_time)
        share = views.percent(plan.share_ppm)
        layer = plan.layer or "default"
        paragraphs.append(
            f"{share} of all users were in it (layer {layer}) from {views.clock(experiment.start_time)} {ended}: "
            f"{lasted}."
        )
    matters = f"{plan.minimum_effect * 100:.3g} %"
    what = "A preference" if plan.method is ExperimentMethod.INTERLEAVE else f"A change of {metric_words(plan.primary)}"
    alpha = 0.05 if plan.alpha is None else plan.alpha
    paragraphs.append(
        f"{what} of {matters} or more was said to matter before it began. A false verdict has a probability of at most "
        f"{alpha * 100:.3g} %, however often one looked."
    )
    return paragraphs


def _figures(
    experiment: Experiment, findings: ExperimentFindings | None, read: Sequence[Reading], now: datetime
) -> list[tuple[str, str]]:
    arms = findings.arms if findings else ()
    lasted = "-"
    if experiment.start_time is not None:
        lasted = views.span((experiment.end_time or now) - experiment.start_time)
    decides = next((one for one in read if one.role == DECIDES), None)
    return [
        ("Users", f"{sum(arm.user_count for arm in arms):,}"),
        ("Answers", f"{sum(arm.impression_count for arm in arms):,}"),
        ("Clicks, citations, ratings, labels", f"{sum(arm.event_count for arm in arms):,}"),
        ("Time", lasted),
        (metric_words(experiment.plan.primary).capitalize(), decides.change if decides else "-"),
    ]


def _arms(experiment: Experiment, findings: ExperimentFindings | None) -> list[ArmRow]:
    totals = {arm.arm: arm for arm in findings.arms} if findings else {}
    # An interleaved answer is of both arms, and so are its totals.
    rows = [
        _arm(arm.name, views.flags_words(arm.features) if arm.features else "", totals.pop(arm.name, None))
        for arm in experiment.plan.arms
    ]
    return [*rows, *(_arm("both", "results of both in one answer", one) for one in totals.values())]


def _arm(name: str, flags: str, totals: ExperimentArmTotals | None) -> ArmRow:
    if totals is None:
        return ArmRow(name, flags or "nothing: as users have it now", "", "", "", "", "", "")
    failed = views.share_of(totals.failed_count, totals.impression_count)
    if totals.one_arm_count:
        failed += f"; {views.share_of(totals.one_arm_count, totals.impression_count)} of one arm alone"
    return ArmRow(
        name,
        flags or "nothing: as users have it now",
        f"{totals.user_count:,}",
        f"{totals.impression_count:,}",
        f"{totals.event_count:,}",
        failed,
        views.milliseconds(totals.p50),
        views.milliseconds(totals.p95),
    )


def _effect(one: Reading) -> EffectRow:
    return EffectRow(
        metric=metric_words(one.finding.metric),
        arm=one.finding.arm,
        control_mean=one.control or "-",
        arm_mean=one.arm,
        change=one.change,
        interval=one.interval,
        users=f"{one.finding.user_count:,}",
        limit=one.limit_words,
        told=one.told,
        mark=_MARKS[one.told] if one.role else "",
    )


def _guards(findings: ExperimentFindings | None) -> list[GuardRow]:
    if findings is None:
        return []
    rows = [
        GuardRow(
            guardrail=words(row.evidence.guardrail),
            arm=row.arm,
            arm_users=f"{row.evidence.treatment_count:,}",
            control_users=f"{row.evidence.control_count:,}",
            evidence=f"{row.evidence.log_evidence:.1f}",
            threshold=f"{row.evidence.log_threshold:.1f}",
            told="broken" if row.evidence.breached else "holds",
            mark="missed" if row.evidence.breached else "met",
        )
        for row in findings.guardrails
    ]
    if findings.log_mismatch_threshold > 0:
        broken = findings.log_mismatch >= findings.log_mismatch_threshold
        rows.append(
            GuardRow(
                "users in each arm",
                "",
                "",
                "",
                f"{findings.log_mismatch:.1f}",
                f"{findings.log_mismatch_threshold:.1f}",
                "broken" if broken else "holds",
                "missed" if broken else "met",
            )
        )
    return rows


def _mark(verdict: str) -> str:
    return "met" if verdict in _GOOD else "missed" if verdict in _BAD else "open" if verdict != "not done" else "dim"


def _next_steps(experiment: Experiment, read: Sequence[Reading], rollouts: Sequence[RolloutReport]) -> list[str]:
    name, plan = experiment.name, experiment.plan
    interleaved = plan.method is ExperimentMethod.INTERLEAVE
    if experiment.state is ExperimentState.READY:
        return [f"sluice experiment start {name} --reason ... begins it."]
    if experiment.state is ExperimentState.RUNNING:
        return [
            "It ends by itself when it is decided, or when its time is over.",
            f"sluice experiment status {name} shows it as it goes; sluice experiment stop {name} ends it.",
        ]
    match experiment.verdict:
        case Verdict.SHIP:
            steps = [
                f"Bring {experiment.arm} to all users in steps, with its flags in a rollout plan: sluice rollout start "
                "..."
            ]
            if interleaved:
                steps.insert(0, "Where latency or cost matter, measure them first: sluice experiment template ab.")
            return steps if not rollouts else ["It is on its way already: see the last step of the ladder."]
        case Verdict.STOP:
            return ["The users have the standard again. Find the cause before another try, and give that a new name."]
        case Verdict.INCONCLUSIVE if any(one.role == DECIDES and one.told is Told.AS_GOOD for one in read):
            return [
                "Keep the simpler configuration; or say what a smaller effect is worth, and ask how many users that "
                "takes: sluice experiment plan.",
            ]
    return [
        "It was not decided: there were too few users, or too little time. sluice experiment plan says how many it "
        f"takes; sluice experiment start {name} --reason ... begins a new run, with new evidence.",
    ]
