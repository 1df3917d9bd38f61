"""The gateway's series. Labels come from closed sets, never from callers."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram

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

stage_breaker_open = Gauge(
    "sluice_stage_breaker_open",
    "1 while calls to a stage fail fast: its breaker is open, or probing; else 0.",
    ["stage"],
)
stage_breaker_transitions = Counter(
    "sluice_stage_breaker_transitions_total", "Changes of a stage's breaker, by the new state.", ["stage", "state"]
)


def breaker_changed(stage: str, _old: str, new: str) -> None:
    """Takes a `services.common.breaker.Transition`."""
    stage_breaker_open.labels(stage).set(new != "closed")
    stage_breaker_transitions.labels(stage, new).inc()


def observe_search(reports: Sequence[StageReport], result_count: int) -> None:
    """Counts one answered search."""
    results_returned.observe(result_count)
    for report in reports:
        stage_outcomes.labels(report.stage.value, report.outcome.value).inc()
        if report.outcome is not Outcome.SKIPPED:
            stage_seconds.labels(report.stage.value).observe(report.seconds)
