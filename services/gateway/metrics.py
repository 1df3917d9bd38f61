"""The gateway's series. Labels come from closed sets, never from callers."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Counter, Histogram

from services.common.metrics import LATENCY_BUCKETS
from services.gateway.stages import Outcome, StageReport

stage_seconds = Histogram(
    "sluice_stage_latency_seconds",
    "Time from the gateway's call of a stage to its answer.",
    ["stage"],
    buckets=LATENCY_BUCKETS,
)
stage_outcomes = Counter("sluice_stage_outcomes_total", "What stages did for searches.", ["stage", "outcome"])
results_returned = Histogram("sluice_search_results", "Results of a search.", buckets=(0, 1, 2, 5, 10, 20, 50, 100))


def observe_search(reports: Sequence[StageReport], result_count: int) -> None:
    """Counts one answered search."""
    results_returned.observe(result_count)
    for report in reports:
        stage_outcomes.labels(report.stage.value, report.outcome.value).inc()
        if report.outcome is not Outcome.SKIPPED:
            stage_seconds.labels(report.stage.value).observe(report.seconds)
