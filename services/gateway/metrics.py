"""The gateway's Prometheus series.

Labels come from closed sets, or are features that operators named; never from callers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from itertools import product
from types import TracebackType
from typing import Self

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.chassis import logs, tracing
from services.chassis.errors import kind_of
from services.chassis.metrics import LATENCY_BUCKETS
from services.experiment.flags import FLAGS
from services.gateway.recent import RecentEnrichment
from services.gateway.search.flags import Features
from services.gateway.search.stages import Answer, Outcome, Stage, StageReport

_OUTCOMES = ("full", "degraded", "refused", "late", "cancelled", "invalid", "failed")
_LABELS = [flag for flag in FLAGS.values() if flag.metric_label]
_FLAGS = [flag.name for flag in _LABELS]


class GatewayMetrics:
    """The series of searches, of stages, of the index and of rollouts."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        self.search_seconds = histogram(
            "sluice_search_latency_seconds",
            "Time of a search from its decoded request to its answer or failure.",
            _FLAGS,
            buckets=LATENCY_BUCKETS,
        )
        self.searches = counter(
            "sluice_searches_total",
            "Searches ended. `degraded`: answered, and the answer says what it lacks; `refused`: shed by a required "
            "stage; `late`: the deadline passed. A request that is refused before its features are known is in "
            "grpc_server_handled_total alone.",
            [*_FLAGS, "outcome"],
        )
        self.stage_seconds = histogram(
            "sluice_stage_latency_seconds",
            "Time that a search spent on a stage, failed tries included.",
            ["stage", *_FLAGS],
            buckets=LATENCY_BUCKETS,
        )
        self.stage_outcomes = counter(
            "sluice_stage_outcomes_total", "Outcomes of stages for searches.", ["stage", "outcome"]
        )
        self.answers = counter(
            "sluice_answers_total",
            "Answers in words, by what made them (`llm`, `extractive`, `none`) and outcome, as of "
            "`sluice_searches_total`.",
            ["method", "outcome"],
        )
        self.answer_seconds = histogram(
            "sluice_answer_latency_seconds",
            "Time of an answer in words: its searches (`retrieval`), the reasoner (`generation`), and `total`.",
            ["part"],
            buckets=(*LATENCY_BUCKETS, 60.0, 120.0),
        )
        self.results_returned = histogram(
            "sluice_search_results", "Results of an answered search.", buckets=(0, 1, 2, 5, 10, 20, 50, 100)
        )
        self.enrichment_scores = histogram(
            "sluice_enrichment_score",
            "Enrichment scores of answered searches that followed relations; their count tells how many did.",
            buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        )
        self.relations_of_results = histogram(
            "sluice_search_relations",
            "Relations by which the results of a search that followed some were reached: steps of all their paths.",
            buckets=(0, 1, 2, 3, 5, 8, 12, 20, 50),
        )
        self.enrichment_usage_rate = gauge(
            "enrichment_usage_rate",
            "Share of this gateway's answered searches of the last five minutes that followed relations, 0 to 1.",
        )
        self.mean_enrichment_score = gauge(
            "avg_enrichment_score",
            "Mean enrichment score of those, 0 to 1; not a number where there was none.",
        )
        self.mean_relations = gauge(
            "avg_relationships_per_query",
            "Mean number of relations by which their results were reached; not a number where there was none.",
        )
        self.search_variants = histogram(
            "sluice_search_variants",
            "Variants that a search with expansion on went on with, the query counted: 1 where expansion failed.",
            buckets=(1, 2, 3, 4, 5, 6, 8, 10, 12, 16),
        )
        self.rerank_without_candidates = counter(
            "sluice_rerank_without_candidates_total",
            "Searches with reranking on for which nothing was found to rerank. Over "
            '`sluice_searches_total{rerank="on"}`.',
        )
        self.model_mismatches = counter(
            "sluice_model_mismatches_total", "Searches that met an index of another model than their vectors'."
        )
        self.stage_breaker_open = gauge(
            "sluice_stage_breaker_open",
            "1 while calls to a stage fail fast: its breaker is open, or probing; else 0.",
            ["stage"],
        )
        self.stage_breaker_transitions = counter(
            "sluice_stage_breaker_transitions_total",
            "Changes of a stage's breaker, by the new state.",
            ["stage", "state"],
        )
        self.quota_refusals = counter(
            "sluice_quota_refusals_total",
            "Calls refused because a caller, or all callers of a tenant, had used up a quota.",
            ["quota", "scope"],
        )
        self.quota_store_failures = counter(
            "sluice_quota_store_failures_total",
            "Times that the shared store of quotas did not answer; each gateway then counts its part for 5 s.",
        )
        self.index_info = gauge(
            "sluice_index_info",
            "The live version of the default collection; always 1, gone where there is none.",
            ["collection", "version", "model", "fingerprint"],
        )
        self.index_passages = gauge("sluice_index_passages", "Passages in the live version of the default collection.")
        self.fingerprint_mismatch = gauge(
            "sluice_fingerprint_mismatch",
            "1 while no embedder of this gateway serves the model that made the default collection's vectors; else 0.",
        )
        self.exposures = counter(
            "sluice_rollout_exposures_total",
            "Searches by feature and arm; STANDARD is in neither arm.",
            ["feature", "arm"],
        )
        self.experiments = counter(
            "sluice_experiment_searches_total",
            "Searches that were a part of an experiment, by arm; `arm` is empty where the answer is interleaved.",
            ["experiment", "arm"],
        )
        self.impressions = counter(
            "sluice_feedback_impressions_total",
            "Impressions for the control plane: `stored`, `lost` (no room, or never taken), or `failed`, sent again.",
            ["outcome"],
        )
        self.feedback_events = counter(
            "sluice_feedback_events_total",
            "Events on answers, by outcome: `stored`, `duplicate`, or the reason for which it was rejected.",
            ["outcome"],
        )
        self.anonymous_requests = counter("sluice_rollout_anonymous_requests_total", "Searches that named no user.")
        self.snapshot_version = gauge(
            "sluice_rollout_snapshot_version", "Version of the rollout snapshot that is served; 0: none."
        )
        self.snapshots_refused = counter(
            "sluice_rollout_snapshots_refused_total", "Snapshots refused, by reason.", ["reason"]
        )
        self.quarantined = gauge(
            "sluice_rollout_quarantined", "1 for a feature of the snapshot that is not served.", ["feature"]
        )
        self.locally_killed = gauge(
            "sluice_rollout_locally_killed", "1 for a feature that is killed on this gateway alone.", ["feature"]
        )
        self.override_problems = gauge(
            "sluice_rollout_override_problems", "Mistakes in this gateway's file of local overrides; 0: none."
        )
        self.evidence_reports = counter(
            "sluice_rollout_evidence_reports_total", "Reports of evidence, by outcome.", ["outcome"]
        )
        self.evidence_lost = counter(
            "sluice_rollout_evidence_lost_total", "Evidence that will not be reported.", ["kind"]
        )
        self.shadow_searches = counter(
            "sluice_shadow_searches_total", "Treatments run for control requests, off the reply's path.", ["outcome"]
        )
        self.shadow_judgements = counter(
            "sluice_shadow_judgements_total", "The reranker's judgements of shadow pairs.", ["judgement"]
        )
        self.shadow_seconds = histogram(
            "sluice_shadow_search_seconds",
            "Both searches of shadow pairs, from start to end.",
            ["side"],
            buckets=LATENCY_BUCKETS,
        )
        self.recent = RecentEnrichment()
        self.enrichment_usage_rate.set_function(self.recent.usage_rate)
        self.mean_enrichment_score.set_function(self.recent.mean_score)
        self.mean_relations.set_function(self.recent.mean_relations)
        self.snapshot_age = SnapshotAge()
        registry.register(self.snapshot_age)
        # The children are looked up once, because `labels` costs more than counting does.
        values = [(False, True) if flag.kind is bool else flag.choices for flag in _LABELS]
        self._by_flags = {key: _Series(self, key) for key in product(*values)}
        self._stage_outcomes = {
            (stage, outcome): self.stage_outcomes.labels(stage.name.lower(), outcome.name.lower())
            for stage, outcome in product(Stage, Outcome)
        }

    def breaker_changed(self, stage: str, _old: str, new: str) -> None:
        """Count a `services.chassis.breaker.Transition` of a stage's breaker."""
        self.stage_breaker_open.labels(stage).set(new != "closed")
        self.stage_breaker_transitions.labels(stage, new).inc()

    def observe_stages(self, features: Features, reports: Sequence[StageReport]) -> None:
        """Count the reports of one search, answered or not."""
        series = self.by_flags(features)
        exemplar = tracing.exemplar()
        for report in reports:
            if report.reason == "NOT_REACHED":
                continue
            self._stage_outcomes[report.stage, report.outcome].inc()
            if report.outcome is not Outcome.SKIPPED:
                series.stage_seconds[report.stage].observe(report.seconds, exemplar)
            if report.stage is Stage.EXPAND and features.expansion:
                self.search_variants.observe(max(1, report.item_count))
            if report.reason == "NO_CANDIDATES":
                self.rerank_without_candidates.inc()
            elif report.reason == "MODEL_MISMATCH":
                self.model_mismatches.inc()

    def by_flags(self, features: Features) -> _Series:
        """Return the series for the flags of a search."""
        return self._by_flags[tuple(getattr(features, name) for name in _FLAGS)]


class _Series:
    """The series of searches with the same values of the flags that are labels."""

    def __init__(self, metrics: GatewayMetrics, key: tuple[object, ...]) -> None:
        labels = [{False: "off", True: "on"}[value] if isinstance(value, bool) else value for value in key]
        self.seconds = metrics.search_seconds.labels(*labels)
        self.outcomes = {outcome: metrics.searches.labels(*labels, outcome) for outcome in _OUTCOMES}
        self.stage_seconds = {stage: metrics.stage_seconds.labels(stage.name.lower(), *labels) for stage in Stage}


class SnapshotAge(Collector):
    """A gauge that exists only while a rollout service is configured."""

    name = "sluice_rollout_snapshot_age_seconds"
    text = "Time since the last message of the rollout service."

    def __init__(self) -> None:
        self.seconds: Callable[[], float] | None = None

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield the age at a scrape."""
        if self.seconds is not None:
            yield GaugeMetricFamily(self.name, self.text, value=self.seconds())


class ObservedSearch:
    """Counts and traces one search: `with ObservedSearch(metrics, features, deadline) as observed: ...`."""

    def __init__(self, metrics: GatewayMetrics, features: Features, deadline: float) -> None:
        """`deadline` is on the monotonic clock."""
        self._metrics = metrics
        self._features = features
        self._deadline = deadline
        self._answer: Answer | None = None

    def answered(self, answer: Answer) -> None:
        """Record the answer."""
        self._answer = answer
        self._metrics.results_returned.observe(len(answer.results))
        score, relations = answer.enrichment_score, sum(len(result.path) for result in answer.results)
        self._metrics.recent.add(score, relations)
        if score is not None:
            self._metrics.enrichment_scores.observe(score)
            self._metrics.relations_of_results.observe(relations)

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        outcome = self._outcome(error)
        series = self._metrics.by_flags(self._features)
        series.seconds.observe(time.perf_counter() - self._started, tracing.exemplar())
        series.outcomes[outcome].inc()
        logs.note(outcome=outcome)
        if (span := tracing.recorded()) is not None:
            flags = {f"sluice.features.{name}": value for name, value in self._features.values.items()}
            span.set_attributes({"sluice.outcome": outcome, **flags})
            if self._answer is not None:
                span.set_attributes(_described(self._answer))

    def _outcome(self, error: BaseException | None) -> str:
        if error is None:
            complete = self._answer is not None and all(report.complete for report in self._answer.reports)
            return "full" if complete else "degraded"
        return _failure(error, self._deadline)


class ObservedAnswer:
    """Counts one answer in words: `with ObservedAnswer(metrics, deadline) as observed: ...`."""

    def __init__(self, metrics: GatewayMetrics, deadline: float) -> None:
        """`deadline` is on the monotonic clock."""
        self._metrics = metrics
        self._deadline = deadline
        self._method = "none"
        self._complete = False

    def answered(self, method: str, reports: Sequence[StageReport], seconds: Mapping[str, float]) -> None:
        """Record the answer: what made it, the reports of all stages, and its times by part."""
        self._method = method
        self._complete = all(report.complete for report in reports)
        for part, taken in seconds.items():
            self._metrics.answer_seconds.labels(part).observe(taken, tracing.exemplar())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        outcome = ("full" if self._complete else "degraded") if error is None else _failure(error, self._deadline)
        self._metrics.answers.labels(self._method, outcome).inc()
        if (span := tracing.recorded()) is not None:
            span.set_attributes({"sluice.answer.method": self._method, "sluice.answer.outcome": outcome})


def _failure(error: BaseException, deadline: float) -> str:
    """Outcome of a request that failed."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        # The server cancels a call, or closes a stream, whose deadline passes, as it does one whose caller leaves.
        return "late" if time.monotonic() >= deadline else "cancelled"
    return kind_of(error).outcome


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


@cache
def process_metrics() -> GatewayMetrics:
    """The series of this process, in the default registry."""
    return GatewayMetrics()
