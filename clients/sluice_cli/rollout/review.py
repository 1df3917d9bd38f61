"""Content of a review: summary, decisions, comparisons and incidents; no layout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sluice_cli.rollout import views
from sluice_client import (
    Arm,
    ArmTotals,
    Criteria,
    FeatureState,
    Guardrail,
    GuardrailEvidence,
    HistoryAction,
    HistoryEntry,
    LatencyBucket,
    RolloutReport,
    StepReport,
)
from sluice_statistics.intervals import Estimate, Histogram, difference, rate

MET, MISSED, OPEN, NOT_ASKED = "met", "missed", "open", ""
TAKEN_BACK = {
    HistoryAction.HALVED: "Halved",
    HistoryAction.ROLLED_BACK: "Rolled back",
    HistoryAction.KILLED: "Killed",
}
"""Actions that take a feature back from users, in words."""
_HOW = {HistoryAction.HALVED: "from half of its users", HistoryAction.KILLED: "and switched it off"}
_SERVICE = "sluice"
_HEADLINES = {
    FeatureState.READY: "not started",
    FeatureState.RAMPING: "on its way",
    FeatureState.HELD: "held",
    FeatureState.COMPLETE: "complete",
    FeatureState.ROLLED_BACK: "rolled back",
    FeatureState.KILLED: "killed",
    FeatureState.UNKNOWN: "in a state that this release does not know",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure of both arms, in words with intervals."""

    measure: str
    control: str
    treatment: str
    difference: str
    allowed: str
    verdict: str
    """MET or MISSED if the whole interval is on that side of the limit, OPEN if it is on both."""


@dataclass(frozen=True, slots=True)
class StepReview:
    """One step: its users, and the comparison of the arms."""

    share: str
    started: str
    lasted: str
    requests: str
    users: str
    comparisons: Sequence[Comparison]
    guardrails: Sequence[GuardrailEvidence]


@dataclass(frozen=True, slots=True)
class Incident:
    """An event that took the feature back."""

    what: str
    when: str
    why: str
    treated_requests: str
    """Requests that treatment had answered in this step until the decision."""
    exposed: str
    """Time that the step had run."""
    until_done: str
    """Seconds from the decision until all gateways served it."""
    guardrails: Sequence[GuardrailEvidence]


@dataclass(frozen=True, slots=True)
class Review:
    """A whole review."""

    title: str
    summary: Sequence[str]
    figures: Sequence[tuple[str, str]]
    timeline: Sequence[HistoryEntry]
    steps: Sequence[StepReview]
    incidents: Sequence[Incident]
    next_steps: Sequence[str]
    made: str


def review(report: RolloutReport, now: datetime) -> Review:
    """Write the review of a rollout, as far as it has come."""
    feature, history = report.feature, report.history
    incidents = [_incident(report, entry) for entry in history if entry.action in TAKEN_BACK]
    most = max((entry.new_treatment_ppm for entry in history), default=0)
    treated = [totals for step in report.steps for totals in step.arms if totals.arm is Arm.TREATMENT]
    steps = [_step(step, feature.plan.criteria if feature.plan else Criteria(), now) for step in report.steps]
    done = [(entry.done_time - entry.time).total_seconds() for entry in _taken_back(history) if entry.done_time]
    return Review(
        title=f"Rollout of {feature.name}: {_HEADLINES[feature.state]}",
        summary=_summary(report, most),
        figures=[
            ("Most users reached", views.percent(most)),
            ("Requests with the feature", f"{sum(totals.request_count for totals in treated):,}"),
            ("Steps", str(len(report.steps))),
            ("Times taken back", str(len(incidents))),
            ("Slowest return to all gateways", f"{max(done):.2f} s" if done else "-"),
        ],
        timeline=history,
        steps=steps,
        incidents=incidents,
        next_steps=_next_steps(report),
        made=views.clock(now),
    )


def _summary(report: RolloutReport, most: int) -> list[str]:
    feature, history = report.feature, report.history
    flags = views.flags_words(feature.features) or "nothing"
    paragraphs = [f"{feature.name} sets {flags}. {feature.description}".strip()]
    starts = [entry for entry in history if entry.action is HistoryAction.STARTED]
    if not starts:
        return [*paragraphs, "It has never been started: no user has had it."]
    plan = f" by the plan {feature.plan.name} ({_plan_words(report)})" if feature.plan else ""
    paragraphs.append(
        f"{starts[-1].actor} put it on its way on {views.clock(starts[-1].time)}{plan}; the reason given: "
        f"{starts[-1].reason.rstrip('.') or 'none'}. It reached at most {views.percent(most)} of the users, and "
        f"reaches {views.percent(feature.treatment_ppm)} now."
    )
    for entry in _taken_back(history):
        who = "Sluice took it back by itself" if entry.actor == _SERVICE else f"{entry.actor} took it back"
        how = _HOW.get(entry.action, "")
        served = (
            ""
            if entry.done_time is None
            else f" All gateways served that {_between(entry.time, entry.done_time)} later."
        )
        paragraphs.append(
            f"{who}{f' {how}' if how else ''} on {views.clock(entry.time)} "
            f"({views.percent(entry.old_treatment_ppm)} to {views.percent(entry.new_treatment_ppm)}): "
            f"{entry.reason.rstrip('.') or 'no reason was given'}.{served}"
        )
    if not _taken_back(history):
        paragraphs.append("Nothing had to be taken back.")
    return paragraphs


def _plan_words(report: RolloutReport) -> str:
    plan = report.feature.plan
    assert plan is not None  # noqa: S101  # asked before
    return ", ".join(f"{views.percent(step.treatment_ppm)} for {views.span(step.dwell)}" for step in plan.steps)


def _taken_back(history: Sequence[HistoryEntry]) -> list[HistoryEntry]:
    return [entry for entry in history if entry.action in TAKEN_BACK]


def _between(start: datetime, end: datetime) -> str:
    return f"{(end - start).total_seconds():.2f} s"


def _incident(report: RolloutReport, entry: HistoryEntry) -> Incident:
    step = next((step for step in reversed(report.steps) if step.start_time < entry.time), None)
    treated = [totals.request_count for totals in entry.arms if totals.arm is Arm.TREATMENT]
    if not treated and step is not None:
        treated = [totals.request_count for totals in step.arms if totals.arm is Arm.TREATMENT]
    who = "by itself" if entry.actor == _SERVICE else f"by {entry.actor}"
    what = TAKEN_BACK[entry.action]
    return Incident(
        what=f"{what} {who}, {views.percent(entry.old_treatment_ppm)} to {views.percent(entry.new_treatment_ppm)}",
        when=views.clock(entry.time),
        why=entry.reason,
        treated_requests=f"{sum(treated):,}",
        exposed="-" if step is None else views.span(entry.time - step.start_time),
        until_done="not yet" if entry.done_time is None else _between(entry.time, entry.done_time),
        guardrails=[evidence for evidence in entry.guardrails if evidence.breached] or list(entry.guardrails),
    )


def _step(step: StepReport, criteria: Criteria, now: datetime) -> StepReview:
    arms = {totals.arm: totals for totals in step.arms}
    treatment, control = arms.get(Arm.TREATMENT), arms.get(Arm.CONTROL)
    both = [totals for totals in (control, treatment) if totals is not None]
    return StepReview(
        share=views.percent(step.treatment_ppm),
        started=views.clock(step.start_time),
        lasted=views.span((step.end_time or now) - step.start_time),
        requests=" and ".join(f"{totals.request_count:,} in {totals.arm}" for totals in both) or "none",
        users=" and ".join(f"{totals.unit_count:,} in {totals.arm}" for totals in both) or "none",
        comparisons=_comparisons(treatment, control, criteria) if treatment else [],
        guardrails=step.guardrails,
    )


def _comparisons(treatment: ArmTotals, control: ArmTotals | None, criteria: Criteria) -> list[Comparison]:
    found = [
        _rates("Failed requests", Guardrail.ERRORS, treatment, control, criteria.error_rate_max),
        _rates(
            "Answers without the feature",
            Guardrail.EXPOSURE,
            treatment,
            control,
            criteria.exposure_failure_rate_max,
        ),
        _rates("Answers without a result", Guardrail.EMPTY_RESULTS, treatment, control, None),
    ]
    ours, theirs = histogram(treatment.latency, 1), histogram(control.latency, 2) if control else None
    named: tuple[tuple[str, float, timedelta | None, float | None], ...] = (
        ("P50", 50, None, None),
        ("P95", 95, criteria.p95_max, criteria.p95_increase_max),
        ("P99", 99, criteria.p99_max, criteria.p99_increase_max),
    )
    for name, percent, most, most_increase in named:
        plain = (
            getattr(treatment, name.lower()),
            getattr(control, name.lower()) if control else None,
        )
        found.append(_percentiles(name, percent, (ours, theirs), plain, (most, most_increase)))
    found.append(_quality(treatment, control, criteria.quality_score_min))
    return found


def _rates(
    measure: str, guardrail: Guardrail, treatment: ArmTotals, control: ArmTotals | None, most: float | None
) -> Comparison:
    ours = rate(treatment.bad_event_count(guardrail), treatment.request_count)
    theirs = rate(control.bad_event_count(guardrail), control.request_count) if control else None
    between = difference(ours, theirs) if ours and theirs else None
    return Comparison(
        measure=measure,
        control=_shown(theirs, 100, " %"),
        treatment=_shown(ours, 100, " %"),
        difference=_shown(between, 100, " points", sign=True),
        allowed="" if most is None else f"at most {most * 100:.3g} %",
        verdict=_verdict(ours, most),
    )


def histogram(buckets: Sequence[LatencyBucket], seed: int) -> Histogram | None:
    """Make a histogram of latencies in seconds; None without any."""
    if not any(bucket.count for bucket in buckets):
        return None
    lowers = [bucket.lower.total_seconds() for bucket in buckets]
    uppers = [math.inf if bucket.upper is None else bucket.upper.total_seconds() for bucket in buckets]
    return Histogram([bucket.count for bucket in buckets], lowers, uppers, seed)


def _percentiles(
    name: str,
    percent: float,
    histograms: tuple[Histogram | None, Histogram | None],
    plain: tuple[timedelta | None, timedelta | None],
    allowed: tuple[timedelta | None, float | None],
) -> Comparison:
    told = [histogram if histogram and histogram.tells(percent) else None for histogram in histograms]
    ours, theirs = (histogram.percentile(percent) if histogram else None for histogram in told)
    increase = told[0].increase(told[1], percent) if told[0] and told[1] else None
    most = None if allowed[0] is None else allowed[0].total_seconds()
    words = [
        f"at most {most:.3g} s" if most is not None else "",
        f"at most {allowed[1] * 100:.3g} % over control" if allowed[1] is not None else "",
    ]
    verdicts = [_verdict(ours, most), _verdict(increase, allowed[1])]
    return Comparison(
        measure=f"{name} of latency",
        control=_shown(theirs, 1000, " ms") if theirs else views.milliseconds(plain[1]),
        treatment=_shown(ours, 1000, " ms") if ours else views.milliseconds(plain[0]),
        difference=_shown(increase, 100, " %", sign=True),
        allowed="; ".join(word for word in words if word),
        verdict=next((verdict for verdict in (MISSED, OPEN, MET) if verdict in verdicts), NOT_ASKED),
    )


def _quality(treatment: ArmTotals, control: ArmTotals | None, least: float | None) -> Comparison:
    ours, theirs = treatment.quality_score, control.quality_score if control else None
    verdict = NOT_ASKED
    if least is not None:
        verdict = OPEN if ours is None else MET if ours >= least else MISSED
    return Comparison(
        measure="Mean quality score",
        control="-" if theirs is None else f"{theirs:.3f}",
        treatment="-" if ours is None else f"{ours:.3f}",
        difference="-" if ours is None or theirs is None else f"{ours - theirs:+.3f}",
        allowed="" if least is None else f"at least {least:.3g}",
        verdict=verdict,
    )


def _verdict(found: Estimate | None, most: float | None) -> str:
    if most is None:
        return NOT_ASKED
    if found is None:
        return OPEN
    return MET if found.high <= most else MISSED if found.low > most else OPEN


def _shown(found: Estimate | None, scale: float, unit: str, *, sign: bool = False) -> str:
    if found is None:
        return "-"
    value, low, high = (number * scale for number in (found.value, found.low, found.high))
    digits = 0 if unit == " ms" and abs(value) >= 100 else 1 if unit in {" ms", " %"} and abs(value) >= 10 else 2
    plus = "+" if sign else ""
    return f"{value:{plus},.{digits}f}{unit} ({low:{plus},.{digits}f} to {high:{plus},.{digits}f})"


def _next_steps(report: RolloutReport) -> list[str]:
    feature = report.feature
    name = feature.name
    match feature.state:
        case FeatureState.ROLLED_BACK | FeatureState.KILLED:
            return [
                "Find the cause; the requests are in the traces with sluice.rollout.arms = "
                f'"{name}=treatment" in the time above.',
                f"Only a person can let it start again: sluice rollout rearm {name} --reason ...",
            ]
        case FeatureState.HELD:
            return [f"It waits for a person: sluice rollout promote {name}, or sluice rollout rollback {name}."]
        case FeatureState.RAMPING:
            return [
                f"It is still on its way; this review is of what has been. sluice rollout status {name} shows more."
            ]
        case FeatureState.COMPLETE:
            return ["It reaches all users. Make it the default of the gateways' profiles once it is sure to stay."]
        case _:
            return []


def exposure_of(history: Sequence[HistoryEntry]) -> tuple[list[datetime], list[float]]:
    """Share of users over time, in percent, as corners of a staircase."""
    times: list[datetime] = []
    shares: list[float] = []
    for entry in history:
        if entry.old_treatment_ppm != entry.new_treatment_ppm:
            times += [entry.time, entry.time]
            shares += [entry.old_treatment_ppm / 10_000, entry.new_treatment_ppm / 10_000]
    if times:
        margin = max(timedelta(seconds=1), (times[-1] - times[0]) / 20)
        times = [times[0] - margin, *times, times[-1] + margin]
        shares = [shares[0], *shares, shares[-1]]
    return times, shares
