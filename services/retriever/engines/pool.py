"""Connections to a Qdrant server, under a circuit breaker."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from qdrant_client import AsyncQdrantClient

from services.chassis import tracing
from services.chassis.breaker import Breaker
from services.chassis.errors import DeadlineExceeded, ResourceExhausted, Unavailable
from services.retriever.engines.calls import Operation, observed, time_limit
from services.retriever.engines.errors import QDRANT, translated
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings

T = TypeVar("T")

# Share of a caller's time that Qdrant gets: the rest is for saying that Qdrant was late, so that the caller does not
# take us for the one who was.
_SHARE = 0.95
_HEALTH_SECONDS = 1.0


class QdrantPool:
    """Connections to a Qdrant server, lent one at a time, with retries under a circuit breaker.

    qdrant-client's own pool deals its channels out in turn, however many calls each of them carries; here a
    connection carries one call, so that a slow server makes callers wait, and be counted, rather than pile up.
    """

    def __init__(self, settings: RetrieverSettings, metrics: RetrieverMetrics) -> None:
        """Connect with the first call; construct it inside the event loop that will use it."""
        self._settings = settings
        self._metrics = metrics
        self._clients = [_client(settings) for _ in range(settings.qdrant_pool_size)]
        self._free = deque(self._clients)
        self._permits = asyncio.Semaphore(len(self._clients))
        self._breaker = Breaker(
            QDRANT,
            failures=settings.qdrant_breaker_failures,
            reset_seconds=settings.qdrant_breaker_reset_seconds,
            fair_seconds=min(1.0, settings.qdrant_timeout),
            healthy=self._healthy,
            on_transition=metrics.breaker_changed,
        )
        metrics.pool_size.set(len(self._clients))
        metrics.breaker_open.set(0)

    async def call(self, operation: Operation[T], *, name: str = "", deadline: float | None = None) -> T:
        """Run an operation, again if it met an outage and the deadline leaves time for it.

        It must bear being run twice. `name` is that of its span; by default the operation's own. Raises Unavailable
        (reason BREAKER_OPEN at once while the breaker is open), DeadlineExceeded, or ResourceExhausted: POOL_EXHAUSTED,
        RATE_LIMITED, STORAGE_FULL.
        """
        end = math.inf
        if deadline is not None:
            now = time.monotonic()
            end = now + (deadline - now) * _SHARE
        with observed(self._metrics, name or operation.__name__):
            return await self._persist(operation, end)

    async def _persist(self, operation: Operation[T], end: float) -> T:
        retries = self._settings.qdrant_pool_max_retries if self._settings.qdrant_pool_retry_enabled else 0
        tried = 0
        while True:
            try:
                return await self._try(operation, end)
            except Unavailable:
                longest_pause = self._settings.qdrant_pool_retry_delay * 2**tried
                pause = random.uniform(0, longest_pause)  # noqa: S311  spreads retries, hides nothing
                if tried == retries or self._breaker.state != "closed" or time.monotonic() + pause >= end:
                    raise
            tried += 1
            self._metrics.retries.inc()
            if (span := tracing.recorded()) is not None:
                span.add_event("retry", {"sluice.retry": tried})
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Close all connections; calls under way fail."""
        self._breaker.close()
        for client in self._clients:
            await client.close()

    async def _healthy(self) -> bool:
        """True if Qdrant answers the question for its health."""
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                await self._clients[0].info()
        except Exception:  # whatever it is, it is no answer
            return False
        return True

    async def _try(self, operation: Operation[T], end: float) -> T:
        self._breaker.check()
        async with self._connection(end) as client:
            timeout = min(end - time.monotonic(), self._settings.qdrant_timeout)
            with self._breaker.attempt(given_seconds=timeout), translated():
                async with time_limit(time.monotonic() + timeout):
                    return await operation(client)

    @asynccontextmanager
    async def _connection(self, end: float) -> AsyncIterator[AsyncQdrantClient]:
        started = time.monotonic()
        longest = self._settings.qdrant_pool_timeout
        try:
            with self._metrics.pool_waiting.track_inprogress():
                async with time_limit(min(end, started + longest)):
                    await self._permits.acquire()
        except TimeoutError:
            if time.monotonic() >= end:
                raise DeadlineExceeded(
                    "the deadline passed while waiting for a connection to Qdrant", dependency=QDRANT
                ) from None
            raise ResourceExhausted(
                f"all {len(self._clients)} connections to Qdrant stayed busy for {longest:g} s; "
                "raise QDRANT_POOL_SIZE if Qdrant has capacity left",
                reason="POOL_EXHAUSTED",
                retry_after=self._settings.qdrant_pool_retry_delay,
            ) from None
        finally:
            self._metrics.pool_wait_seconds.observe(time.monotonic() - started)
        client = self._free.popleft()
        try:
            with self._metrics.pool_in_use.track_inprogress():
                yield client
        finally:
            self._free.append(client)
            self._permits.release()


def _client(settings: RetrieverSettings) -> AsyncQdrantClient:
    """Return one connection. A channel is not enough: gRPC shares connections between equal channels."""
    return AsyncQdrantClient(
        url=settings.qdrant_url,
        grpc_port=settings.qdrant_grpc_port,
        prefer_grpc=settings.qdrant_grpc_port != 0,
        api_key=settings.qdrant_api_key.get_secret_value() or None,
        timeout=math.ceil(settings.qdrant_timeout),
        check_compatibility=False,
        pool_size=1,
        trust_env=False,  # a proxy that the environment names is for the web
        grpc_options={
            "grpc.enable_http_proxy": 0,
            "grpc.use_local_subchannel_pool": 1,
            "grpc.keepalive_time_ms": 20_000,
            "grpc.keepalive_timeout_ms": 5_000,
            "grpc.initial_reconnect_backoff_ms": 200,
            "grpc.max_reconnect_backoff_ms": 500,
        },
    )
