"""The series of the stages that compute with a model: what waits for it, and what its passes cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from opentelemetry.trace import Span
from prometheus_client import Counter, Gauge, Histogram

from services.chassis import tracing
from services.chassis.metrics import LATENCY_BUCKETS
from services.inference.scheduling import BatchReport, DropReason, Lane, RefusalReason, SchedulerObserver

queued_entries = Gauge("sluice_queue_depth", "Texts or pairs that wait for the model.", ["lane"])
queued_tokens = Gauge("sluice_queued_tokens", "Tokens that wait for the model.", ["lane"])
batch_seconds = Histogram(
    "sluice_batch_compute_seconds", "Time of one pass through the model.", ["lane"], buckets=LATENCY_BUCKETS
)
batch_wait_seconds = Histogram(
    "sluice_batch_wait_seconds", "Time that the leader of a batch waited.", ["lane"], buckets=LATENCY_BUCKETS
)
computed_tokens = Counter("sluice_computed_tokens_total", "Tokens computed, padding left out.", ["lane"])
padding_tokens = Counter("sluice_padding_tokens_total", "Tokens computed as padding.", ["lane"])
requested_results = Counter("sluice_requested_results_total", "Results asked for, reused ones too.")
reused_results = Counter(
    "sluice_reused_results_total",
    'Results not computed again. Share of cache hits: `{source="cache"}` over `sluice_requested_results_total`.',
    ["source"],
)
dropped_work = Counter("sluice_dropped_work_total", "Work that left the queue uncomputed.", ["lane", "reason"])
refused_calls = Counter("sluice_refused_calls_total", "Calls turned away whole.", ["lane", "reason"])


@dataclass(slots=True)
class _LaneMetrics:
    """What is counted of one lane."""

    compute: Histogram
    wait: Histogram
    tokens: Counter
    padding: Counter
    waiting_entries: int = 0
    waiting_tokens: int = 0


class SchedulerTelemetry(SchedulerObserver):
    """Counts what a scheduler does and traces its batches; `batch_size` is the stage's own histogram of rows a pass."""

    def __init__(self, batch_size: Histogram) -> None:
        self._batch_size = batch_size
        self._cached = reused_results.labels("cache")
        self._shared = reused_results.labels("in_flight")
        self._lanes = {lane: _lane_metrics(lane.value) for lane in Lane}

    def call_began(self) -> object | None:
        """The call's span, for the spans of its batches."""
        return tracing.recorded()

    def queue_changed(self, lane: Lane, entries: int, tokens: int) -> None:
        """So much waits in this lane now."""
        counted = self._lanes[lane]
        counted.waiting_entries, counted.waiting_tokens = entries, tokens

    def batch_finished(self, report: BatchReport) -> None:
        """A pass ended."""
        counted = self._lanes[report.lane]
        self._batch_size.observe(report.rows)
        counted.compute.observe(report.compute_seconds)
        counted.wait.observe(report.waited_seconds)
        counted.tokens.inc(report.tokens)
        counted.padding.inc(report.padded_tokens - report.tokens)
        if report.origins:
            _trace(report)

    def reused(self, requested: int, cached: int, shared: int) -> None:
        """Results that were asked for, that came from the cache, and from the same work in flight."""
        requested_results.inc(requested)
        if cached:
            self._cached.inc(cached)
        if shared:
            self._shared.inc(shared)

    def dropped(self, lane: Lane, reason: DropReason) -> None:
        """Nobody waits for it any more."""
        dropped_work.labels(lane.value, reason).inc()

    def refused(self, lane: Lane, reason: RefusalReason) -> None:
        """A whole call was turned away."""
        refused_calls.labels(lane.value, reason).inc()


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


def _lane_metrics(lane: str) -> _LaneMetrics:
    counted = _LaneMetrics(
        batch_seconds.labels(lane),
        batch_wait_seconds.labels(lane),
        computed_tokens.labels(lane),
        padding_tokens.labels(lane),
    )
    queued_entries.labels(lane).set_function(lambda: counted.waiting_entries)
    queued_tokens.labels(lane).set_function(lambda: counted.waiting_tokens)
    for drop in get_args(DropReason):  # what is there from the start has a rate from the start
        dropped_work.labels(lane, drop)
    for refusal in get_args(RefusalReason):
        refused_calls.labels(lane, refusal)
    return counted
