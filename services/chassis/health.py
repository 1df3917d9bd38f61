"""Health of a stage by the gRPC health protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.chassis import logs
from services.chassis.timing import in_background

SERVICE_NAME = health.SERVICE_NAME
"""Always SERVING while the process answers: the name for liveness probes."""

_log = logs.get_logger("server")
_POLL_SECONDS = 0.25


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
