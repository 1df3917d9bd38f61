"""Traces: W3C context through every hop, and spans to an OTLP collector.

The ready-made grpc.aio interceptors break cancellation and record errors twice, so the server's interceptor and the
client open their spans themselves (docs/adr/0003-own-tracing-hooks.md). A call that is not sampled costs a header and
no span object (docs/adr/0018-cost-of-telemetry.md).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

from grpc import ChannelCredentials, Compression, ssl_channel_credentials
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider, sampling
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from services.chassis import logs
from services.chassis.errors import StartupError
from services.chassis.settings import StageSettings

Fate = Literal["exported", "lost"]
"""The collector took a span, or it was refused or found no room."""
Count = Callable[[Fate, int], None]

QUEUED_SPANS = 2048
"""Spans that wait for a collector that is slow or down, about 4 MB."""
EXPORT_SECONDS = 2
SPANS_AN_EXPORT = 32
"""Encoding holds the interpreter's lock: about 2 ms for this many spans."""

_COMPRESSION_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION")
_W3C = TraceContextTextMapPropagator()
_HEADERS = frozenset(_W3C.fields)
_IDS = RandomIdGenerator()

_log = logs.get_logger("tracing")


class _Recorder:
    """The tracers of this process."""

    def __init__(self, sampled: TracerProvider, always: TracerProvider) -> None:
        self.sampled = sampled.get_tracer("sluice")
        self.always = always.get_tracer("sluice")


_recorder: _Recorder | None = None


@contextmanager
def exporting(stage: str, settings: StageSettings, count: Count) -> Iterator[None]:
    """Export spans while the block runs. The queue is bounded: a collector that is down costs nothing but spans."""
    if not settings.otel_exporter_otlp_endpoint:
        yield
        return
    # It logs every failed export; `_Export` logs the first.
    logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter").setLevel(logging.CRITICAL)
    processor = BoundedProcessor(_exporter(settings), count)
    with recording(stage, processor, sampler_of(settings)):
        try:
            yield
        finally:
            processor.shutdown()


def _exporter(settings: StageSettings) -> SpanExporter:
    """Return an exporter to the endpoint. Raise StartupError if a variable of OpenTelemetry or a file is unreadable."""
    endpoint = settings.otel_exporter_otlp_endpoint
    compression = next(filter(None, map(os.environ.get, _COMPRESSION_VARIABLES)), "")
    secure = endpoint.lower().startswith("https://")
    credentials = _credentials(settings) if secure else None
    try:
        return OTLPSpanExporter(
            endpoint=endpoint,
            insecure=not secure,
            credentials=credentials,
            timeout=EXPORT_SECONDS,
            # OpenTelemetry defines `none`, but its exporter does not know it.
            compression=Compression.NoCompression if compression.strip().lower() == "none" else None,
            # A proxy that the environment names is for the web.
            channel_options=(("grpc.enable_http_proxy", 0),),  # type: ignore[arg-type]  # too narrow upstream
        )
    except Exception as error:  # a class of its own for each variable
        given = sorted(name for name in os.environ if name.startswith("OTEL_"))
        raise StartupError(
            f"the exporter of traces cannot be set up: {error}",
            remedy=f"Correct or unset the variable of OpenTelemetry that is meant, of {', '.join(given)}.",
        ) from error


def _credentials(settings: StageSettings) -> ChannelCredentials:
    files = {
        "root_certificates": settings.otel_exporter_otlp_certificate,
        "private_key": settings.otel_exporter_otlp_client_key,
        "certificate_chain": settings.otel_exporter_otlp_client_certificate,
    }
    try:
        return ssl_channel_credentials(**{name: file.read_bytes() for name, file in files.items() if file})
    except OSError as error:
        raise StartupError(
            f"{error.filename} cannot be read: {error.strerror}",
            remedy="Let OTEL_EXPORTER_OTLP_CERTIFICATE and those of the client name PEM files, or unset them.",
        ) from error


@contextmanager
def recording(stage: str, processor: SpanProcessor, sampler: sampling.Sampler) -> Iterator[None]:
    """Record the spans of this process, and hand them to a processor."""
    global _recorder  # noqa: PLW0603  a process has one, as it has one registry of metrics
    resource = Resource.create({"service.name": f"sluice-{stage}"})
    providers = [
        TracerProvider(sampler=chosen, resource=resource, shutdown_on_exit=False)
        for chosen in (sampler, sampling.ALWAYS_ON)
    ]
    for provider in providers:
        provider.add_span_processor(processor)
    _recorder = _Recorder(*providers)
    try:
        yield
    finally:
        _recorder = None


def sampler_of(settings: StageSettings) -> sampling.Sampler:
    """The sampler that the settings name."""
    share = sampling.TraceIdRatioBased(settings.otel_traces_sampler_arg)
    samplers: dict[str, sampling.Sampler] = {
        "always_on": sampling.ALWAYS_ON,
        "always_off": sampling.ALWAYS_OFF,
        "traceidratio": share,
        "parentbased_always_on": sampling.DEFAULT_ON,
        "parentbased_always_off": sampling.DEFAULT_OFF,
        "parentbased_traceidratio": sampling.ParentBased(share),
    }
    return samplers[settings.otel_traces_sampler]


@contextmanager
def _current(span: Span) -> Iterator[Span]:
    """Make a span the current one while the block runs, and end it afterwards."""
    token = context.attach(trace.set_span_in_context(span))
    try:
        yield span
    finally:
        context.detach(token)
        span.end()


_NOT_RECORDED = nullcontext(trace.INVALID_SPAN)


def server_span(
    method: str, metadata: Iterable[tuple[str, str | bytes]], request_id: str
) -> AbstractContextManager[Span]:
    """Span of an incoming call, below the caller's span if there is one."""
    carrier = {key: value for key, value in metadata if key in _HEADERS and isinstance(value, str)}
    if not carrier and _recorder is None:
        return _NOT_RECORDED
    parent = _W3C.extract(carrier, Context()) if carrier else Context()
    if _recorder is None:
        return _current(trace.get_current_span(parent))
    attributes = {"rpc.system.name": "grpc", "rpc.method": method, "sluice.request_id": request_id}
    return _current(_recorder.sampled.start_span(method, parent, SpanKind.SERVER, attributes))


def client_span(name: str, attributes: Mapping[str, AttributeValue]) -> AbstractContextManager[Span]:
    """Span of an outgoing call, below the current span if that is recorded."""
    if _recorder is None or not trace.get_current_span().is_recording():
        return _NOT_RECORDED
    return _current(_recorder.sampled.start_span(name, None, SpanKind.CLIENT, attributes))


def untraced() -> AbstractContextManager[Span]:
    """Keep outgoing calls out of all traces while the block runs; for polling."""
    unsampled = TraceFlags(TraceFlags.DEFAULT)
    nowhere = SpanContext(_IDS.generate_trace_id(), _IDS.generate_span_id(), is_remote=False, trace_flags=unsampled)
    return _current(NonRecordingSpan(nowhere))


def headers() -> dict[str, str]:
    """Headers that carry the current span to the called server."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return carrier


def recorded() -> Span | None:
    """The current span, or None if it is not recorded."""
    span = trace.get_current_span()
    return span if span.is_recording() else None


def exemplar() -> dict[str, str] | None:
    """Exemplar of the current trace, or None if that is not recorded."""
    span = recorded()
    return {"trace_id": trace.format_trace_id(span.get_span_context().trace_id)} if span else None


def end_with_code(span: Span, code: str, attribute: str = "rpc.response.status_code") -> None:
    """Set the outcome of a call on its span."""
    if not span.is_recording():
        return
    span.set_attribute(attribute, code)
    if code != "OK":
        span.set_status(Status(StatusCode.ERROR, code))


def linked_span(
    name: str, calls: Sequence[Span], attributes: Mapping[str, AttributeValue], *, seconds: float, problem: str = ""
) -> None:
    """Record work that several calls shared, at its end, as a trace of its own.

    It is linked with the spans of the calls, in both directions. `seconds` is its length; `problem` marks a failure.
    """
    if _recorder is None or not calls:
        return
    ended = time.time_ns()
    links = [Link(call.get_span_context()) for call in calls]
    # Recorded if one of the calls is: the sampler is not asked once more.
    span = _recorder.always.start_span(
        name, Context(), attributes=attributes, links=links, start_time=ended - int(seconds * 1e9)
    )
    for call in calls:
        if call.is_recording():  # false if its caller has left
            call.add_link(span.get_span_context())
    if problem:
        span.set_status(Status(StatusCode.ERROR, problem))
    span.end(ended)


class BoundedProcessor(SpanProcessor):
    """OpenTelemetry's batching processor with an exact count of exported and lost spans."""

    def __init__(self, exporter: SpanExporter, count: Count) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._waiting = 0
        self._export = _Export(exporter, self._exported)
        # Twice the room, so that the processor itself drops none, which would not be counted.
        self._batches = BatchSpanProcessor(
            self._export, max_queue_size=2 * QUEUED_SPANS, max_export_batch_size=SPANS_AN_EXPORT
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span if there is room."""
        with self._lock:
            full = self._waiting >= QUEUED_SPANS
            self._waiting += not full
        if full:
            self._count("lost", 1)
        else:
            self._batches.on_end(span)

    def shutdown(self) -> None:
        """Export the remaining spans, until the collector fails."""
        self._export.closing = True
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def _exported(self, fate: Fate, spans: int) -> None:
        with self._lock:
            self._waiting -= spans
        self._count(fate, spans)


class _Export(SpanExporter):
    """Exports spans, and logs when the collector becomes unreachable and reachable."""

    def __init__(self, exporter: SpanExporter, count: Count) -> None:
        self._exporter = exporter
        self._count = count
        self._reachable = True
        self.closing = False
        """True while the process ends: a failed collector is not tried again."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export spans, in the processor's thread."""
        result = SpanExportResult.FAILURE
        try:
            if self._reachable or not self.closing:
                result = self._exporter.export(spans)
        finally:
            reachable = result is SpanExportResult.SUCCESS
            self._count("exported" if reachable else "lost", len(spans))
        if reachable != self._reachable:
            self._reachable = reachable
            _log.warning("spans are exported again" if reachable else "the collector takes no spans; they are lost")
        return result

    def shutdown(self) -> None:
        """Close the connection."""
        self._exporter.shutdown()
