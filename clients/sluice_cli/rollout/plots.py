"""Pictures of a review: share of users, evidence, latency."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from sluice_cli.calls import words
from sluice_cli.reviews.pictures import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    RED,
    STYLE,
    Plot,
    one_axes,
    plot_of,
    show_evidence,
    show_time,
)
from sluice_cli.rollout.review import TAKEN_BACK, exposure_of
from sluice_client import Arm, EvidencePoint, Guardrail, RolloutReport

_ARM_COLOURS = {Arm.TREATMENT: BLUE, Arm.CONTROL: PURPLE}
_GUARDRAIL_COLOURS = {
    Guardrail.ERRORS: RED,
    Guardrail.LATENCY: AMBER,
    Guardrail.EMPTY_RESULTS: PURPLE,
    Guardrail.QUALITY: GREEN,
}


def plots(report: RolloutReport) -> list[Plot]:
    """Draw all pictures; one without data is left out."""
    with mpl.rc_context(STYLE):
        made = [_exposure(report), _evidence(report), _latency(report)]
    return [plot for plot in made if plot is not None]


def _exposure(report: RolloutReport) -> Plot | None:
    times, shares = exposure_of(report.history)
    if not times:
        return None
    figure, axes = one_axes(2.6)
    axes.fill_between(times, shares, step=None, color=BLUE, alpha=0.15)
    axes.plot(times, shares, color=BLUE, linewidth=1.8)
    axes.set_ylabel("% of users")
    axes.set_ylim(0, max(shares) * 1.3)
    for entry in report.history:
        if entry.old_treatment_ppm == entry.new_treatment_ppm:
            continue
        taken_back = entry.action in TAKEN_BACK
        axes.annotate(
            words(entry.action),
            (entry.time, max(entry.old_treatment_ppm, entry.new_treatment_ppm) / 10_000),
            textcoords="offset points",
            xytext=(4 if taken_back else -4, 6),
            ha="left" if taken_back else "right",
            fontsize=9,
            color=RED if taken_back else GREY,
        )
    return _plot(figure, axes, report, "exposure", "Users reached", "Share of users with the feature, and its changes.")


def _evidence(report: RolloutReport) -> Plot | None:
    rails = sorted({evidence.guardrail for point in report.points for evidence in point.guardrails})
    if not rails:
        return None
    figure, axes = one_axes(3.0)
    for rail in rails:
        for ramp in _ramps(report.points):
            found = [
                (point.time, evidence.log_evidence)
                for point in ramp
                for evidence in point.guardrails
                if evidence.guardrail is rail
            ]
            label = None if rail in axes.get_legend_handles_labels()[1] else words(rail)
            axes.plot(
                [time for time, _ in found],
                [log for _, log in found],
                color=_GUARDRAIL_COLOURS.get(rail, GREY),
                linewidth=1.6,
                label=label,
            )
    threshold = max(evidence.log_threshold for point in report.points for evidence in point.guardrails)
    _mark_taken_back(axes, report)
    show_evidence(axes, threshold, "taken back")
    return _plot(
        figure,
        axes,
        report,
        "evidence",
        "Evidence against it",
        "Evidence that treatment is worse than control, by guardrail. It starts from nothing with every step. Looking "
        "at it all the time does not raise the rate of false alarms.",
    )


def _latency(report: RolloutReport) -> Plot | None:
    figure, axes = one_axes(2.8)
    drawn = False
    for arm, colour in _ARM_COLOURS.items():
        for name, style in (("p95", "-"), ("p50", ":")):
            for place, ramp in enumerate(_ramps(report.points)):
                found = [
                    (point.time, getattr(totals, name) / timedelta(milliseconds=1))
                    for point in ramp
                    for totals in point.arms
                    if totals.arm is arm and getattr(totals, name) is not None
                ]
                label = f"{name.upper()} of {arm}" if place == 0 else None
                axes.plot(
                    [time for time, _ in found],
                    [value for _, value in found],
                    style,
                    color=colour,
                    linewidth=1.6,
                    label=label,
                )
                drawn = drawn or bool(found)
    if not drawn:
        return None
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return _plot(
        figure,
        axes,
        report,
        "latency",
        "Latency of both arms",
        "All requests of a step up to that moment, by arm.",
    )


def _mark_taken_back(axes: Any, report: RolloutReport) -> None:
    for entry in report.history:
        if entry.action in TAKEN_BACK:
            axes.axvline(entry.time, color=GREY, linewidth=1, linestyle=":")


def _ramps(points: Sequence[EvidencePoint]) -> list[list[EvidencePoint]]:
    ramps: dict[str, list[EvidencePoint]] = {}
    for point in points:
        ramps.setdefault(point.ramp_id, []).append(point)
    return list(ramps.values())


def _plot(figure: Figure, axes: Any, report: RolloutReport, name: str, title: str, caption: str) -> Plot:
    times, _shares = exposure_of(report.history)
    if times:  # all pictures share their time
        show_time(axes, times[0], max([times[-1], *(point.time for point in report.points)]))
    else:
        show_time(axes)
    return plot_of(figure, name, title, caption)
