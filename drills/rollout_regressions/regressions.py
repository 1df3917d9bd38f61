"""A retriever that does worse for those who have a feature: it hands everything on to a real one, and spoils some.

The drill's feature leaves the vectors out, so what has it can be told by the request itself, on whatever gateway it
was decided, and also where a shadow run decided it.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from sluice.retriever.v1 import retriever_pb2
from sluice.type.v1 import passage_pb2

Context = grpc.aio.ServicerContext[Any, Any]
SERVICE = "sluice.retriever.v1.RetrieverService"
SEARCH = f"/{SERVICE}/SearchPassages"
# What a search takes here, as over a large index: without it, a busy test machine's own noise would decide.
USUAL_SECONDS = 0.15
SPREAD = 0.25
USUAL_ERRORS = 0.005


@dataclass(frozen=True)
class Regression:
    """A regression that the feature brings."""

    name: str
    errors: float = 0.0
    """Share of searches that fail, beyond the usual half percent."""
    slower: float = 1.0
    """Factor of the time that a search takes."""
    empty: float = 0.0
    """Share of searches that find nothing."""
    worst_first: bool = False
    """True if the candidates come in the opposite order."""


NONE = Regression("none")


class SpoilingRetriever:
    """`async with SpoilingRetriever(address) as retriever:` listens on `retriever.address`."""

    def __init__(self, target: str) -> None:
        self.regression = NONE
        """May be changed at any time."""
        self.treated = 0
        """Searches with the feature so far, shadow runs among them."""
        self.address = ""
        self._target = target
        self._chance = random.Random(7)
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            handlers=[_Forwarding(self._handle)],
            options=[("grpc.so_reuseport", 0), ("grpc.http2.min_ping_interval_without_data_ms", 10_000)],
        )

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(self._target)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        for name in ("", SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(grace=None)
        await self._channel.close()

    async def _handle(self, method: str, raw: bytes, context: Context) -> bytes:
        treated = False
        if method == SEARCH:
            request = retriever_pb2.SearchPassagesRequest.FromString(raw)
            treated = not any(variant.vector for variant in request.variants)
            self.treated += treated
            await self._delay_or_fail(treated, context)
        started = time.perf_counter()
        reply = await self._forward(method, raw, context)
        if treated:
            await asyncio.sleep((time.perf_counter() - started) * (self.regression.slower - 1))
        if treated:
            found = retriever_pb2.SearchPassagesResponse.FromString(reply)
            self._spoil(found)
            reply = found.SerializeToString()
        return reply

    async def _delay_or_fail(self, treated: bool, context: Context) -> None:
        regression = self.regression if treated else NONE
        usual = USUAL_SECONDS * math.exp(self._chance.gauss(0, SPREAD))
        await asyncio.sleep(usual * regression.slower)
        if self._chance.random() < USUAL_ERRORS + regression.errors:
            await context.abort(grpc.StatusCode.INTERNAL, "as told")

    def _spoil(self, found: retriever_pb2.SearchPassagesResponse) -> None:
        if self._chance.random() < self.regression.empty:
            del found.candidates[:]
        if self.regression.worst_first:
            # The scores stay in their places: what was best has the least of them now.
            passages = [candidate.passage for candidate in found.candidates]
            reversed_ = [passage_pb2.Passage.FromString(passage.SerializeToString()) for passage in passages[::-1]]
            for candidate, passage in zip(found.candidates, reversed_, strict=True):
                candidate.passage.CopyFrom(passage)

    async def _forward(self, method: str, raw: bytes, context: Context) -> bytes:
        call: Any = self._channel.unary_unary(method)
        metadata = [(key, value) for key, value in context.invocation_metadata() or () if not key.startswith("grpc-")]
        remaining = context.time_remaining()
        deadline = time.monotonic() + (30.0 if remaining is None else remaining)
        try:
            reply: bytes = await call(raw, timeout=max(0.001, deadline - time.monotonic()), metadata=metadata)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
        return reply


class _Forwarding(grpc.GenericRpcHandler):
    """Takes every unary call of the service, as bytes."""

    def __init__(self, handle: Callable[[str, bytes, Context], Any]) -> None:
        self._handle = handle

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = str(handler_call_details.method)
        if not method.startswith(f"/{SERVICE}/"):
            return None

        async def handle(raw: bytes, context: Context) -> bytes:
            reply: bytes = await self._handle(method, raw, context)
            return reply

        handler: Any = grpc.unary_unary_rpc_method_handler
        return handler(handle)
