"""A stage of no use but to the chassis' tests: the expander's service with a handler that the test gives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from services.chassis.client import StageChannel
from services.chassis.server import Stage, serving
from services.chassis.settings import StageSettings
from sluice.expander.v1 import expander_pb2, expander_pb2_grpc

METHOD = "/sluice.expander.v1.ExpanderService/ExpandQuery"

Handler = Callable[[expander_pb2.ExpandQueryRequest, Any], Awaitable[expander_pb2.ExpandQueryResponse]]


class EchoServicer(expander_pb2_grpc.ExpanderServiceServicer):
    """Hands each call to the test's handler."""

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
async def echo_server(handler: Handler, **options: Any) -> AsyncIterator[StageChannel]:
    """A channel to a served echo stage."""
    settings = StageSettings(grpc_port=0, metrics_port=0, drain_seconds=0)
    async with (
        serving(echo_stage(handler, **options), settings) as server,
        StageChannel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield channel
