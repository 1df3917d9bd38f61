"""The gateway's series. Labels come from closed sets, or are features that operators named, never from callers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

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


exposures = Counter(
    "sluice_rollout_exposures_total", "Searches by feature and arm; STANDARD is in neither arm.", ["feature", "arm"]
)
anonymous_requests = Counter("sluice_rollout_anonymous_requests_total", "Searches that named no user.")
snapshot_version = Gauge("sluice_rollout_snapshot_version", "Version of the rollout snapshot that is served; 0: none.")
snapshots_refused = Counter("sluice_rollout_snapshots_refused_total", "Snapshots not taken, by why.", ["reason"])
quarantined = Gauge("sluice_rollout_quarantined", "1 for a feature of the snapshot that is not served.", ["feature"])
locally_killed = Gauge("sluice_rollout_locally_killed", "1 for a feature that this gateway alone holds.", ["feature"])
evidence_reports = Counter("sluice_rollout_evidence_reports_total", "Reports of evidence, by outcome.", ["outcome"])
evidence_lost = Counter("sluice_rollout_evidence_lost_total", "Evidence that will never be reported.", ["kind"])
shadow_searches = Counter("sluice_shadow_searches_total", "Treatments run beside control requests.", ["outcome"])
shadow_judgements = Counter("sluice_shadow_judgements_total", "What the reranker said of shadow pairs.", ["judgement"])
shadow_seconds = Histogram(
    "sluice_shadow_search_seconds",
    "Both searches of shadow pairs, from start to end.",
    ["side"],
    buckets=LATENCY_BUCKETS,
)


class _SnapshotAge(Collector):
    """A gauge that is there only where a rollout service is configured: without one nothing can be too old."""

    def __init__(self) -> None:
        self.seconds: Callable[[], float] | None = None

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Asked at every scrape."""
        if self.seconds is not None:
            text = "Time since the last word of the rollout service."
            yield GaugeMetricFamily("sluice_rollout_snapshot_age_seconds", text, value=self.seconds())


snapshot_age = _SnapshotAge()
REGISTRY.register(snapshot_age)
