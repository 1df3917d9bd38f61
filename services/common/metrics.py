"""The series that every stage has, and the endpoint that shows them. A stage's own series are in its `metrics.py`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from services.common.errors import StartupError

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
