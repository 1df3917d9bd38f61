"""The picture: predicted against measured, and which stage is how busy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_COLOURS = {"p50": "#9aa5b1", "p90": "#e3b23c", "p95": "#d2803a", "p99": "#c0392b"}


def draw(result: dict[str, Any], path: Path) -> bool:
    """Draws it, where matplotlib is installed (the `bench` extra); says whether it did."""
    try:
        import matplotlib as mpl  # noqa: PLC0415  # an extra
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415  # must know the backend first

    rows = result["rows"]
    loads = [row["qps"] for row in rows]
    figure, (times, busy) = pyplot.subplots(1, 2, figsize=(12, 5))
    for name, colour in _COLOURS.items():
        times.plot(loads, [row[f"predicted_{name}_ms"] for row in rows], "--", color=colour, label=f"{name} predicted")
        times.plot(loads, [row[f"measured_{name}_ms"] for row in rows], "o", color=colour, label=f"{name} measured")
    p99 = [row["measured_p99_ms"] for row in rows]
    allowed = result["bar"]["p99_error"]
    times.fill_between(
        loads, [value / (1 + allowed) for value in p99], [value * (1 + allowed) for value in p99],
        color=_COLOURS["p99"], alpha=0.12, label=f"p99 within {allowed:.0%}",
    )  # fmt: skip
    times.axvline(
        result["capacity"]["predicted"], color="black", linewidth=1, linestyle="--", label="saturation predicted"
    )
    times.axvline(result["capacity"]["measured"], color="black", linewidth=1, label="saturation measured")
    times.set_xlabel("searches a second")
    times.set_ylabel("ms until answered")
    times.set_ylim(0, None)
    times.legend(fontsize=8)
    stages = list(rows[-1]["predicted_busy"])
    width = 0.4
    for place, row in enumerate(rows):
        strength = 0.35 + 0.3 * place
        at = range(len(stages))
        busy.bar([x - width / 2 for x in at], [row["predicted_busy"][stage] for stage in stages], width,
                 fill=False, edgecolor="black", linestyle="--", linewidth=0.7)  # fmt: skip
        busy.bar([x + width / 2 for x in at], [row["measured_busy"][stage] for stage in stages], width,
                 color="#2a7f62", alpha=strength / 2)  # fmt: skip
    busy.set_xticks(range(len(stages)), stages)
    busy.set_ylabel("share of time busy (dashed: predicted; filled: measured), three loads")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return True
