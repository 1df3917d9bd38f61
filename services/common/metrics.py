"""The series that every stage has, and the endpoint that shows them. A stage's own series are in its `metrics.py`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from services.common.errors import StartupError
from services.common.scheduling import BatchReport, DropReason, Lane, RefusalReason, SchedulerObserver

# Milliseconds to seconds: from a cache hit to a deadline.
LATENCY_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.35,
    0.5, 0.75, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 30.0,
)  # fmt: skip

rpc_started = Counter("grpc_server_started_total", "Calls started.", ["grpc_service", "grpc_method"])
rpc_handled = Counter(
    "grpc_server_handled_total",
    "Calls ended, by status code; cancelled and timed-out calls are counted too.",
    ["grpc_service", "grpc_method", "grpc_code"],
)
rpc_seconds = Histogram(
    "grpc_server_handling_seconds",
    "Time from the start to the end of a call.",
    ["grpc_service", "grpc_method"],
    buckets=LATENCY_BUCKETS,
)
rpc_in_flight = Gauge("grpc_server_in_flight", "Calls under way.", ["grpc_service", "grpc_method"])


@contextmanager
def exposed(host: str, port: int) -> Iterator[None]:
    """Serves `/metrics` while the stage lives; port 0 serves nothing."""
    if port == 0:
        yield
        return
    try:
        server, thread = start_http_server(port, addr=_plain(host))
    except OSError as error:
        raise StartupError(
            f"METRICS_PORT: cannot serve metrics on {host}:{port}: {error.strerror or error}",
            remedy="Choose a free METRICS_PORT, or 0 for none.",
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _plain(host: str) -> str:
    return host.strip("[]")


concurrency_limit = Gauge("sluice_concurrency_limit", "Calls that may be under way at once, just now.")

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
reused_results = Counter("sluice_reused_results_total", "Results not computed again.", ["source"])
dropped_work = Counter("sluice_dropped_work_total", "Work that left the queue uncomputed.", ["lane", "reason"])
refused_calls = Counter("sluice_refused_calls_total", "Calls turned away whole.", ["lane", "reason"])


class SchedulerMetrics(SchedulerObserver):
    """Counts what a scheduler does; `batch_size` is the stage's own histogram of rows a pass."""

    def __init__(self, batch_size: Histogram) -> None:
        self._batch_size = batch_size

    def queue_changed(self, lane: Lane, entries: int, tokens: int) -> None:
        """So much waits in this lane now."""
        queued_entries.labels(lane.value).set(entries)
        queued_tokens.labels(lane.value).set(tokens)

    def batch_finished(self, report: BatchReport) -> None:
        """A pass ended."""
        lane = report.lane.value
        self._batch_size.observe(report.rows)
        batch_seconds.labels(lane).observe(report.compute_seconds)
        batch_wait_seconds.labels(lane).observe(report.waited_seconds)
        computed_tokens.labels(lane).inc(report.tokens)
        padding_tokens.labels(lane).inc(report.padded_tokens - report.tokens)

    def reused(self, cached: int, shared: int) -> None:
        """Results that came from the cache, or from the same work in flight."""
        reused_results.labels("cache").inc(cached)
        reused_results.labels("in_flight").inc(shared)

    def dropped(self, lane: Lane, reason: DropReason) -> None:
        """Nobody waits for it any more."""
        dropped_work.labels(lane.value, reason).inc()

    def refused(self, lane: Lane, reason: RefusalReason) -> None:
        """A whole call was turned away."""
        refused_calls.labels(lane.value, reason).inc()
