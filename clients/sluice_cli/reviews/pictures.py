"""Pictures of reviews: their style, and writing them as SVG."""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from matplotlib import dates
from matplotlib.figure import Figure

BLUE, PURPLE, RED, GREY, GREEN, AMBER = "#1f6feb", "#8250df", "#cf222e", "#6e7781", "#1a7f37", "#bf8700"
WIDTH = 9.5
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#d0d7de",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "svg.hashsalt": "sluice",
    "svg.fonttype": "path",
}


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture and its caption."""

    name: str
    title: str
    caption: str
    svg: str


def one_axes(height: float) -> tuple[Figure, Any]:
    """Make a figure with one pair of axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def show_time(axes: Any, start: datetime | None = None, end: datetime | None = None) -> None:
    """Have the horizontal axis show time, from `start` to `end` if given."""
    if start is not None and end is not None:
        axes.set_xlim(start, end)
    locator = dates.AutoDateLocator(minticks=3, maxticks=7)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def show_evidence(axes: Any, threshold: float, consequence: str) -> None:
    """Have the axes show evidence by its log: a line where it has a consequence, and the names of the curves."""
    axes.axhline(threshold, color=RED, linestyle="--", linewidth=1)
    axes.annotate(
        f"{consequence} from here on",
        (0.005, threshold),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        xytext=(0, 4),
        color=RED,
        fontsize=9,
    )
    axes.set_ylabel("log of the e-value")
    axes.set_ylim(bottom=min(-0.2, axes.get_ylim()[0]), top=max(threshold * 1.35, axes.get_ylim()[1]))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def plot_of(figure: Figure, name: str, title: str, caption: str) -> Plot:
    """Write a figure as SVG."""
    picture = io.StringIO()
    figure.savefig(picture, format="svg", metadata={"Date": None})
    return Plot(name, title, caption, picture.getvalue())
