"""Faults of a Qdrant, for `tests.qdrant_server.QdrantServer`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from drills.parts.proxy import Proxy
from services.retriever.engines.server.pool import QdrantPool
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings
from tests.qdrant_server import Fault, QdrantServer, RealQdrant

Context = grpc.aio.ServicerContext[Any, Any]


class Gate:
    """Holds every call until it is opened, and counts those that came."""

    def __init__(self) -> None:
        self.entered = 0
        self.open = asyncio.Event()

    async def __call__(self, _method: str, _context: Context) -> None:
        self.entered += 1
        await self.open.wait()

    async def holds(self, calls: int) -> None:
        """Return when a number of calls have come."""
        async with asyncio.timeout(30):
            while self.entered < calls:
                await asyncio.sleep(0.001)


def slowed(seconds: float) -> Fault:
    """Every call takes so much longer."""

    async def fault(_method: str, _context: Context) -> None:
        await asyncio.sleep(seconds)

    return fault


def failing(code: grpc.StatusCode, details: str = "", trailers: tuple[tuple[str, str], ...] = ()) -> Fault:
    """Every call fails with a status."""

    async def fault(_method: str, context: Context) -> None:
        await context.abort(code, details, trailers)

    return fault


def rate_limited(retry_after_seconds: int) -> Fault:
    """As Qdrant refuses where strict mode limits the rate of requests."""
    trailers = (("retry-after", str(retry_after_seconds)),)
    return failing(grpc.StatusCode.RESOURCE_EXHAUSTED, "Rate limiting exceeded", trailers)


def storage_full() -> Fault:
    """As Qdrant fails where its disk is full."""
    return failing(
        grpc.StatusCode.INTERNAL,
        "Service internal error: No space left on device: WAL buffer size exceeds available disk space",
    )


@asynccontextmanager
async def qdrant_behind_a_proxy() -> AsyncIterator[Proxy]:
    """A real Qdrant if QDRANT_TEST_URL names one (see `RealQdrant`), or its protocol over the embedded engine."""
    async with AsyncExitStack() as stack:
        if real := RealQdrant.from_environment():
            target = real.grpc_target
        else:
            server = await stack.enter_async_context(QdrantServer())
            target = f"127.0.0.1:{server.port}"
        yield await stack.enter_async_context(Proxy(target))


@asynccontextmanager
async def pool_at(address: str, **settings: Any) -> AsyncIterator[tuple[QdrantPool, Callable[..., float]]]:
    """The retriever's pool, with retries off unless the settings say otherwise; and what reads its series."""
    given = {
        "qdrant_url": f"http://{address}",
        "qdrant_grpc_port": int(address.rpartition(":")[2]),
        "qdrant_pool_retry_enabled": False,
        "qdrant_pool_retry_delay": 0.01,
        **settings,
    }
    registry = CollectorRegistry()
    pool = QdrantPool(RetrieverSettings(**given), RetrieverMetrics(registry))

    def read(series: str, **labels: str) -> float:
        return registry.get_sample_value(series, labels) or 0.0

    try:
        yield pool, read
    finally:
        await pool.close()
