"""The series of the stages that compute with a model: the model, its queue and its passes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import get_args

from opentelemetry.trace import Span
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from services.chassis import tracing
from services.chassis.metrics import LATENCY_BUCKETS
from services.inference.models.info import ModelInfo
from services.inference.scheduling import BatchReport, DropReason, Lane, RefusalReason, SchedulerObserver

ROWS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class InferenceMetrics:
    """The series of a stage's models and their schedulers, under the same names in every model stage."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        seconds = partial(Histogram, labelnames=["lane"], buckets=LATENCY_BUCKETS, registry=registry)
        self.queued_entries = gauge("sluice_queue_depth", "Texts or pairs that wait for the model.", ["lane"])
        self.queued_tokens = gauge("sluice_queued_tokens", "Tokens that wait for the model.", ["lane"])
        self.batch_seconds = seconds("sluice_batch_compute_seconds", "Time of one pass through the model.")
        self.batch_wait_seconds = seconds("sluice_batch_wait_seconds", "Time that the leader of a batch waited.")
        self.computed_tokens = counter("sluice_computed_tokens_total", "Tokens computed, padding left out.", ["lane"])
        self.padding_tokens = counter("sluice_padding_tokens_total", "Tokens computed as padding.", ["lane"])
        self.requested_results = counter("sluice_requested_results_total", "Results asked for, reused ones too.")
        self.reused_results = counter(
            "sluice_reused_results_total",
            "Results not computed again. Share of cache hits: "
            '`{source="cache"}` over `sluice_requested_results_total`.',
            ["source"],
        )
        self.dropped_work = counter(
            "sluice_dropped_work_total", "Work that left the queue uncomputed.", ["lane", "reason"]
        )
        self.refused_calls = counter("sluice_refused_calls_total", "Calls turned away whole.", ["lane", "reason"])
        self.precision_refused = gauge(
            "sluice_precision_refused",
            "1 where `int8` was set but lost too much quality on this processor, or was slower, and another precision "
            "serves; else 0.",
        )

    def describe(self, model: ModelInfo, precision: str) -> None:
        """Show if the model serves in int8 where that was set."""
        self.precision_refused.set(not model.pseudo and precision == "int8" != model.precision)


def model_info(name: str, registry: CollectorRegistry) -> Gauge:
    """The gauge that shows a stage's model in its labels, see `describe`."""
    labels = ["name", "fingerprint", "backend", "precision", "device"]
    return Gauge(name, "The model that serves; always 1.", labels, registry=registry)


def describe(gauge: Gauge, model: ModelInfo) -> None:
    """Show a model in its gauge."""
    gauge.labels(model.name, model.fingerprint, model.backend, model.precision, model.device).set(1)


@cache
def process_metrics() -> InferenceMetrics:
    """The series of this process, in the default registry."""
    return InferenceMetrics()


class SchedulerTelemetry(SchedulerObserver):
    """Counts the work of a scheduler and traces its batches. `batch_size` is the model's own histogram of rows.

    Where a stage has several models, the series of `metrics` count all of them together.
    """

    def __init__(self, metrics: InferenceMetrics, batch_size: Histogram) -> None:
        self._metrics = metrics
        self._batch_size = batch_size
        self._cached = metrics.reused_results.labels("cache")
        self._shared = metrics.reused_results.labels("in_flight")
        self._lanes = {lane: _LaneSeries.of(lane.value, metrics) for lane in Lane}
        self._waiting = dict.fromkeys(Lane, (0, 0))

    def call_began(self) -> object | None:
        """The call's span, for the spans of its batches."""
        return tracing.recorded()

    def queue_changed(self, lane: Lane, entries: int, tokens: int) -> None:
        """Note the length of a lane."""
        before, self._waiting[lane] = self._waiting[lane], (entries, tokens)
        series = self._lanes[lane]
        series.queued_entries.inc(entries - before[0])
        series.queued_tokens.inc(tokens - before[1])

    def batch_finished(self, report: BatchReport) -> None:
        """Count a pass."""
        series = self._lanes[report.lane]
        self._batch_size.observe(report.rows)
        series.compute.observe(report.compute_seconds)
        series.wait.observe(report.waited_seconds)
        series.tokens.inc(report.tokens)
        series.padding.inc(report.padded_tokens - report.tokens)
        if report.origins:
            _trace(report)

    def reused(self, requested: int, cached: int, shared: int) -> None:
        """Count requested results, and those from the cache and from the same work in flight."""
        self._metrics.requested_results.inc(requested)
        if cached:
            self._cached.inc(cached)
        if shared:
            self._shared.inc(shared)

    def dropped(self, lane: Lane, reason: DropReason) -> None:
        """Count work that left the queue."""
        self._metrics.dropped_work.labels(lane.value, reason).inc()

    def refused(self, lane: Lane, reason: RefusalReason) -> None:
        """Count a call that was refused."""
        self._metrics.refused_calls.labels(lane.value, reason).inc()


def _trace(report: BatchReport) -> None:
    tracing.linked_span(
        "batch",
        [origin for origin in report.origins if isinstance(origin, Span)],
        {
            "sluice.lane": report.lane.value,
            "sluice.rows": report.rows,
            "sluice.rows.failed": report.failed_rows,
            "sluice.tokens": report.tokens,
            "sluice.tokens.padded": report.padded_tokens,
            "sluice.waited_seconds": report.waited_seconds,
        },
        seconds=report.compute_seconds,
        problem=f"{report.failed_rows} rows failed" if report.failed_rows else "",
    )


@dataclass(slots=True)
class _LaneSeries:
    """The series of one lane."""

    compute: Histogram
    wait: Histogram
    tokens: Counter
    padding: Counter
    queued_entries: Gauge
    queued_tokens: Gauge

    @classmethod
    def of(cls, lane: str, metrics: InferenceMetrics) -> _LaneSeries:
        """Series that exist from the start, so that they have a rate from the start."""
        series = cls(
            metrics.batch_seconds.labels(lane),
            metrics.batch_wait_seconds.labels(lane),
            metrics.computed_tokens.labels(lane),
            metrics.padding_tokens.labels(lane),
            metrics.queued_entries.labels(lane),
            metrics.queued_tokens.labels(lane),
        )
        for drop in get_args(DropReason):
            metrics.dropped_work.labels(lane, drop)
        for refusal in get_args(RefusalReason):
            metrics.refused_calls.labels(lane, refusal)
        return series
