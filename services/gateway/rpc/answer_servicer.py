"""AnswerService: answers in words."""

# ruff: noqa: N802, D102  # gRPC's names; the proto says what each RPC does

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import grpc

from services.chassis.errors import InvalidArgument
from services.chassis.timing import deadline_of
from services.gateway.answering.answering import Answered, Answering, Wishes, search_until
from services.gateway.metrics import GatewayMetrics, ObservedAnswer
from services.gateway.rpc.user_searches import UserSearch, UserSearches, response_to
from services.gateway.search.question import Question
from services.gateway.search.stages import Answer
from services.gateway.settings import GatewaySettings
from sluice.gateway.v1 import answer_pb2 as pb
from sluice.gateway.v1 import answer_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
Parts = AsyncGenerator[pb.StreamAnswerResponse, None]


class AnswerServicer(answer_pb2_grpc.AnswerServiceServicer):
    """Searches as a search of its user does, and lets the reasoner answer."""

    def __init__(
        self, searches: UserSearches, answering: Answering, settings: GatewaySettings, metrics: GatewayMetrics
    ) -> None:
        self._searches = searches
        self._answering = answering
        self._settings = settings
        self._metrics = metrics

    async def Answer(self, request: pb.AnswerRequest, context: Context) -> pb.AnswerResponse:
        reply = pb.AnswerResponse()
        async with aclosing(self._answer(request, context, "", streamed=False)) as parts:
            async for part in parts:
                reply = part.answer
        return reply

    async def StreamAnswer(self, request: pb.StreamAnswerRequest, context: Context) -> Parts:
        async with aclosing(self._answer(request.answer, context, "answer.", streamed=True)) as parts:
            async for part in parts:
                yield part

    async def _answer(self, request: pb.AnswerRequest, context: Context, path: str, *, streamed: bool) -> Parts:
        started = time.monotonic()
        deadline = deadline_of(context, self._settings.answer_deadline_seconds)
        self._searches.check(request.search, f"{path}search.")
        wishes = _checked(request, path)
        search = self._searches.decided(request.search)
        search = replace(search, question=_reading(search.question, wishes))
        with (
            ObservedAnswer(self._metrics, deadline) as counted,
            self._searches.observed(search, deadline) as observed,
        ):
            found = await self._searches.find(search, observed, deadline=search_until(started, deadline))
            seconds = time.monotonic() - started
            if streamed:
                yield pb.StreamAnswerResponse(search=response_to(search, found))
            answers = self._answering.answer(
                search.question,
                found,
                seconds,
                wishes,
                lambda question: self._searches.pipeline.search(question, deadline=search_until(started, deadline)),
                deadline=deadline,
                streamed=streamed,
            )
            async with aclosing(answers) as parts:
                async for part in parts:
                    if isinstance(part, str):
                        yield pb.StreamAnswerResponse(text_delta=part)
                        continue
                    whole = replace(found, results=part.results, reports=[*found.reports, part.report])
                    observed.reasoned(part.idle_stages, whole)
                    self._searches.audit(search.question, part.results)
                    total = time.monotonic() - started
                    counted.answered(part.method, [*found.reports, part.report], part.seconds | {"total": total})
                    yield pb.StreamAnswerResponse(answer=_reply(search, whole, part, total))
        self._searches.offer_shadow(search, found, observed.seconds)


def _checked(request: pb.AnswerRequest, path: str) -> Wishes:
    if not request.search.query:
        raise InvalidArgument(f"{path}search.query", "is empty; an answer in words needs a question")
    if request.search.page_token:
        raise InvalidArgument(f"{path}search.page_token", "has no meaning here; an answer is made of the first page")
    return Wishes.from_proto(request, path)


def _reading(question: Question, wishes: Wishes) -> Question:
    """Find as many results as are read."""
    return replace(question, limit=max(question.limit, wishes.passages))


def _reply(search: UserSearch, whole: Answer, answered: Answered, seconds: float) -> pb.AnswerResponse:
    reply = answered.to_proto(seconds)
    reply.search.CopyFrom(response_to(search, whole))
    return reply
