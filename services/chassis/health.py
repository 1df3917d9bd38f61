"""Health and reflection of a stage, by the protocols that gRPC's tools speak.

`python -m services.chassis.health PORT` asks a stage of this machine, and exits with 0 if it is SERVING: for container
runtimes that speak no gRPC.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from services.chassis import logs
from services.chassis.timing import in_background

SERVICE_NAME = health.SERVICE_NAME
"""Always SERVING while the process answers: the name for liveness probes."""

REFLECTION = "grpc.reflection.v1.ServerReflection"
"""Reflection as today's tools ask for it; older ones ask for v1alpha, whose messages are the same."""

_log = logs.get_logger("server")
_pool = descriptor_pool.Default()
_POLL_SECONDS = 0.25
_ASKED_SECONDS = 3.0


class Health:
    """The health service of a stage. `problem` returns why the stage cannot do its work, or None."""

    def __init__(self, services: Sequence[str], problem: Callable[[], str | None]) -> None:
        self._services = services
        self._problem = problem
        self._told: str | None = None
        self._servicer = health.aio.HealthServicer()

    def register(self, server: grpc.aio.Server) -> None:
        """Add the health service to a server."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def update(self) -> None:
        """Set the state of all names."""
        problem = self._problem()
        states = health_pb2.HealthCheckResponse
        await self._servicer.set(SERVICE_NAME, states.SERVING)
        for name in ("", *self._services):
            await self._servicer.set(name, states.SERVING if problem is None else states.NOT_SERVING)
        if problem != self._told:
            _log.warning("health changed", serving=problem is None, problem=problem)
            self._told = problem

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Update the state while the block runs; NOT_SERVING at its end."""
        try:
            async with in_background(self._poll()):
                yield
        finally:
            await self._servicer.enter_graceful_shutdown()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            await self.update()


def add_reflection(services: Sequence[str], server: grpc.aio.Server) -> None:
    """Let a server describe these services, health and reflection itself, in v1 and v1alpha."""
    _describe_v1()
    protocols = (REFLECTION, reflection.SERVICE_NAME)
    method = grpc.stream_stream_rpc_method_handler(
        _Reflection((*services, SERVICE_NAME, *protocols)).answer,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers = [grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method}) for name in protocols]
    server.add_generic_rpc_handlers(tuple(handlers))


class _Reflection:
    """Answers for every symbol: gRPC's own servicer finds no methods."""

    def __init__(self, services: Sequence[str]) -> None:
        # Its published types are those of the blocking servicer.
        self._servicer: Any = reflection.aio.ReflectionServicer(services)

    async def answer(
        self, requests: AsyncIterator[reflection_pb2.ServerReflectionRequest], context: Any
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        """Answer the requests of a stream one by one."""
        async for request in requests:
            asked = reflection_pb2.ServerReflectionRequest()
            asked.CopyFrom(request)
            if request.HasField("file_containing_symbol"):
                asked.file_containing_symbol = _indexed(request.file_containing_symbol)
            async for response in self._servicer.ServerReflectionInfo(_only(asked), context):
                response.valid_host = request.host
                response.original_request.CopyFrom(request)
                yield response


async def _only(
    request: reflection_pb2.ServerReflectionRequest,
) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    yield request


def _indexed(symbol: str) -> str:
    """Return the name by which the pool finds a symbol's file: of a method, that of its service."""
    symbol = symbol.removeprefix(".")
    try:
        return _pool.FindMethodByName(symbol).containing_service.full_name
    except KeyError:
        return symbol


def _describe_v1() -> None:
    """Add v1's descriptor to the pool, made from v1alpha's; adding it again changes nothing."""
    older = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(older)
    newer = text_format.Parse(str(older).replace("v1alpha", "v1"), descriptor_pb2.FileDescriptorProto())
    _pool.AddSerializedFile(newer.SerializeToString())


def serves(port: int) -> bool:
    """Ask the stage at a port of this machine if it is SERVING."""
    with grpc.insecure_channel(f"localhost:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its types do not name its methods
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=_ASKED_SECONDS)
        except grpc.RpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(not serves(int(sys.argv[1])))
