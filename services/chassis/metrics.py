"""The series that every stage has, and the endpoint that shows them. A stage's own series are in its `metrics.py`.

docs/metrics.md lists all of them. The children of a labelled series are looked up once and kept, because `labels`
costs more than counting does. A number that only a scrape needs is read by the gauge at that time.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    start_http_server,
)

from services import __version__
from services.chassis import tracing
from services.chassis.errors import StartupError
from services.chassis.settings import StageSettings
from services.chassis.tracing import Fate

# Seconds, from a cache hit to a deadline.
LATENCY_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.35,
    0.5, 0.75, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 30.0,
)  # fmt: skip
_DEADLINE_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

# The creation time of every counter would be a series of its own.
disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped upstream


class ServerMetrics:
    """The series of a server and of its calls."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        method = ["grpc_service", "grpc_method"]
        self.build_info = Gauge(
            "sluice_build_info", "The stage and its release; always 1.", ["stage", "release"], registry=registry
        )
        self.certificate_expiry = Gauge(
            "sluice_certificate_expiry_timestamp_seconds",
            "Unix time at which the certificate that it serves with expires; 0 without TLS.",
            registry=registry,
        )
        self.started = Counter("grpc_server_started_total", "Calls started.", method, registry=registry)
        self.handled = Counter(
            "grpc_server_handled_total",
            "Calls ended, by status code; cancelled and timed-out calls are counted too.",
            [*method, "grpc_code"],
            registry=registry,
        )
        self.seconds = Histogram(
            "grpc_server_handling_seconds",
            "Time from the start to the end of a call.",
            method,
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.in_flight = Gauge("grpc_server_in_flight", "Calls under way.", method, registry=registry)
        self.retried = Counter(
            "grpc_server_retried_total",
            "Calls that are a retry of an earlier one by the caller's gRPC. Retry rate: this over "
            "`grpc_server_started_total`.",
            method,
            registry=registry,
        )
        self.deadline = Histogram(
            "sluice_deadline_left_seconds",
            "Time that a call's deadline left when it arrived; calls without a deadline are left out.",
            method,
            buckets=_DEADLINE_BUCKETS,
            registry=registry,
        )
        self.spans = Counter(
            "sluice_spans_total",
            "Spans that the collector took (`exported`), and that it did not take or that found no room (`lost`).",
            ["result"],
            registry=registry,
        )
        self._methods: dict[tuple[str, str], MethodMetrics] = {}

    def method(self, service: str, method: str) -> MethodMetrics:
        """The series of one RPC."""
        names = service, method
        if names not in self._methods:
            self._methods[names] = MethodMetrics(self, service, method)
        return self._methods[names]

    def count_spans(self, fate: Fate, number: int) -> None:
        """Count spans that were exported or lost."""
        self.spans.labels(fate).inc(number)


class MethodMetrics:
    """The series of one RPC."""

    def __init__(self, server: ServerMetrics, service: str, method: str) -> None:
        self._names = service, method
        self._all_handled = server.handled
        self._started = server.started.labels(service, method)
        self._retried = server.retried.labels(service, method)
        self._deadline = server.deadline.labels(service, method)
        self._seconds = server.seconds.labels(service, method)
        self._handled: dict[str, Counter] = {}
        self._in_flight = 0
        server.in_flight.labels(service, method).set_function(lambda: self._in_flight)

    def started(self, *, retried: bool, time_left: float | None) -> None:
        """Count the start of a call. `time_left` is in seconds, and None for a call without a deadline."""
        self._in_flight += 1
        self._started.inc()
        if retried:
            self._retried.inc()
        if time_left is not None:
            self._deadline.observe(time_left)

    def ended(self, code: str, seconds: float | None) -> None:
        """Count the end of a call. `seconds` is None where length has no meaning."""
        self._in_flight -= 1
        if (handled := self._handled.get(code)) is None:
            handled = self._handled[code] = self._all_handled.labels(*self._names, code)
        handled.inc()
        if seconds is not None:
            self._seconds.observe(seconds, tracing.exemplar())


@cache
def process_metrics() -> ServerMetrics:
    """The series of this process, in the default registry."""
    return ServerMetrics()


@contextmanager
def exposed(stage: str, settings: StageSettings) -> Iterator[None]:
    """Serve `/metrics` while the block runs; METRICS_PORT 0 serves nothing."""
    host, port = settings.grpc_host, settings.metrics_port
    process_metrics().build_info.labels(stage, __version__).set(1)
    if port == 0:
        yield
        return
    secured = _secured(settings)
    try:
        server, thread = start_http_server(port, addr=host.strip("[]"), **secured)
    except OSError as error:
        is_taken = error.errno in (errno.EADDRINUSE, errno.EACCES)
        raise StartupError(
            f"METRICS_PORT: cannot serve metrics on {host}:{port}: {error.strerror or error}",
            remedy="Choose a free METRICS_PORT, or 0 for none."
            if is_taken
            else "Set GRPC_HOST to an address of this machine, as 0.0.0.0 for all.",
        ) from error
    if secured:
        _renew(server.socket, settings)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _secured(settings: StageSettings) -> dict[str, Any]:
    """Return the options of a server that speaks TLS, to those who show a certificate; none where it is off."""
    if not settings.metrics_tls:
        return {}
    try:
        _context(settings)
    except OSError as error:  # ssl.SSLError is one
        raise StartupError(
            f"METRICS_TLS: the certificate cannot be used: {error}",
            remedy="Check that the GRPC_TLS_ files are there, are PEM, and belong together.",
        ) from error
    return {
        "certfile": str(settings.grpc_tls_certificate),
        "keyfile": str(settings.grpc_tls_key),
        "client_cafile": str(settings.grpc_tls_authority),
        "client_auth_required": True,
    }


def _context(settings: StageSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(str(settings.grpc_tls_certificate), str(settings.grpc_tls_key))
    context.load_verify_locations(str(settings.grpc_tls_authority))
    return context


def _renew(listening: Any, settings: StageSettings) -> None:
    """Let each handshake read the files again, in the thread of its connection and not in that which accepts."""
    listening.do_handshake_on_connect = False

    def follow(connection: ssl.SSLObject, _name: str | None, _context_of_the_start: ssl.SSLContext) -> None:
        # Between two writes the files may not belong together: those of the start serve meanwhile.
        with suppress(OSError):
            connection.context = _context(settings)

    listening.context.sni_callback = follow
