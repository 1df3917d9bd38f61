"""Pictures of evaluations and replays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sluice_cli.calls import Problem
from sluice_cli.evaluation.asking import Side
from sluice_cli.evaluation.measures import NAMES
from sluice_cli.evaluation.quality import Quality

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sluice_cli.evaluation.whatif import Changed

_COLOURS = ("#1f6feb", "#8250df", "#1a7f37", "#bf8700", "#cf222e", "#6e7781")


def draw_quality(quality: Quality, sides: Sequence[Side], path: Path) -> None:
    """Draw differences with their intervals, and the time of every configuration. Raises Problem."""
    figure = new_figure(10, 1.8 + 0.34 * max(4, len(quality.differences)))
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    names = [side.name for side in sides]
    for place, one in enumerate(quality.differences):
        colour = _COLOURS[names.index(one.configuration) % len(_COLOURS)]
        found = one.difference
        left.plot([found.low, found.high], [place, place], color=colour, linewidth=2.2)
        left.plot([found.value], [place], "o", color=colour, markersize=6)
    left.axvline(0, color="#6e7781", linewidth=0.8)
    left.set_yticks(range(len(quality.differences)))
    left.set_yticklabels([f"{one.configuration}: {one.measure}" for one in quality.differences])
    left.invert_yaxis()
    left.set_xlabel(f"difference from {sides[0].name}, 95 % ({quality.questions:,} questions)")
    _draw_times(right, sides)
    figure.suptitle(f"Quality against {sides[0].name}: {', '.join(NAMES)}", fontsize=11)
    save(figure, path)


def draw_replay(sides: Sequence[Side], changed: Sequence[Changed], path: Path) -> None:
    """Draw how far the results agree with the first configuration's, and the time of each. Raises Problem."""
    figure = new_figure(10, 1.8 + 0.5 * max(2, len(sides)))
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for place, one in enumerate(changed):
        for offset, name, found in (
            (-0.15, "overlap@10", one.overlap),
            (0.15, "rank-biased overlap", one.rank_biased_overlap),
        ):
            colour = _COLOURS[0] if offset < 0 else _COLOURS[1]
            label = name if place == 0 else None
            left.plot([found.low, found.high], [place + offset] * 2, color=colour, linewidth=2.2, label=label)
            left.plot([found.value], [place + offset], "o", color=colour, markersize=6)
    left.set_yticks(range(len(changed)))
    left.set_yticklabels([one.configuration for one in changed])
    left.set_ylim(len(changed) - 0.5, -0.5)
    left.set_xlim(0, 1.02)
    left.set_xlabel(f"agreement with {sides[0].name}, 95 %")
    if changed:
        left.legend(frameon=False, loc="lower left")
    _draw_times(right, sides)
    figure.suptitle(f"Recorded questions, asked again: {', '.join(side.name for side in sides)}", fontsize=11)
    save(figure, path)


def _draw_times(axes: Axes, sides: Sequence[Side]) -> None:
    places = range(len(sides))
    axes.barh([place - 0.2 for place in places], [side.p50_ms or 0 for side in sides], 0.36, color=_COLOURS[0])
    axes.barh([place + 0.2 for place in places], [side.p95_ms or 0 for side in sides], 0.36, color="#b6d4fe")
    axes.set_yticks(list(places))
    axes.set_yticklabels([side.name for side in sides])
    axes.invert_yaxis()
    axes.set_xlabel("ms (P50, and P95 lighter)")


def new_figure(width: float, height: float) -> Figure:
    """Make an empty picture. Raises Problem without matplotlib."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  # an extra
    except ImportError:
        raise Problem("no plot without matplotlib", "pip install 'sluice-retrieval[evaluate]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Write a picture. Raises Problem."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise Problem(f"the plot cannot be written: {error}", "name a .png or .svg file that can be") from None
