"""Rows of results, their file, a table and a plot."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from deploy.local.paths import BUILD
from sluice_statistics.percentiles import percentile

FOLDER = BUILD / "bench"
FILE = FOLDER / "speed.json"
PLOT = FOLDER / "speed.png"

_SHOWN_PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 98, 99, 99.5)


@dataclass(frozen=True, slots=True)
class Bar:
    """Bound that a row must meet."""

    quantity: Literal["ratio", "difference", "ours"]
    """Ours over the reference, ours less the reference, or ours alone."""
    sense: Literal[">=", "<="]
    limit: float

    def met_by(self, measured: float) -> bool:
        """True if it is good enough."""
        return measured >= self.limit if self.sense == ">=" else measured <= self.limit

    def __str__(self) -> str:
        return f"{self.quantity} {self.sense} {self.limit:g}"


BARS: Mapping[str, Bar] = {
    "embed/throughput_vs_raw@c32": Bar("ratio", ">=", 0.90),
    "embed/short_query_overhead_ms@c1": Bar("difference", "<=", 1.5),
    "embed/throughput_vs_infinity@c1": Bar("ratio", ">=", 3),
    "embed/throughput_vs_infinity@c8": Bar("ratio", ">=", 3),
    "embed/throughput_vs_infinity@c32": Bar("ratio", ">=", 3),
    "embed/interactive_p99_under_bulk": Bar("difference", "<=", 35),
    "embed/bulk_rate_under_interactive": Bar("ratio", ">=", 0.80),
    "rerank/throughput_vs_sentence_transformers@50": Bar("ratio", ">=", 2),
    "rerank/throughput_vs_raw@c8": Bar("ratio", ">=", 0.90),
    "embed/int8_throughput_vs_fp32@c32": Bar("ratio", ">=", 2),
    "embed/rejected_within_ms": Bar("ours", "<=", 20),
    "index/rate_vs_raw@20000": Bar("ratio", ">=", 0.85),
    "index/memory_mb@200000": Bar("difference", "<=", 30),
}
"""From issues 3 and 5."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of ours and its reference. A number that could not be had is None, with a note."""

    name: str
    ours: float | None
    reference: float | None
    unit: str
    details: Mapping[str, Any] = field(default_factory=dict)
    """Whatever helps to judge it: rounds, percentiles, a note, what was measured with which settings."""

    @property
    def ratio(self) -> float | None:
        """Ours over the reference."""
        return self.ours / self.reference if self.ours is not None and self.reference else None

    @property
    def measured(self) -> float | None:
        """The number that the bar is about."""
        bar = BARS.get(self.name)
        if bar is None or self.ours is None:
            return None
        if bar.quantity == "difference":
            return None if self.reference is None else self.ours - self.reference
        return self.ours if bar.quantity == "ours" else self.ratio

    def as_json(self) -> dict[str, Any]:
        """As in speed.json."""
        content: dict[str, Any] = {
            "name": self.name,
            "ours": _rounded(self.ours),
            "reference": _rounded(self.reference),
            "ratio": _rounded(self.ratio),
            "unit": self.unit,
        }
        if bar := BARS.get(self.name):
            measured = self.measured
            content["bar"] = str(bar)
            content["measured"] = _rounded(measured)
            content["ok"] = measured is not None and bar.met_by(measured)
        return {**content, **self.details}


def compared(name: str, rounds: Sequence[Sequence[float]], unit: str, **details: Any) -> Row:
    """A row from rounds of (ours, reference): the median of each, and how far the rounds' own ratios lie apart."""
    ours, reference = (statistics.median(values) for values in zip(*rounds, strict=True))
    ratios = [one / other for one, other in rounds if other]
    return Row(
        name,
        ours,
        reference,
        unit,
        {
            "rounds": [[_rounded(one), _rounded(other)] for one, other in rounds],
            "spread": [_rounded(min(ratios)), _rounded(max(ratios))] if ratios else None,
            **details,
        },
    )


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """The whole distribution in a dozen numbers."""
    return {f"p{percent:g}": _rounded(percentile(values, percent)) for percent in _SHOWN_PERCENTILES}


def load(path: Path = FILE) -> list[dict[str, Any]]:
    """The rows of earlier runs; none where there is no file."""
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return rows


def store(rows: Sequence[Row], path: Path = FILE) -> list[dict[str, Any]]:
    """Write the rows over those of the same names; all rows."""
    merged = {row["name"]: row for row in load(path)}
    for row in rows:
        merged[row.name] = row.as_json()
    order = list(BARS)
    everything = sorted(merged.values(), key=lambda row: (_place(row["name"], order), row["name"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".json.new")
    fresh.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)
    return everything


def table(rows: Sequence[Mapping[str, Any]], title: str = "build/bench/speed.json") -> Table:
    """Table of the rows."""
    shown = Table(title=title, title_justify="left")
    shown.add_column("", no_wrap=True)
    for column in ("ours", "reference", "ratio", "unit"):
        shown.add_column(column, justify="left" if column == "unit" else "right")
    shown.add_column("measured against the bar")
    shown.add_column("rounds", justify="right")
    for row in rows:
        shown.add_row(
            escape(row["name"]),
            _number(row["ours"]),
            _number(row["reference"]),
            _number(row["ratio"]),
            row["unit"],
            _verdict(row),
            str(len(row.get("rounds") or ())),
        )
    return shown


def plot(rows: Sequence[Mapping[str, Any]], path: Path = PLOT) -> bool:
    """Ratios against their bars, and how long interactive calls take; False where matplotlib is not installed."""
    try:
        import matplotlib as mpl  # noqa: PLC0415  only of the `bench` extra
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415  after the choice of how it draws

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(15, 7), width_ratios=(3, 2), layout="constrained")
    bars = [row for row in rows if row["ratio"] is not None and "/s" in row["unit"]][::-1]
    places = range(len(bars))
    left.barh([place + 0.2 for place in places], [row["ours"] for row in bars], 0.4, label="ours", color="tab:blue")
    left.barh(
        [place - 0.2 for place in places], [row["reference"] for row in bars], 0.4, label="reference", color="tab:gray"
    )
    for place, row in zip(places, bars, strict=True):
        left.text(row["ours"], place + 0.2, f" {row['ours']:.0f}  ({row['ratio']:.2f} times)", va="center", fontsize=8)
    left.set_yticks(places, [row["name"] for row in bars], fontsize=8)
    left.set_xscale("log")
    left.margins(x=0.25)
    left.set_xlabel("texts or passages a second, more is better")
    left.legend(loc="lower right")

    interactive = next((row for row in rows if row["name"] == "embed/interactive_p99_under_bulk"), {})
    for key, label in (("idle", "idle"), ("under_bulk", "while an index job saturates the stage")):
        if points := interactive.get(key):
            right.plot(list(points.values()), [float(name[1:]) for name in points], marker=".", label=label)
            right.legend(loc="lower right")
    right.set_xlabel("ms until a short query is answered")
    right.set_ylabel("% of queries")
    right.set_xlim(left=0)
    right.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True


def _verdict(row: Mapping[str, Any]) -> str:
    if "bar" not in row:
        return escape(str(row.get("note", "")))
    if row["measured"] is None:
        return f"[dim]not measured: {escape(str(row.get('note', '')))}[/]"
    mark = "[green]✓[/]" if row["ok"] else "[red]✗[/]"
    return f"{mark} {_number(row['measured'])} ({escape(row['bar'])})"


def _place(name: str, order: Sequence[str]) -> int:
    """After the row of the table that it belongs to: `embed/x@c8 (fp32)` after `embed/x@c8`."""
    belongs = name.split(" ", maxsplit=1)[0]
    return order.index(belongs) if belongs in order else len(order)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _rounded(value: float | None) -> float | None:
    return None if value is None or value != value else round(value, 4)  # noqa: PLR0124  nan is not itself
