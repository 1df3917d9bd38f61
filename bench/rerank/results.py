"""Rows of results, their files, tables and a plot."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from bench.quality import measures
from bench.quality.measures import NDCG
from bench.rerank.methods import HYBRID, METHODS, Method
from bench.rerank.timing import Times
from bench.speed.results import load
from deploy.local.paths import BUILD
from sluice_statistics.percentiles import percentile

FOLDER = BUILD / "bench"
FILE = FOLDER / "rerank.json"
COSTS = FOLDER / "rerank_costs.json"
PLOT = FOLDER / "rerank.png"

Row = dict[str, Any]
_ORDER = [*METHODS, "sentence_transformers@20", "flashrank@20", "sentence_transformers@50", "flashrank@50"]


def row(method: str, candidates: int, collection: str, **found: Any) -> Row:
    """A row with what is known of it; the rest is None."""
    empty = dict.fromkeys(("ndcg10", "added_p50_ms", "added_p99_ms", "search_p99_ms"))
    return {"method": method, "candidates": candidates, "collection": collection, **empty, **found}


def quality_rows(collection: str, qrels: measures.Qrels, runs: Mapping[Method, measures.Run]) -> list[Row]:
    """nDCG@10 of each method, and its difference to hybrid with the bounds of its 95 % interval."""
    values = {method: measures.by_query(qrels, run)[NDCG] for method, run in runs.items()}
    rows = []
    for method, of_query in values.items():
        found: Row = {"ndcg10": round(statistics.fmean(of_query.values()), 4), "questions": len(of_query)}
        if method is not HYBRID and HYBRID in values:
            gained = measures.interval(of_query, values[HYBRID])
            found["vs_hybrid"] = [round(bound, 4) for bound in (gained.value, gained.low, gained.high)]
        rows.append(row(method.name, method.candidates, collection, **found))
    return rows


def time_rows(collection: str, times: Mapping[Method, Times], processor: str) -> list[Row]:
    """Times of each method."""
    return [
        row(
            method.name,
            method.candidates,
            collection,
            added_p50_ms=round(percentile(of.added, 50), 2),
            added_p99_ms=round(percentile(of.added, 99), 2),
            search_p50_ms=round(percentile(of.searches, 50), 2),
            search_p99_ms=round(percentile(of.searches, 99), 2),
            timed=len(of.searches),
            processor=processor,
        )
        for method, of in times.items()
    ]


def store(fresh: Sequence[Row], path: Path = FILE) -> list[Row]:
    """Write what is known of rows over what was; all rows."""
    merged = {_key(each): each for each in load(path)}
    for each in fresh:
        known = {name: value for name, value in each.items() if value is not None}
        merged[_key(each)] = merged.get(_key(each), each) | known
    everything = sorted(merged.values(), key=lambda each: (each["collection"], _place(each)))
    _write(path, everything)
    return everything


def store_costs(fresh: Sequence[Row], path: Path = COSTS) -> list[Row]:
    """Write figures over those of the same names; all figures."""
    merged = {each["name"]: each for each in [*load(path), *fresh]}
    _write(path, list(merged.values()))
    return list(merged.values())


def cost(name: str, value: float, unit: str, bound: str = "", **details: Any) -> Row:
    """A figure, with the bound that it must meet, as in "<= 50"."""
    found: Row = {"name": name, "value": round(value, 4), "unit": unit, **details}
    if bound:
        sense, limit = bound.split()
        found |= {"bound": bound, "ok": value <= float(limit) if sense == "<=" else value >= float(limit)}
    return found


def table(rows: Sequence[Row]) -> Table:
    """Table of the rows."""
    titles = ("nDCG@10", "against hybrid", "added p50, ms", "p99", "search p50, ms", "p99", "questions", "timed")
    view = Table("collection", "method", title="Reranking", title_justify="left")
    for title in titles:
        view.add_column(title, justify="right", no_wrap=True)
    before = ""
    for each in rows:
        if before and each["collection"] != before:
            view.add_section()
        view.add_row(
            "" if each["collection"] == before else escape(each["collection"]),
            escape(_name(each)),
            _number(each["ndcg10"], ".3f"),
            "{:+.3f} ({:+.3f} … {:+.3f})".format(*each["vs_hybrid"]) if "vs_hybrid" in each else "",
            *(_number(each.get(name), ".1f") for name in ("added_p50_ms", "added_p99_ms")),
            *(_number(each.get(name), ".1f") for name in ("search_p50_ms", "search_p99_ms")),
            *(_number(each.get(name), "d") for name in ("questions", "timed")),
        )
        before = each["collection"]
    return view


def costs_table(costs: Sequence[Row]) -> Table:
    """Table of the other figures."""
    view = Table("", "measured", "unit", "bound", title="Costs", title_justify="left")
    for each in costs:
        mark = "" if "ok" not in each else "[green]✓[/] " if each["ok"] else "[red]✗[/] "
        view.add_row(escape(each["name"]), f"{each['value']:,.4g}", each["unit"], mark + each.get("bound", ""))
    return view


def plot(rows: Sequence[Row], path: Path = PLOT) -> bool:
    """Draw nDCG@10 against added milliseconds, a panel a collection, as PNG and SVG; False without matplotlib."""
    try:
        import matplotlib as mpl  # noqa: PLC0415  only of the `bench` extra
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415  after the choice of how it draws

    collections = list(dict.fromkeys(each["collection"] for each in rows))
    figure, panels = pyplot.subplots(
        1, len(collections), figsize=(4.5 * len(collections) + 1, 4.5), squeeze=False, layout="constrained"
    )
    for panel, collection in zip(panels[0], collections, strict=True):
        known = [each for each in rows if each["collection"] == collection and each["ndcg10"] is not None]
        for each in known:
            if each["method"] == HYBRID.name:
                panel.axhline(each["ndcg10"], color="#9aa5b1", linewidth=1, linestyle="--", label="hybrid")
        drawn = [each for each in known if each["method"] != HYBRID.name and each["added_p50_ms"]]
        for name in dict.fromkeys(each["method"] for each in drawn):
            own = [each for each in drawn if each["method"] == name]
            at = [max(each["added_p50_ms"], 0.1) for each in own]
            until = [max(each["added_p99_ms"], high) - high for each, high in zip(own, at, strict=True)]
            values = [each["ndcg10"] for each in own]
            panel.errorbar(at, values, xerr=[[0] * len(at), until], marker="o", capsize=3, label=name)
            for x, y, each in zip(at, values, own, strict=True):
                panel.annotate(str(each["candidates"]), (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7)
        panel.set_xscale("log")
        panel.set_title(collection, fontsize=10)
        panel.set_xlabel("added ms, p50 and up to p99", fontsize=8)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    panels[0][0].set_ylabel("nDCG@10")
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=120)
    pyplot.close(figure)
    return True


def _write(path: Path, content: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".json.new")
    new.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    new.replace(path)


def _key(each: Row) -> tuple[str, int, str]:
    return each["method"], each["candidates"], each["collection"]


def _name(each: Row) -> str:
    return f"{each['method']}@{each['candidates']}" if each["candidates"] else str(each["method"])


def _place(each: Row) -> int:
    return _ORDER.index(_name(each)) if _name(each) in _ORDER else len(_ORDER)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"
