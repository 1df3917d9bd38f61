"""Writes the tables of `make bench-quality` and `make bench-speed` into their pages.

A page whose bench was not run on this machine stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sections import ROOT, write

RESULTS = ROOT / "build" / "bench"
MEASURES = ("ndcg@10", "recall@100", "mrr@10", "all_gold@10")
SPEED_TITLES = ("Row", "Ours", "Reference", "Ratio", "Spread", "Unit", "Bar", "Measured", "")


def quality_table(rows: list[dict[str, Any]]) -> str:
    """One row a collection and configuration, of the test splits."""
    titles = ["collection", "config", *MEASURES, "nDCG@10 against dense", "ms a query"]
    lines = ["", f"| {' | '.join(titles)} |", "|---|---|" + "---:|" * (len(titles) - 2)]
    before = ""
    for row in rows:
        if row["split"] != "test":
            continue
        name = "" if row["dataset"] == before else f"{row['dataset']} ({row['queries']} queries)"
        measures = (f"{row[measure]:.3f}" for measure in MEASURES)
        cells = [name, row["config"], *measures, _interval(row["vs_dense"]), f"{row['ms_per_query']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
        before = row["dataset"]
    return "\n".join([*lines, ""])


def _interval(found: Mapping[str, float] | None) -> str:
    return f"{found['difference']:+.3f} ({found['lower']:+.3f} … {found['upper']:+.3f})" if found else ""


def speed_table(rows: list[dict[str, Any]]) -> str:
    """One line a row of the file."""
    lines = ["", f"| {' | '.join(SPEED_TITLES)} |", "|---|---:|---:|---:|---|---|---|---:|---|"]
    for row in rows:
        spread = " … ".join(_figure(bound) for bound in row.get("spread") or ())
        verdict = {True: "ok", False: "**missed**"}.get(row.get("ok"), "")
        figures = [_figure(row[column]) for column in ("ours", "reference", "ratio")]
        bar = [row.get("bar", ""), _figure(row.get("measured")), verdict]
        lines.append("| " + " | ".join([f"`{row['name']}`", *figures, spread, row["unit"], *bar]) + " |")
    return "\n".join([*lines, ""])


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def main() -> None:
    """Write each table whose results are there."""
    for name, table in (("quality", quality_table), ("speed", speed_table)):
        file = RESULTS / f"{name}.json"
        if file.exists():
            page = ROOT / "docs" / ("quality.md" if name == "quality" else "performance.md")
            write(name, table(json.loads(file.read_text(encoding="utf-8"))), file=page)


if __name__ == "__main__":
    main()
