"""Pictures of an experiment: effects with their intervals over time, guardrails, and users."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from sluice_cli.calls import words
from sluice_cli.experiment.readings import DECIDES, GUARDED, Reading, metric_words, readings, relative
from sluice_cli.reviews.pictures import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    RED,
    STYLE,
    WIDTH,
    Plot,
    one_axes,
    plot_of,
    show_evidence,
    show_time,
)
from sluice_client import ExperimentMetric, ExperimentReport, Guardrail, MetricFinding

_ARM_COLOURS = (BLUE, PURPLE, AMBER, GREEN, RED, GREY, "#0a7ea4")
_GUARDRAIL_COLOURS = {Guardrail.ERRORS: RED, Guardrail.LATENCY: AMBER, Guardrail.EMPTY_RESULTS: PURPLE}
_SETTLED = 0.3  # of the points: earlier intervals are so wide that they would flatten all else


def plots(report: ExperimentReport) -> list[Plot]:
    """Draw all pictures; one without data is left out."""
    with mpl.rc_context(STYLE):
        made = [_effect(report), _others(report), _users(report), _guardrails(report)]
    return [plot for plot in made if plot is not None]


def _effect(report: ExperimentReport) -> Plot | None:
    deciding = [one for one in readings(report.experiment, report.newest) if one.role == DECIDES]
    if not deciding:
        return None
    figure, axes = one_axes(3.4)
    if not _draw(axes, report, deciding):
        return None
    metric = deciding[0].finding.metric
    _name_sides(axes, less_is_better=metric.less_is_better)
    for one in deciding:
        axes.annotate(
            f"{one.finding.arm}\n{one.change}\n{one.interval.replace(' to ', chr(10) + 'to ')}",
            (1.0, relative(one.finding, one.finding.difference)),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            xytext=(8, 0),
            va="center",
            fontsize=9,
            color=_colour(report, one.finding.arm),
        )
    title = f"{metric_words(metric).capitalize()} over time"
    return plot_of(
        figure,
        "effect",
        title,
        f"The metric that decides: {metric_words(metric)}, against {report.experiment.plan.arms[0].name}. The band is "
        "the interval in which the true change lies, at all times together; it narrows with every user. A verdict "
        "falls when the whole band is on one side of zero, or within the dotted lines: then no change is left that "
        "matters.",
    )


def _others(report: ExperimentReport) -> Plot | None:
    rest: dict[ExperimentMetric, list[Reading]] = {}
    for one in readings(report.experiment, report.newest):
        if one.role != DECIDES:
            rest.setdefault(one.finding.metric, []).append(one)
    if not rest:
        return None
    rows = math.ceil(len(rest) / 2)
    figure = Figure(figsize=(WIDTH, 2.3 * rows), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).flatten()
    for axes, (metric, found) in zip(panels, rest.items(), strict=False):
        drawn = _draw(axes, report, found)
        guarded = ", guarded" if found[0].role == GUARDED else ""
        less = "less is better" if metric.less_is_better else "more is better"
        axes.set_title(f"{metric_words(metric)} ({less}{guarded})", fontsize=9.5, loc="left")
        axes.set_ylabel("")
        if not drawn:
            axes.text(0.5, 0.5, "too few users yet", transform=axes.transAxes, ha="center", color=GREY)
    for axes in panels[len(rest) :]:
        axes.set_visible(False)
    return plot_of(
        figure,
        "metrics",
        "The other metrics over time",
        "Change against the control, with its interval. The dotted line of a guarded metric is the most that it may "
        "become worse.",
    )


def _draw(axes: Any, report: ExperimentReport, found: Sequence[Reading]) -> bool:
    """Draw the effect of a metric for each arm; return false where there is none to be seen."""
    drawn: list[tuple[datetime, float, float]] = []
    for one in found:
        metric, arm = one.finding.metric, one.finding.arm
        points = [
            (point.time, relative(finding, finding.difference), *_bounds(finding))
            for point in report.points
            for finding in point.of(metric)
            if finding.arm == arm and all(map(math.isfinite, _bounds(finding)))
        ]
        if not points:
            continue
        times, values, lows, highs = zip(*points, strict=True)
        colour = _colour(report, arm)
        axes.fill_between(times, lows, highs, color=colour, alpha=0.16, linewidth=0)
        axes.plot(times, lows, color=colour, linewidth=0.6, alpha=0.7)
        axes.plot(times, highs, color=colour, linewidth=0.6, alpha=0.7)
        axes.plot(times, values, color=colour, linewidth=1.8, label=arm)
        settled = points[int(len(points) * _SETTLED) :]
        drawn += [(time, low, high) for time, _value, low, high in settled]
    if not drawn:
        return False
    limits = _limits(found[0])
    lowest = min(0.0, *limits, *(low for _time, low, _high in drawn))
    highest = max(0.0, *limits, *(high for _time, _low, high in drawn))
    margin = max(highest - lowest, 1e-6) * 0.12
    axes.set_ylim(lowest - margin, highest + margin)
    axes.axhline(0, color=GREY, linewidth=1)
    for limit in limits:
        axes.axhline(limit, color=RED if found[0].role == GUARDED else GREY, linestyle=":", linewidth=1.2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:+g} %" if value else "0"))
    axes.set_ylabel("change")
    _show_run(axes, report)
    return True


def _colour(report: ExperimentReport, arm: str) -> str:
    names = [one.name for one in report.experiment.plan.arms[1:]]
    return _ARM_COLOURS[names.index(arm) % len(_ARM_COLOURS)] if arm in names else GREEN


def _name_sides(axes: Any, *, less_is_better: bool) -> None:
    """Say on which side of zero the better values are."""
    for better in (True, False):
        up = better is not less_is_better
        axes.annotate(
            "better" if better else "worse",
            (1.0, 0.0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            xytext=(-4, 4 if up else -4),
            ha="right",
            va="bottom" if up else "top",
            fontsize=9,
            color=GREEN if better else RED,
        )


def _show_run(axes: Any, report: ExperimentReport) -> None:
    """Have all pictures share the time of the run."""
    first, last = report.points[0].time, report.points[-1].time
    show_time(axes, min(first, report.experiment.start_time or first), last)


def _bounds(finding: MetricFinding) -> tuple[float, float]:
    return relative(finding, finding.lower), relative(finding, finding.upper)


def _limits(one: Reading) -> list[float]:
    """Lines to draw: the least effect that matters on both sides, or the most that may be lost."""
    if one.limit is None:
        return []
    if one.role == DECIDES:
        return [-one.limit, one.limit]
    return [one.limit if one.finding.metric.less_is_better else -one.limit]


def _users(report: ExperimentReport) -> Plot | None:
    newest = report.newest
    if newest is None or not any(arm.user_count for arm in newest.arms):
        return None
    total = sum(arm.user_count for arm in newest.arms)
    bars = [("in the experiment", total, GREY)]
    if len(newest.arms) > 1:
        bars += [(f"in {arm.arm}", arm.user_count, _colour(report, arm.arm)) for arm in newest.arms]
    seen: dict[ExperimentMetric, int] = {}
    for finding in newest.metrics:
        seen[finding.metric] = max(seen.get(finding.metric, 0), finding.user_count)
    counted = sorted(seen.items(), key=lambda one: -one[1])
    bars += [(f"count for {metric_words(metric)}", count, "#afb8c1") for metric, count in counted if count < total]
    figure, axes = one_axes(0.55 + 0.32 * len(bars))
    names, counts, colours = zip(*bars, strict=True)
    places = range(len(bars), 0, -1)
    axes.barh(list(places), counts, color=colours, height=0.68)
    axes.set_yticks(list(places), names)
    for place, count in zip(places, counts, strict=True):
        share = "" if count == total else f"  ({count / total * 100:.1f} %)"
        axes.annotate(f"{count:,}{share}", (count, place), textcoords="offset points", xytext=(5, -3.5), fontsize=9)
    axes.set_xlim(0, total * 1.18)
    axes.grid(visible=False)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    return plot_of(
        figure,
        "users",
        "Users",
        "Each user counts once, however active. A user counts for a metric if at least one of their answers says "
        "something of it: only rated answers of satisfaction, only answers of which an arm's result was used of a "
        "preference.",
    )


def _guardrails(report: ExperimentReport) -> Plot | None:
    rows = [(point.time, row) for point in report.points for row in point.guardrails]
    if not rows:
        return None
    figure, axes = one_axes(2.6)
    several = len({row.arm for _, row in rows}) > 1
    threshold = max(row.evidence.log_threshold for _, row in rows)
    for key in dict.fromkeys((row.evidence.guardrail, row.arm) for _, row in rows):
        found = [(time, row.evidence.log_evidence) for time, row in rows if (row.evidence.guardrail, row.arm) == key]
        axes.plot(
            [time for time, _ in found],
            [log for _, log in found],
            color=_GUARDRAIL_COLOURS.get(key[0], GREEN),
            linewidth=1.6,
            label=f"{words(key[0])}, {key[1]}" if several else words(key[0]),
        )
    mismatch = [(point.time, point.log_mismatch) for point in report.points if point.log_mismatch_threshold > 0]
    if mismatch:
        axes.plot(*zip(*mismatch, strict=True), color=GREY, linewidth=1.6, label="users in each arm")
    show_evidence(axes, threshold, "stopped")
    _show_run(axes, report)
    return plot_of(
        figure,
        "guardrails",
        "Evidence against the new arm",
        "Failed, empty and slow answers of the new arm against the control's, and users against an even split.",
    )
