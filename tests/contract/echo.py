"""A stage for the tests of the chassis: the expander's service with a handler of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from services.chassis.client import StageChannel
from services.chassis.metrics import ServerMetrics
from services.chassis.server import Stage, serving
from services.chassis.settings import StageSettings
from sluice.expander.v1 import expander_pb2, expander_pb2_grpc

SERVICE, NAME = "sluice.expander.v1.ExpanderService", "ExpandQuery"
METHOD = f"/{SERVICE}/{NAME}"

Handler = Callable[[expander_pb2.ExpandQueryRequest, Any], Awaitable[expander_pb2.ExpandQueryResponse]]


class Counted:
    """Server metrics in a registry of their own, and their values for one method."""

    def __init__(self, service: str = SERVICE, method: str = NAME) -> None:
        self.registry = CollectorRegistry()
        self.metrics = ServerMetrics(self.registry)
        self._labels = {"grpc_service": service, "grpc_method": method}

    def value(self, name: str, **labels: str) -> float:
        """The value of a series; 0 if it is not there."""
        return self.registry.get_sample_value(name, {**self._labels, **labels}) or 0.0

    def handled(self, *codes: str) -> float:
        """Calls that ended with one of the codes."""
        return sum(self.value("grpc_server_handled_total", grpc_code=code) for code in codes)

    @property
    def in_flight(self) -> float:
        """Calls under way."""
        return self.value("grpc_server_in_flight")

    async def all_ended(self) -> None:
        """Wait until no call is under way: a server may end a call after its caller has left."""
        async with asyncio.timeout(5):
            while self.in_flight:
                await asyncio.sleep(0.01)


class EchoServicer(expander_pb2_grpc.ExpanderServiceServicer):
    """Passes each call to the handler of the test."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def ExpandQuery(  # noqa: N802
        self, request: expander_pb2.ExpandQueryRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> expander_pb2.ExpandQueryResponse:
        return await self._handler(request, context)


def echo_stage(handler: Handler, **options: Any) -> Stage:
    """The stage around a handler."""
    return Stage(
        service=expander_pb2.DESCRIPTOR.services_by_name["ExpanderService"],
        register=lambda server: expander_pb2_grpc.add_ExpanderServiceServicer_to_server(EchoServicer(handler), server),
        **options,
    )


@asynccontextmanager
async def echo_server(
    handler: Handler, counted: ServerMetrics | None = None, **options: Any
) -> AsyncIterator[StageChannel]:
    """A channel to a served echo stage."""
    settings = StageSettings(grpc_port=0, metrics_port=0, drain_seconds=0)
    async with (
        serving(echo_stage(handler, **options), settings, counted or ServerMetrics(CollectorRegistry())) as server,
        StageChannel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield channel
