"""Writes the table of all series into docs/metrics.md: `python tools/metrics_table.py`, or `--check`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from services.chassis import metrics as chassis
from services.chassis import shedding
from services.embedder import metrics as embedder
from services.expander import metrics as expander
from services.gateway import metrics as gateway
from services.inference import metrics as inference
from services.reranker import metrics as reranker
from services.retriever import metrics as retriever
from services.rollout import metrics as rollout
from tools.sections import ROOT, write


@dataclass(frozen=True)
class Series:
    """One series, as a stage declares it."""

    name: str
    """With `_total`, without `_bucket`, `_sum` and `_count`."""
    kind: str
    labels: tuple[str, ...]
    meaning: str


def declared() -> dict[str, list[Series]]:
    """All series by who has them."""
    return {
        "Every stage": _series(_of(chassis.process_metrics())),
        "Gateway and retriever": _series(_of(shedding)),
        "Embedder and reranker": _series(_of(inference.process_metrics())),
        "Gateway": _series(_of(gateway.process_metrics())),
        "Embedder": _series(_of(embedder.process_metrics())),
        "Reranker": _series(_of(reranker.process_metrics())),
        "Expander": _series(_of(expander)),
        "Retriever": _series(_of(retriever.process_metrics())),
        "Rollout": _series(_of(rollout)),
    }


def table() -> str:
    """The table, one section for those who have the same series."""
    lines: list[str] = []
    for title, series in declared().items():
        lines += ["", f"**{title}**", "", "| Series | Type | Labels | Meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{each.name}` | {each.kind} | {', '.join(f'`{label}`' for label in each.labels)} | {each.meaning} |"
            for each in series
        ]
    return "\n".join([*lines, ""])


def _of(holder: object) -> list[MetricWrapperBase]:
    return [each for each in vars(holder).values() if isinstance(each, MetricWrapperBase)]


def _series(metrics: Iterable[MetricWrapperBase]) -> list[Series]:
    found = []
    for metric in metrics:
        (described,) = metric.describe()
        name = f"{described.name}_total" if described.type == "counter" else described.name
        # Nothing public tells the labels.
        found.append(Series(name, described.type, metric._labelnames, described.documentation))
    return found


def main() -> None:
    """Writes or checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if docs/metrics.md is not up to date")
    write("metrics", table(), file=ROOT / "docs" / "metrics.md", check=parser.parse_args().check)


if __name__ == "__main__":
    main()
