"""An OTLP receiver: a real gRPC server for the TraceService, as Jaeger's is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as collector_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Received:
    """One span and the service that it came from."""

    service: str
    span: Span

    @property
    def attributes(self) -> dict[str, Any]:
        """Its attributes as Python values."""
        return {attribute.key: _value(attribute.value) for attribute in self.span.attributes}

    @property
    def code(self) -> str:
        """The status code that the call ended with."""
        attributes = self.attributes
        return str(attributes.get("rpc.response.status_code") or attributes.get("db.response.status_code") or "")


class Collector(collector_grpc.TraceServiceServicer):
    """Keeps the spans that it receives.

    `async with Collector() as collector:` serves on a free loopback port; it may be stopped and started again there.
    """

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.port = 0
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def endpoint(self) -> str:
        """Value for `OTEL_EXPORTER_OTLP_ENDPOINT`."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Serve, on the same port as before if it served before."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        collector_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        """Go away at once."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def Export(  # noqa: N802  # gRPC's name
        self, request: collector_pb2.ExportTraceServiceRequest, context: Any
    ) -> collector_pb2.ExportTraceServiceResponse:
        """Receive spans."""
        for resource in request.resource_spans:
            names = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [Received(names["service.name"], span) for span in scope.spans]
        return collector_pb2.ExportTraceServiceResponse()

    async def trace_of(self, request_id: str, whole: Callable[[Sequence[Received]], bool]) -> list[Received]:
        """The spans of a request's trace, as soon as they are whole; raises TimeoutError if they never are."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                ids = {
                    each.span.trace_id for each in self.spans if each.attributes.get("sluice.request_id") == request_id
                }
                found = [each for each in self.spans if each.span.trace_id in ids]
                if found and whole(found):
                    return found
                await asyncio.sleep(0.1)

    async def search_of(self, request_id: str, services: Collection[str]) -> list[Received]:
        """The spans of a search through these services. A service's own span is the last of its spans to end, and may
        come in a later export than the others, so that one is waited for of each."""
        return await self.trace_of(request_id, lambda found: set(served(found)) >= set(services))


def served(spans: Sequence[Received]) -> dict[str, Received]:
    """The span of each service's own call, by service."""
    return {each.service: each for each in spans if each.span.kind == Span.SPAN_KIND_SERVER}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind else None
