"""The four stages behind the gateway, on real sockets, doing as a row tells them: they wait, fail, or answer at once.

They answer what is well-formed and means nothing; what they are for is to note when a call came and when it was
cancelled, which no real stage would tell.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

import grpc
import numpy as np
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from sluice.embedder.v1 import embedder_pb2
from sluice.expander.v1 import expander_pb2
from sluice.reranker.v1 import reranker_pb2
from sluice.retriever.v1 import retriever_pb2
from sluice.type.v1 import model_pb2, passage_pb2

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Context], Awaitable[None]]
"""Awaited in every call before the answer."""

DIMENSION = 4


async def at_once(_context: Context) -> None:
    """Answer at once."""


async def hanging(_context: Context) -> None:
    """Never answers."""
    await asyncio.sleep(3600)


def slow(seconds: float) -> Behaviour:
    """Answer after a number of seconds."""

    async def behave(_context: Context) -> None:
        await asyncio.sleep(seconds)

    return behave


def failing(code: grpc.StatusCode) -> Behaviour:
    """Fail with a status."""

    async def behave(context: Context) -> None:
        await context.abort(code, "as told")

    return behave


def _embed(request: Any) -> Message:
    count = len(request.texts)
    return embedder_pb2.EmbedTextsResponse(
        vectors=np.ones((count, DIMENSION), dtype="<f4").tobytes(),
        row_count=count,
        dimension=DIMENSION,
        texts=[embedder_pb2.EmbeddedText(token_count=3)] * count,
        model=model_pb2.ModelInfo(name="scripted", fingerprint="scripted", dimension=DIMENSION),
    )


def _expand(request: Any) -> Message:
    return expander_pb2.ExpandQueryResponse(
        variants=[
            expander_pb2.Variant(text=request.query, weight=1),
            expander_pb2.Variant(text=f"{request.query}, again", weight=0.5),
        ]
    )


def _search(request: Any) -> Message:
    return retriever_pb2.SearchPassagesResponse(
        candidates=[
            retriever_pb2.Candidate(
                passage=passage_pb2.Passage(id=str(number), text="words"), score=1 / number, whole=True
            )
            for number in range(1, request.limit + 1)
        ],
        index_version="v1",
    )


def _rerank(request: Any) -> Message:
    scores = [float(number) for number in range(len(request.passages))]
    return reranker_pb2.RerankPassagesResponse(scores=scores, model=model_pb2.ModelInfo(name="scripted"))


_METHODS: dict[str, tuple[str, str, Any, Callable[[Any], Message]]] = {
    "embedder": ("sluice.embedder.v1.EmbedderService", "EmbedTexts", embedder_pb2.EmbedTextsRequest, _embed),
    "expander": ("sluice.expander.v1.ExpanderService", "ExpandQuery", expander_pb2.ExpandQueryRequest, _expand),
    "retriever": (
        "sluice.retriever.v1.RetrieverService",
        "SearchPassages",
        retriever_pb2.SearchPassagesRequest,
        _search,
    ),
    "reranker": ("sluice.reranker.v1.RerankerService", "RerankPassages", reranker_pb2.RerankPassagesRequest, _rerank),
}


class ScriptedStage:
    """A server with a stage's service. `behaviour` may be changed at any time."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.service, self.method, self._request, self._answer = _METHODS[stage]
        self.behaviour: Behaviour = at_once
        self.calls = 0
        self.under_way = 0
        self.cancelled_at: list[float] = []
        """Times of cancellations, on the monotonic clock."""
        self.address = ""
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            options=[("grpc.so_reuseport", 0), ("grpc.http2.min_ping_interval_without_data_ms", 10_000)]
        )

    @property
    def path(self) -> str:
        """The method's name on the wire."""
        return f"/{self.service}/{self.method}"

    async def __aenter__(self) -> Self:
        handler: Any = grpc.unary_unary_rpc_method_handler(
            self._handle,
            request_deserializer=self._request.FromString,
            response_serializer=lambda reply: reply.SerializeToString(),
        )
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(self.service, {self.method: handler})]
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        await self.health(serving=True)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(grace=None)

    async def health(self, *, serving: bool) -> None:
        """Change what its health says."""
        states = health_pb2.HealthCheckResponse
        for name in ("", self.service):
            await self._health.set(name, states.SERVING if serving else states.NOT_SERVING)

    async def called(self, calls: int = 1) -> None:
        """Return when a number of calls are under way."""
        async with asyncio.timeout(10):
            while self.under_way < calls:
                await asyncio.sleep(0.001)

    async def cancelled(self, within: float) -> float | None:
        """Time of the next cancellation, or None if there is none within a time in seconds."""
        before = len(self.cancelled_at)
        try:
            async with asyncio.timeout(within):
                while len(self.cancelled_at) == before:
                    await asyncio.sleep(0.001)
        except TimeoutError:
            return None
        return self.cancelled_at[-1]

    async def _handle(self, request: Message, context: Context) -> Message:
        self.calls += 1
        self.under_way += 1
        try:
            await self.behaviour(context)
        except asyncio.CancelledError:
            self.cancelled_at.append(time.monotonic())
            raise
        finally:
            self.under_way -= 1
        return self._answer(request)


@asynccontextmanager
async def scripted_stages() -> AsyncIterator[dict[str, ScriptedStage]]:
    """All four."""
    async with AsyncExitStack() as stack:
        yield {stage: await stack.enter_async_context(ScriptedStage(stage)) for stage in _METHODS}
