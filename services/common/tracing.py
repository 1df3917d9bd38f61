"""Traces: W3C context through every hop, spans to an OTLP collector when an endpoint is set.

The ready-made grpc.aio interceptors break cancellation and record errors twice, so the server's interceptor and the
client open their spans themselves (docs/adr/0003-own-tracing-hooks.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from services.common.settings import StageSettings

Metadata = tuple[tuple[str, str | bytes], ...]

_tracer = trace.get_tracer("sluice")


@contextmanager
def exporting(stage: str, settings: StageSettings) -> Iterator[None]:
    """Exports spans while the stage lives. The queue is bounded: a collector that is down costs nothing but spans."""
    if not settings.otel_exporter_otlp_endpoint:
        yield
        return
    provider = TracerProvider(resource=Resource.create({"service.name": f"sluice-{stage}"}))
    exporter = OTLPSpanExporter(endpoint=settings.otel_exporter_otlp_endpoint, insecure=True, timeout=2)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()


@contextmanager
def server_span(method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Iterator[Span]:
    """The span of a call that came in, below the caller's span if its metadata names one."""
    carrier = {key: value for key, value in metadata if isinstance(value, str)}
    if "traceparent" not in carrier and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        yield trace.INVALID_SPAN  # nothing exports it, and nobody will ask for it
        return
    with _span(method, SpanKind.SERVER, parent=carrier) as span:
        yield span


@contextmanager
def client_span(method: str) -> Iterator[tuple[Span, Metadata]]:
    """The span of a call that goes out, and the metadata that carries it to the server."""
    with _span(method, SpanKind.CLIENT, parent=None) as span:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        yield span, tuple(carrier.items())


@contextmanager
def _span(method: str, kind: SpanKind, parent: dict[str, str] | None) -> Iterator[Span]:
    service, _, name = method.strip("/").partition("/")
    context = propagate.extract(parent) if parent is not None else None
    attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
    with _tracer.start_as_current_span(
        method.strip("/"),
        context=context,
        kind=kind,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        yield span


def end_with_code(span: Span, code: str) -> None:
    """Notes the outcome of a call on its span, once."""
    span.set_attribute("rpc.grpc.status_code", code)
    if code != "OK":
        span.set_status(Status(StatusCode.ERROR, code))
