"""Rows of results, their file, a table and a plot."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from bench.quality import measures
from bench.quality.asking import Asked
from bench.quality.beir import Dataset
from bench.quality.configs import CONFIGS, DENSE
from bench.quality.measures import NDCG
from bench.speed.results import load
from deploy.local.paths import BUILD

FOLDER = BUILD / "bench" / "quality"
FILE = BUILD / "bench" / "quality.json"
PLOT = BUILD / "bench" / "quality.png"

Row = dict[str, Any]


def rows(dataset: Dataset, asked: Mapping[str, Asked], wanted: Sequence[str] = tuple(CONFIGS)) -> list[Row]:
    """A row for each of the wanted configurations of one collection.

    `vs_dense` is the difference of nDCG@10 to `dense`, `vs_without` that to the configuration `without`, which lacks
    only the feature that a row is named for: each with the bounds of its 95 % interval, and absent where the other
    configuration was not asked the same queries.
    """
    values = {config: measures.by_query(dataset.qrels, one.run) for config, one in asked.items()}
    return [
        {
            "dataset": dataset.name,
            "config": config,
            **{name: round(statistics.fmean(of_query.values()), 4) for name, of_query in values[config].items()},
            "queries": len(one.run),
            "ms_per_query": round(statistics.fmean(one.milliseconds.values()), 2),
            "split": dataset.split,
            "vs_dense": _against(DENSE, config, values),
            "without": CONFIGS[config].without,
            "vs_without": _against(CONFIGS[config].without, config, values),
        }
        for config, one in asked.items()
        if config in wanted
    ]


def _against(other: str, config: str, values: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Row | None:
    if other == config or other not in values or values[other][NDCG].keys() != values[config][NDCG].keys():
        return None
    found = measures.interval(values[config][NDCG], values[other][NDCG])
    return {"difference": round(found.value, 4), "lower": round(found.low, 4), "upper": round(found.high, 4)}


def store(fresh: Sequence[Row], path: Path = FILE) -> list[Row]:
    """Write rows over those of the same collection, split and configuration; all rows."""
    merged = {_key(row): row for row in [*load(path), *fresh]}
    order = list(CONFIGS)
    everything = sorted(merged.values(), key=lambda row: (row["dataset"], row["split"], order.index(row["config"])))
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".json.new")
    new.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    new.replace(path)
    return everything


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["dataset"], row["split"], row["config"]


def table(shown: Sequence[Row]) -> Table:
    """Table of the rows: green where a feature helps for sure, red where it harms."""
    view = Table(title="nDCG and its fellows, 0 to 1", title_justify="left")
    for title in ("dataset", "config"):
        view.add_column(title, no_wrap=True)
    for title in (*measures.NAMES, "vs dense", "vs without it", "ms", "queries"):
        view.add_column(title, justify="right", no_wrap=True)
    before = ""
    for row in shown:
        if before and row["dataset"] != before:
            view.add_section()
        view.add_row(
            "" if row["dataset"] == before else escape(row["dataset"]),
            escape(row["config"]),
            *(f"{row[name]:.3f}" for name in measures.NAMES),
            _interval(row["vs_dense"]),
            _interval(row["vs_without"]),
            f"{row['ms_per_query']:.0f}",
            str(row["queries"]),
        )
        before = row["dataset"]
    return view


def _interval(found: Mapping[str, float] | None) -> str:
    if found is None:
        return ""
    colour = "green" if found["lower"] > 0 else "red" if found["upper"] < 0 else "dim"
    return f"[{colour}]{found['difference']:+.3f} ({found['lower']:+.3f} … {found['upper']:+.3f})[/]"


def plot(everything: Sequence[Row], path: Path = PLOT) -> bool:
    """nDCG@10 of every configuration, with the interval of its difference to `dense`; False without matplotlib."""
    try:
        import matplotlib as mpl  # noqa: PLC0415  only of the `bench` extra
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415  after the choice of how it draws

    datasets = list(dict.fromkeys((row["dataset"], row["split"]) for row in everything))
    figure, panels = pyplot.subplots(
        1, len(datasets), figsize=(4.5 * len(datasets) + 1, 4.5), squeeze=False, layout="constrained"
    )
    for panel, (dataset, split) in zip(panels[0], datasets, strict=True):
        own = [row for row in everything if (row["dataset"], row["split"]) == (dataset, split)][::-1]
        panel.barh([row["config"] for row in own], [row[NDCG] for row in own], color="#2a7f62", alpha=0.8)
        for place, row in enumerate(own):
            if found := row["vs_dense"]:
                reference = row[NDCG] - found["difference"]
                panel.plot(
                    [reference + found["lower"], reference + found["upper"]], [place, place], color="black", linewidth=1
                )
            panel.text(0.01, place, f"{row[NDCG]:.3f}", va="center", fontsize=8, color="white")
            if row["config"] == DENSE:
                panel.axvline(row[NDCG], color="#9aa5b1", linewidth=1, linestyle="--")
        panel.set_title(f"{dataset} ({split}, {own[0]['queries']} queries)", fontsize=10)
        panel.set_xlabel("nDCG@10; lines: 95 % interval of the difference to dense", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True
