"""The picture: answered, degraded, refused and late, against what was offered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_PARTS = (
    ("full", "answered", "#2a7f62"),
    ("degraded", "answered, degraded", "#e3b23c"),
    ("refused", "refused", "#9aa5b1"),
    ("late", "late", "#c0392b"),
    ("failed", "failed", "#4a235a"),
)


def draw(result: dict[str, Any], path: Path) -> bool:
    """Draw it; False where matplotlib (the `bench` extra) is missing."""
    try:
        import matplotlib as mpl  # noqa: PLC0415  # an extra
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415  # must know the backend first

    loads = result["loads"]
    at = [load["load"] for load in loads]
    shares = [[load[part] / load["offered"] for load in loads] for part, _label, _colour in _PARTS]
    figure, (axes, times) = pyplot.subplots(2, 1, figsize=(9, 7), sharex=True, height_ratios=(3, 2))
    axes.stackplot(at, shares, labels=[label for _part, label, _colour in _PARTS], colors=[c for _p, _l, c in _PARTS])
    axes.set_ylabel("share of what was offered")
    axes.set_ylim(0, 1)
    axes.legend(loc="lower left", framealpha=0.9)
    figure_at_2x = result["in_time_at_2x"]
    told = "" if figure_at_2x is None else f"; at 2x, {figure_at_2x:.1%} of the accepted answer in time"
    axes.set_title(
        f"{result['deadline_ms']:.0f} ms to answer, {result['sustainable_per_second']:.1f}/s sustainable{told}"
    )
    for percentile, style in (("p50_ms", "-"), ("p99_ms", "--")):
        times.plot(
            at, [load[percentile] for load in loads], style, color="#2a7f62", label=percentile.removesuffix("_ms")
        )
    times.axhline(result["deadline_ms"], color="#c0392b", linewidth=1, label="deadline")
    times.set_ylim(0, None)
    times.set_ylabel("ms until answered")
    times.set_xlabel("offered load, in sustainable rates")
    times.legend(loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return True
