"""The series that every stage has, and the endpoint that shows them. A stage's own series are in its `metrics.py`.

docs/metrics.md lists all of them. What is counted at every call is looked up once and kept: `labels` costs more than
counting does. What is only looked at when somebody scrapes is a number that the gauge reads then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics, start_http_server

from services.chassis import tracing
from services.chassis.errors import StartupError
from services.chassis.tracing import Fate

# Milliseconds to seconds: from a cache hit to a deadline.
LATENCY_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.35,
    0.5, 0.75, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 30.0,
)  # fmt: skip
_DEADLINE_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

# When a counter was made, as a series of its own for each: nobody asks.
disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped upstream

build_info = Gauge("sluice_build_info", "The stage and its release; always 1.", ["stage", "release"])

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
rpc_retried = Counter(
    "grpc_server_retried_total",
    "Calls that are a retry of an earlier one by the caller's gRPC. Retry rate: this over `grpc_server_started_total`.",
    ["grpc_service", "grpc_method"],
)
rpc_deadline = Histogram(
    "sluice_deadline_left_seconds",
    "Time that a call's deadline left when it arrived; calls without a deadline are left out.",
    ["grpc_service", "grpc_method"],
    buckets=_DEADLINE_BUCKETS,
)


class MethodMetrics:
    """The series of one RPC."""

    def __init__(self, service: str, method: str) -> None:
        self._names = service, method
        self._started = rpc_started.labels(service, method)
        self._retried = rpc_retried.labels(service, method)
        self._deadline = rpc_deadline.labels(service, method)
        self._seconds = rpc_seconds.labels(service, method)
        self._handled: dict[str, Counter] = {}
        self._in_flight = 0
        rpc_in_flight.labels(service, method).set_function(lambda: self._in_flight)

    def started(self, *, retried: bool, time_left: float | None) -> None:
        """A call began, as a retry of another perhaps, with so many seconds until its deadline, if it has one."""
        self._in_flight += 1
        self._started.inc()
        if retried:
            self._retried.inc()
        if time_left is not None:
            self._deadline.observe(time_left)

    def ended(self, code: str, seconds: float | None) -> None:
        """A call ended, however, after so many seconds, where that says anything."""
        self._in_flight -= 1
        if (handled := self._handled.get(code)) is None:
            handled = self._handled[code] = rpc_handled.labels(*self._names, code)
        handled.inc()
        if seconds is not None:
            self._seconds.observe(seconds, tracing.exemplar())


spans = Counter(
    "sluice_spans_total",
    "Spans that the collector took (`exported`), and that it did not take or that found no room (`lost`).",
    ["result"],
)


def count_spans(fate: Fate, number: int) -> None:
    """Counts what became of spans."""
    spans.labels(fate).inc(number)


@contextmanager
def exposed(stage: str, host: str, port: int) -> Iterator[None]:
    """Serves `/metrics` while the stage lives; port 0 serves nothing."""
    build_info.labels(stage, version("sluice")).set(1)
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
