"""Writes the tables of `make bench-quality`, `-speed`, `-rerank`, `-hops` and `-engine` into their pages.

A page whose bench was not run on this machine stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sections import ROOT, write

RESULTS = ROOT / "build" / "bench"
MEASURES = ("ndcg@10", "recall@100", "mrr@10", "all_gold@10")
ENGINE_FIGURES = (
    "open_s",
    "memory_mb",
    "upsert_cpu_us",
    "hybrid_p50_ms",
    "hybrid_cpu_ms",
    "filtered_p50_ms",
    "filtered_cpu_ms",
)
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


def hops_table(rows: list[dict[str, Any]]) -> str:
    """One row a collection and configuration: what it gains, and what it costs."""
    titles = [
        "collection",
        "configuration",
        "R@5",
        "all@5",
        "all@10",
        "nDCG@10",
        "R@5 over hybrid",
        "p50 ms",
        "times hybrid",
        "AUC",
    ]
    lines = ["", f"| {' | '.join(titles)} |", "|---|---|" + "---:|" * (len(titles) - 2)]
    before = ""
    for row in rows:
        gained = "{:+.3f} ({:+.3f} … {:+.3f})".format(*row["over_hybrid"]["r5"]) if "over_hybrid" in row else ""
        figures = [f"{row[name]:.3f}" for name in ("r5", "all5", "all10", "ndcg10")]
        others = [_figure(row.get(name)) for name in ("p50_ms", "time_over_hybrid", "enrichment_auc")]
        name = "" if row["collection"] == before else row["collection"]
        lines.append(f"| {' | '.join([name, row['config'], *figures, gained, *others])} |")
        before = row["collection"]
    return "\n".join([*lines, ""])


def rerank_table(rows: list[dict[str, Any]]) -> str:
    """One row a collection and method: what it gains, and what it costs."""
    titles = [
        "collection",
        "method",
        "candidates",
        "nDCG@10",
        "against hybrid",
        "added ms, p50",
        "p99",
        "search ms, p99",
    ]
    lines = ["", f"| {' | '.join(titles)} |", "|---|---|" + "---:|" * (len(titles) - 2)]
    before = ""
    for row in rows:
        name = "" if row["collection"] == before else row["collection"]
        gained = "{:+.3f} ({:+.3f} … {:+.3f})".format(*row["vs_hybrid"]) if "vs_hybrid" in row else ""
        quality = "" if row["ndcg10"] is None else f"{row['ndcg10']:.3f}"
        times = [_figure(row[name]) for name in ("added_p50_ms", "added_p99_ms", "search_p99_ms")]
        cells = [name, row["method"], str(row["candidates"] or ""), quality, gained, *times]
        lines.append(f"| {' | '.join(cells)} |")
        before = row["collection"]
    return "\n".join([*lines, ""])


def costs_table(costs: list[dict[str, Any]]) -> str:
    """One line a figure."""
    lines = ["", "| Figure | Measured | Unit | Bound | |", "|---|---:|---|---|---|"]
    for each in costs:
        verdict = {True: "ok", False: "**missed**"}.get(each.get("ok"), "")
        lines.append(f"| {each['name']} | {each['value']:.4g} | {each['unit']} | {each.get('bound', '')} | {verdict} |")
    return "\n".join([*lines, ""])


def engine_tables(result: dict[str, Any]) -> str:
    """The figures of each size, before and after, and one line a bound."""
    sizes = result["figures"]
    sides = [(size, side) for size in ("small", "large") for side in ("before", "here") if side in sizes.get(size, {})]
    lines = ["", f"`{result['command']}`, {result['cores']} cores ({result['processor']}):", ""]
    lines += [f"| Figure | {' | '.join(f'{size}, {side}' for size, side in sides)} |", "|---|" + "---:|" * len(sides)]
    for name in ENGINE_FIGURES:
        lines.append(f"| {name} | {' | '.join(_figure(sizes[size][side].get(name)) for size, side in sides)} |")
    lines += ["", "| Bound | Measured | Wanted | |", "|---|---:|---:|---|"]
    for row in result["rows"]:
        verdict = "ok" if row["ok"] else "**missed**"
        lines.append(f"| {row['name']} | {_figure(row['value'])} | {_figure(row['bound'])} | {verdict} |")
    return "\n".join([*lines, ""])


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"  # not 1e+03


def main() -> None:
    """Write each table whose results are there."""
    pages = {
        "quality": (quality_table, "quality.md"),
        "speed": (speed_table, "performance.md"),
        "hops": (hops_table, "quality.md"),
        "rerank": (rerank_table, "quality.md"),
        "rerank_costs": (costs_table, "performance.md"),
        "engine": (engine_tables, "scale.md"),
    }
    for name, (table, page) in pages.items():
        file = RESULTS / f"{name}.json"
        if file.exists():
            write(name, table(json.loads(file.read_text(encoding="utf-8"))), file=ROOT / "docs" / page)


if __name__ == "__main__":
    main()
