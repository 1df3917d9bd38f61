"""The gateway's series. Labels come from closed sets, or are features that operators named, never from callers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from types import TracebackType
from typing import Self

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.chassis import logs, tracing
from services.chassis.errors import kind_of
from services.chassis.metrics import LATENCY_BUCKETS
from services.gateway.search.flags import Features
from services.gateway.search.stages import Answer, Outcome, Stage, StageReport

search_seconds = Histogram(
    "sluice_search_latency_seconds",
    "Time of a search from its decoded request to its answer or failure, however it ended.",
    ["expansion", "rerank"],
    buckets=LATENCY_BUCKETS,
)
searches = Counter(
    "sluice_searches_total",
    "Searches ended. `degraded`: answered, and the answer says what it lacks; `refused`: shed by a required stage; "
    "`late`: the deadline passed. What is refused before its features are known is in grpc_server_handled_total alone.",
    ["expansion", "rerank", "outcome"],
)
stage_seconds = Histogram(
    "sluice_stage_latency_seconds",
    "Time that a search spent on a stage, failed tries included.",
    ["stage", "expansion", "rerank"],
    buckets=LATENCY_BUCKETS,
)
stage_outcomes = Counter("sluice_stage_outcomes_total", "What stages did for searches.", ["stage", "outcome"])
results_returned = Histogram(
    "sluice_search_results", "Results of an answered search.", buckets=(0, 1, 2, 5, 10, 20, 50, 100)
)
search_variants = Histogram(
    "sluice_search_variants",
    "Variants that a search with expansion on went on with, the query counted: 1 where expansion failed.",
    buckets=(1, 2, 3, 4, 5, 6, 8, 10, 12, 16),
)
rerank_without_candidates = Counter(
    "sluice_rerank_without_candidates_total",
    'Searches with reranking on for which nothing was found to rerank. Over `sluice_searches_total{rerank="on"}`.',
)
model_mismatches = Counter(
    "sluice_model_mismatches_total", "Searches that met an index of another model than their vectors'."
)

stage_breaker_open = Gauge(
    "sluice_stage_breaker_open",
    "1 while calls to a stage fail fast: its breaker is open, or probing; else 0.",
    ["stage"],
)
stage_breaker_transitions = Counter(
    "sluice_stage_breaker_transitions_total", "Changes of a stage's breaker, by the new state.", ["stage", "state"]
)

index_info = Gauge(
    "sluice_index_info",
    "The live version of the default collection; always 1, gone where there is none.",
    ["collection", "version", "model", "fingerprint"],
)
index_passages = Gauge("sluice_index_passages", "Passages in the live version of the default collection.")
fingerprint_mismatch = Gauge(
    "sluice_fingerprint_mismatch",
    "1 while no embedder of this gateway serves the model that made the default collection's vectors; else 0.",
)

_OUTCOMES = ("full", "degraded", "refused", "late", "cancelled", "invalid", "failed")
_SWITCH = {False: "off", True: "on"}
_COMPLETE = {"FEATURE_OFF", "NO_CANDIDATES"}
"""Why a stage may be skipped without anything being missing from the answer."""


class _Searches:
    """What is counted of the searches with the same features."""

    def __init__(self, expansion: bool, rerank: bool) -> None:
        labels = _SWITCH[expansion], _SWITCH[rerank]
        self.seconds = search_seconds.labels(*labels)
        self.outcomes = {outcome: searches.labels(*labels, outcome) for outcome in _OUTCOMES}
        self.stage_seconds = {stage: stage_seconds.labels(stage.name.lower(), *labels) for stage in Stage}


_searches = {switches: _Searches(*switches) for switches in product((False, True), repeat=2)}
_stage_outcomes = {
    pair: stage_outcomes.labels(pair[0].name.lower(), pair[1].name.lower()) for pair in product(Stage, Outcome)
}


def breaker_changed(stage: str, _old: str, new: str) -> None:
    """Takes a `services.chassis.breaker.Transition`."""
    stage_breaker_open.labels(stage).set(new != "closed")
    stage_breaker_transitions.labels(stage, new).inc()


def observe_stages(features: Features, reports: Sequence[StageReport]) -> None:
    """Counts what the stages did for one search, answered or not."""
    counted = _searches[features.expansion, features.rerank]
    exemplar = tracing.exemplar()
    for report in reports:
        _stage_outcomes[report.stage, report.outcome].inc()
        if report.outcome is not Outcome.SKIPPED:
            counted.stage_seconds[report.stage].observe(report.seconds, exemplar)
        if report.stage is Stage.EXPAND and features.expansion and report.reason != "NOT_REACHED":
            search_variants.observe(max(1, report.item_count))
        if report.reason == "NO_CANDIDATES":
            rerank_without_candidates.inc()
        elif report.reason == "MODEL_MISMATCH":
            model_mismatches.inc()


class ObservedSearch:
    """Counts and traces one search, however it ends: `with ObservedSearch(features, deadline) as seen: ...`."""

    def __init__(self, features: Features, deadline: float) -> None:
        """`deadline` is a moment on the monotonic clock."""
        self._features = features
        self._deadline = deadline
        self._answer: Answer | None = None

    def answered(self, answer: Answer) -> None:
        """There is an answer."""
        self._answer = answer
        results_returned.observe(len(answer.results))

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        outcome = self._outcome(error)
        counted = _searches[self._features.expansion, self._features.rerank]
        counted.seconds.observe(time.perf_counter() - self._started, tracing.exemplar())
        counted.outcomes[outcome].inc()
        logs.note(outcome=outcome)
        if (span := tracing.recorded()) is not None:
            span.set_attributes({"sluice.outcome": outcome, **_switches(self._features)})
            if self._answer is not None:
                span.set_attributes(_described(self._answer))

    def _outcome(self, error: BaseException | None) -> str:
        if error is None:
            complete = self._answer is not None and all(map(_complete, self._answer.reports))
            return "full" if complete else "degraded"
        if isinstance(error, asyncio.CancelledError):
            # The server cancels a call whose deadline passes, as it does one whose caller leaves.
            return "late" if time.monotonic() >= self._deadline else "cancelled"
        return kind_of(error).outcome


def _complete(report: StageReport) -> bool:
    return report.outcome is Outcome.RAN or report.reason in _COMPLETE


def _switches(features: Features) -> dict[str, bool | str]:
    return {
        "sluice.features.dense": features.dense,
        "sluice.features.lexical": features.lexical,
        "sluice.features.expansion": features.expansion,
        "sluice.features.expansion_strategy": features.expansion_strategy,
        "sluice.features.rerank": features.rerank,
    }


def _described(answer: Answer) -> dict[str, int | str]:
    described: dict[str, int | str] = {"sluice.results": len(answer.results), "sluice.index": answer.index_version}
    for report in answer.reports:
        name = f"sluice.{report.stage.name.lower()}"
        described[f"{name}.outcome"] = report.outcome.name.lower()
        described[f"{name}.items"] = report.item_count
        if report.reason:
            described[f"{name}.reason"] = report.reason
        if report.model:
            described[f"{name}.model"] = report.model
    return described


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
