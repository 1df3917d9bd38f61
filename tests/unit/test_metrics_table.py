"""The table in docs/metrics.md agrees with the series that the stages declare."""

from __future__ import annotations

from pathlib import Path

from tests.registry import STAGES
from tools import metrics_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
# Labels whose values are ours, or an operator's; what callers send is none of them.
CLOSED = {
    *("stage", "release", "grpc_service", "grpc_method", "grpc_code", "result", "lane", "source", "reason"),
    *(
        "expansion",
        "experiment",  # operators name them, and there are 1,000 at most
        "verdict",
        "rerank",
        "rerank_method",
        "multi_hop",
        "outcome",
        "state",
        "code",
        "strategy",
        "name",
        "fingerprint",
        "backend",
        "precision",
    ),
    *("device", "collection", "version", "model", "feature", "arm", "kind", "judgement", "side"),
    *("guardrail", "decision", "actor", "cause", "method", "part", "quota", "scope"),
}


def test_the_table_is_that_of_the_code() -> None:
    assert metrics_table.table() in PAGE.read_text(encoding="utf-8"), "run `make docs`"


def test_every_series_that_operators_know_is_declared() -> None:
    known = {series.name for group in metrics_table.declared().values() for series in group}
    assert known >= {name for stage in STAGES for name in stage.metrics}


def test_labels_come_from_closed_sets() -> None:
    used = {label for group in metrics_table.declared().values() for series in group for label in series.labels}
    assert used <= CLOSED
