"""Connections to the nodes of a Qdrant server, under a circuit breaker."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Sequence
from typing import TypeVar

from services.chassis import tracing
from services.chassis.breaker import Breaker
from services.chassis.errors import DeadlineExceeded, ResourceExhausted, Unavailable
from services.retriever.engines.calls import observed, time_limit
from services.retriever.engines.server.errors import QDRANT, SHARD_DOWN, translated
from services.retriever.engines.server.nodes import Connection, Node, Operation, addresses
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings

T = TypeVar("T")

# Share of a caller's time that Qdrant gets: the rest is for saying that Qdrant was late, so that the caller does not
# take us for the one who was.
_SHARE = 0.95
# Time after which a node that does not answer is asked for its health, if there is another one to ask instead.
_PATIENCE_SECONDS = 0.5


class QdrantPool:
    """Connections to the nodes of a Qdrant server, lent one at a time, with retries under one circuit breaker.

    A connection carries one call, so that a slow server makes callers wait, and be counted, rather than pile up. What
    one node does not answer, another one is asked at once; only if none answers has Qdrant failed.
    """

    def __init__(self, settings: RetrieverSettings, metrics: RetrieverMetrics) -> None:
        """Connect with the first call; construct it inside the event loop that will use it."""
        self._settings = settings
        self._metrics = metrics
        self._nodes = [Node(address, settings) for address in addresses(settings)]
        self._permits = asyncio.Semaphore(settings.qdrant_pool_size)
        self._breaker = Breaker(
            QDRANT,
            failures=settings.qdrant_breaker_failures,
            reset_seconds=settings.qdrant_breaker_reset_seconds,
            fair_seconds=min(1.0, settings.qdrant_timeout),
            healthy=self._is_healthy,
            on_transition=metrics.breaker_changed,
        )
        metrics.pool_size.set(settings.qdrant_pool_size)
        metrics.breaker_open.set(0)
        nodes = tuple(self._nodes)  # those change their order, and another thread counts
        metrics.nodes.set(len(nodes))
        metrics.nodes_up.set_function(lambda: sum(node.up for node in nodes))
        metrics.pool_in_use.set_function(lambda: sum(node.in_use for node in nodes))

    async def call(
        self, operation: Operation[T], *, name: str = "", deadline: float | None = None, queued: bool = True
    ) -> T:
        """Run an operation, again if it met an outage and the deadline leaves time for it.

        It must bear being run twice. `name` is that of its span; by default the operation's own. One that is not
        `queued` does not wait until others free a connection. Raises Unavailable (reason BREAKER_OPEN at once while the
        breaker is open), DeadlineExceeded, or ResourceExhausted: POOL_EXHAUSTED, RATE_LIMITED, STORAGE_FULL.
        """
        end = math.inf
        if deadline is not None:
            now = time.monotonic()
            end = now + (deadline - now) * _SHARE
        with observed(self._metrics, name or operation.__name__):
            return await self._persist(operation, end, queued)

    async def everywhere(self, operation: Operation[T], seconds: float) -> Sequence[T | None]:
        """Ask every node beside all other calls; None for one that fails, or does not answer in this time."""

        async def ask(node: Node) -> T | None:
            try:
                with node.connection() as connection:
                    async with asyncio.timeout(seconds):
                        return await operation(connection)
            except Exception:  # whatever it is, it is no answer
                return None

        return await asyncio.gather(*map(ask, self._nodes))

    async def close(self) -> None:
        """Close all connections; calls under way fail."""
        self._breaker.close()
        for node in self._nodes:
            await node.close()

    async def _persist(self, operation: Operation[T], end: float, queued: bool) -> T:
        retries = self._settings.qdrant_pool_max_retries if self._settings.qdrant_pool_retry_enabled else 0
        tried = 0
        while True:
            try:
                return await self._try(operation, end, queued)
            except Unavailable as error:
                longest_pause = self._settings.qdrant_pool_retry_delay * 2**tried
                pause = random.uniform(0, longest_pause)  # noqa: S311  spreads retries, hides nothing
                late = time.monotonic() + pause >= end
                if tried == retries or late or self._breaker.state != "closed" or error.reason == SHARD_DOWN:
                    raise
            tried += 1
            self._count_retry(tried)
            await asyncio.sleep(pause)

    def _count_retry(self, number: int) -> None:
        self._metrics.retries.inc()
        if (span := tracing.recorded()) is not None:
            span.add_event("retry", {"sluice.retry": number})

    async def _is_healthy(self) -> bool:
        """True if a node answers the question for its health."""
        return any(await asyncio.gather(*(node.is_healthy() for node in self._nodes)))

    async def _try(self, operation: Operation[T], end: float, queued: bool) -> T:
        self._breaker.check()
        if not queued:
            return await self._guarded(operation, end)
        await self._acquire(end)
        try:
            return await self._guarded(operation, end)
        finally:
            self._permits.release()

    async def _guarded(self, operation: Operation[T], end: float) -> T:
        timeout = min(end - time.monotonic(), self._settings.qdrant_timeout)
        with self._breaker.attempt(given_seconds=timeout):
            return await self._ask(operation, time.monotonic() + timeout)

    async def _ask(self, operation: Operation[T], end: float) -> T:
        """Ask one node after the other, until one answers."""
        tried: list[Node] = []
        incomplete: Unavailable | None = None
        while True:
            node = self._choose(tried)
            tried.append(node)
            others = len(tried) < len(self._nodes)
            try:
                with translated(), node.connection() as connection:
                    async with time_limit(end):
                        if others:
                            return await _answer(node, connection, operation)
                        return await operation(connection)
            except Unavailable as error:
                if error.reason == SHARD_DOWN:
                    incomplete = error
                elif len(self._nodes) > 1:
                    node.suspect()
                # That a part is missing says more than that a node is down, which was known.
                if not others or (incomplete and not any(one.up for one in self._nodes if one not in tried)):
                    raise (incomplete or error) from error.__cause__
            self._count_retry(len(tried))

    def _choose(self, tried: Sequence[Node]) -> Node:
        """Return the node that is asked next: the least busy one of those that are up, then of the others."""
        left = [node for node in self._nodes if node not in tried]
        best = min(left, key=lambda node: (not node.up, node.in_use))
        # Last among its equals next time.
        self._nodes.remove(best)
        self._nodes.append(best)
        return best

    async def _acquire(self, end: float) -> None:
        """Take one of the permits, of which there are as many as connections may carry calls at once."""
        if self._permits.locked() or time.monotonic() >= end:
            await self._wait(end)
        else:
            await self._permits.acquire()
            self._metrics.pool_wait_seconds.observe(0)

    async def _wait(self, end: float) -> None:
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
                f"all {self._settings.qdrant_pool_size} connections to Qdrant stayed busy for {longest:g} s; "
                "raise QDRANT_POOL_SIZE if Qdrant has capacity left",
                reason="POOL_EXHAUSTED",
                retry_after=self._settings.qdrant_pool_retry_delay,
            ) from None
        finally:
            self._metrics.pool_wait_seconds.observe(time.monotonic() - started)


async def _answer(node: Node, connection: Connection, operation: Operation[T]) -> T:
    """Run an operation; raise Unavailable if the node neither answers it nor the question for its health."""
    task = asyncio.ensure_future(operation(connection))
    try:
        done, _ = await asyncio.wait((task,), timeout=_PATIENCE_SECONDS)
        if not done and not await node.is_healthy():
            raise Unavailable(f"{node.address} does not answer", dependency=QDRANT)
        return await task
    finally:
        task.cancel()
