"""Write the table of all series into docs/metrics.md: `python tools/metrics_table.py`, or `--check`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

from prometheus_client.metrics import MetricWrapperBase

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from deploy.stages import STAGES
from services.chassis import metrics as chassis
from services.chassis import stderr
from services.chassis.admission import concurrency, memory
from services.chassis.audit import trail
from services.inference import metrics as inference
from tools.sections import ROOT, write


@dataclass(frozen=True)
class Series:
    """One series that a stage declares."""

    name: str
    """Name with `_total`, without `_bucket`, `_sum` and `_count`."""
    kind: str
    labels: tuple[str, ...]
    meaning: str


def declared() -> dict[str, list[Series]]:
    """Return all series by the stages that have them."""
    return {
        "Every stage": [*_series(chassis), *_series(memory), *_series(stderr), *_series(trail)],
        "Stages that shed load": _series(concurrency),
        "Model stages": _series(inference),
        **{spec.name.capitalize(): _series(import_module(f"services.{spec.name}.metrics")) for spec in STAGES},
    }


def table() -> str:
    """Return the table, one section for stages with the same series."""
    lines: list[str] = []
    for title, series in declared().items():
        lines += ["", f"**{title}**", "", "| Series | Type | Labels | Meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{each.name}` | {each.kind} | {', '.join(f'`{label}`' for label in each.labels)} | {each.meaning} |"
            for each in series
        ]
    return "\n".join([*lines, ""])


def _series(module: ModuleType) -> list[Series]:
    holder = module.process_metrics() if hasattr(module, "process_metrics") else module
    found = []
    for metric in vars(holder).values():
        if not isinstance(metric, MetricWrapperBase):
            continue
        (described,) = metric.describe()
        name = f"{described.name}_total" if described.type == "counter" else described.name
        # No public attribute has the labels.
        found.append(Series(name, described.type, metric._labelnames, described.documentation))
    return found


def main() -> None:
    """Write the table, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if docs/metrics.md is out of date")
    write("metrics", table(), file=ROOT / "docs" / "metrics.md", check=parser.parse_args().check)


if __name__ == "__main__":
    main()
