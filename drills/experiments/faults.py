"""Faults that reach one arm alone: on the way to the index, and on the way from a gateway to the control plane.

The arm that is spoilt is the one that searches by words as well: each search says so itself, whoever decided it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Self

import grpc

from drills.rollout_regressions.regressions import SEARCH, Context, SpoilingRetriever
from sluice.retriever.v1 import retriever_pb2
from sluice.rollout.v1 import feedback_pb2
from sluice.type.v1 import passage_pb2

STORE = "/sluice.rollout.v1.FeedbackStoreService/StoreFeedback"
BEST = 10
"""Results that count as the best."""
# As over a large index, so that what else a busy machine does is small beside it.
_USUAL_SECONDS = 0.1
_SPREAD = 0.25


@dataclass(frozen=True)
class Fault:
    """A fault of one arm's searches."""

    moved_down: bool = False
    """True if every other one of the best results changes places with one below them."""
    slower: float = 1.0
    """Factor of the time that a search takes."""
    failing: float = 0.0
    """Share of searches that fail."""


NONE = Fault()


def move_down(found: retriever_pb2.SearchPassagesResponse) -> None:
    """Change places: the first of the best results with the first one below them, the third with the third, and on."""
    for place in range(0, min(BEST, len(found.candidates) - BEST), 2):
        upper, lower = found.candidates[place], found.candidates[place + BEST]
        passage, whole = passage_pb2.Passage(), upper.whole
        passage.CopyFrom(upper.passage)
        # The scores stay in their places: they are the order.
        upper.passage.CopyFrom(lower.passage)
        upper.whole = lower.whole
        lower.passage.CopyFrom(passage)
        lower.whole = whole


class SpoilingIndex(SpoilingRetriever):
    """A retriever that hands everything on to a real one, and spoils searches that are by words as well."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.fault = NONE
        """May be changed at any time."""

    async def _handle(self, method: str, raw: bytes, context: Context) -> bytes:
        if method != SEARCH:
            return await self._forward(method, raw, context)
        request = retriever_pb2.SearchPassagesRequest.FromString(raw)
        # The searches of both arms of an interleaved answer come together.
        spoilt = bool(request.lexical_weight or request.beside.lexical_weight)
        self.treated += spoilt
        fault = self.fault if spoilt else NONE
        await asyncio.sleep(_USUAL_SECONDS * self._chance.lognormvariate(0, _SPREAD) * fault.slower)
        if self._chance.random() < fault.failing:
            await context.abort(grpc.StatusCode.INTERNAL, "as told")
        reply = await self._forward(method, raw, context)
        if fault.moved_down:
            found = retriever_pb2.SearchPassagesResponse.FromString(reply)
            if request.lexical_weight:
                move_down(found)
            if request.beside.lexical_weight:
                move_down(found.beside)
            reply = found.SerializeToString()
        return reply


@dataclass(frozen=True)
class Leak:
    """Users of one arm that the control plane never hears of."""

    arm: str
    share: float

    def loses(self, impression: feedback_pb2.ServedImpression) -> bool:
        """True for the impressions of some of the arm's users: always the same ones."""
        exposed = any(exposure.arm == self.arm for exposure in impression.impression.exposures)
        digest = hashlib.sha256(str(impression.impression.unit).encode()).digest()
        return exposed and digest[0] < 256 * self.share


def leak(request: feedback_pb2.StoreFeedbackRequest, lost: Leak) -> feedback_pb2.StoreFeedbackRequest:
    """Make the request that a gateway would have sent which knows nothing of the users that are lost."""
    kept = [place for place, impression in enumerate(request.impressions) if not lost.loses(impression)]
    places = {old: new for new, old in enumerate(kept)}
    left = feedback_pb2.StoreFeedbackRequest(impressions=[request.impressions[place] for place in kept])
    for event in request.events:
        if event.impression_index in places:
            left.events.add(event=event.event, impression_index=places[event.impression_index])
    return left


class LeakingWay:
    """`async with LeakingWay(address) as way:` listens on `way.address`, between a gateway and the control plane."""

    def __init__(self, target: str) -> None:
        self.leak: Leak | None = None
        """May be changed at any time."""
        self.lost = 0
        """Impressions lost so far."""
        self.address = ""
        self._target = target
        self._server = grpc.aio.server(
            handlers=[_EveryCall(self._hand_on)],
            options=[("grpc.so_reuseport", 0), ("grpc.http2.min_ping_interval_without_data_ms", 10_000)],
        )

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(self._target)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(grace=None)
        await self._channel.close()

    async def _hand_on(self, method: str, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        if method == STORE and self.leak:
            left = self._leaked(await anext(aiter(requests)), self.leak)
            if not left.impressions:
                yield feedback_pb2.StoreFeedbackResponse().SerializeToString()
                return
            requests = _once(left.SerializeToString())
        metadata = [(key, value) for key, value in context.invocation_metadata() or () if not key.startswith("grpc-")]
        calling: Any = self._channel.stream_stream(method)
        call = calling(requests, timeout=context.time_remaining(), metadata=metadata)
        try:
            async for reply in call:
                yield reply
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
        finally:
            call.cancel()

    def _leaked(self, raw: bytes, lost: Leak) -> feedback_pb2.StoreFeedbackRequest:
        request = feedback_pb2.StoreFeedbackRequest.FromString(raw)
        left = leak(request, lost)
        self.lost += len(request.impressions) - len(left.impressions)
        return left


async def _once(raw: bytes) -> AsyncIterator[bytes]:
    yield raw


class _EveryCall(grpc.GenericRpcHandler):
    """Takes every call as streams of bytes: on the wire, a unary call is one of them."""

    def __init__(self, handle: Callable[[str, AsyncIterator[bytes], Context], AsyncIterator[bytes]]) -> None:
        self._handle = handle

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = str(handler_call_details.method)

        async def handle(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            async for reply in self._handle(method, requests, context):
                yield reply

        handler: Any = grpc.stream_stream_rpc_method_handler
        return handler(handle)
