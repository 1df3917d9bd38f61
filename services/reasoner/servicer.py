"""ReasonerService: validate, translate, delegate."""

# ruff: noqa: N802, D102  # gRPC's names; the proto says what each RPC does

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc

from services.chassis import tracing
from services.chassis.errors import InvalidArgument
from services.chassis.timing import deadline_of, seconds_of
from services.chassis.validation import MAX_ID_BYTES, MAX_QUERY_BYTES, MAX_TEXT_BYTES, check_text
from services.reasoner.answers import Answer, Bounds, Passage, Task
from services.reasoner.metrics import ReasonerMetrics
from services.reasoner.reasoning import Reasoner
from services.reasoner.schemas import read_schema
from sluice.reasoner.v1 import reasoner_pb2, reasoner_pb2_grpc
from sluice.type.v1 import answer_pb2

Context = grpc.aio.ServicerContext[Any, Any]

MAX_PASSAGES = 20
MAX_TITLE_BYTES = 4096
MAX_SUB_QUESTIONS = 2


class ReasonerServicer(reasoner_pb2_grpc.ReasonerServiceServicer):
    """Answers questions from passages."""

    def __init__(self, reasoner: Reasoner, metrics: ReasonerMetrics, default_seconds: float) -> None:
        """`default_seconds` is the deadline of a call that has none."""
        self._reasoner = reasoner
        self._metrics = metrics
        self._default_seconds = default_seconds

    async def Reason(self, request: reasoner_pb2.ReasonRequest, context: Context) -> reasoner_pb2.ReasonResponse:
        task = _task(request, "")
        async with aclosing(self._answer(task, deadline_of(context, self._default_seconds))) as parts:
            async for part in parts:
                if isinstance(part, Answer):
                    return reasoner_pb2.ReasonResponse(answer=part.to_proto())
        raise AssertionError("the last part is the answer")

    async def StreamReason(
        self, request: reasoner_pb2.StreamReasonRequest, context: Context
    ) -> AsyncGenerator[reasoner_pb2.StreamReasonResponse, None]:
        task = _task(request.reason, "reason.")
        async with aclosing(self._answer(task, deadline_of(context, self._default_seconds))) as parts:
            async for part in parts:
                if isinstance(part, Answer):
                    yield reasoner_pb2.StreamReasonResponse(answer=part.to_proto())
                else:
                    yield reasoner_pb2.StreamReasonResponse(text_delta=part)

    async def _answer(self, task: Task, deadline: float) -> AsyncGenerator[str | Answer, None]:
        started = time.perf_counter()
        async with aclosing(self._reasoner.answer(task, deadline=deadline)) as parts:
            async for part in parts:
                if isinstance(part, Answer):
                    self._metrics.observe(part, time.perf_counter() - started)
                    _trace(part)
                yield part


def _trace(answer: Answer) -> None:
    if (span := tracing.recorded()) is not None:
        span.set_attributes(
            {
                "sluice.method": answer.method.name.lower(),
                "sluice.citations": len(answer.citations),
                "sluice.dropped_citations": answer.dropped_citations,
                "sluice.prompt_tokens": answer.usage.prompt_tokens,
                "sluice.completion_tokens": answer.usage.completion_tokens,
                "sluice.outcome": "degraded" if answer.fallback else "ran",
                **({"sluice.fallback": answer.fallback.value} if answer.fallback else {}),
                **({"sluice.model": answer.model} if answer.model else {}),
            }
        )


def _task(request: reasoner_pb2.ReasonRequest, path: str) -> Task:
    """Read a request. Raises InvalidArgument."""
    check_text(f"{path}question", request.question, MAX_QUERY_BYTES)
    if len(request.passages) > MAX_PASSAGES:
        raise InvalidArgument(f"{path}passages", f"holds {len(request.passages)}; at most {MAX_PASSAGES} are taken")
    if not 0 <= request.max_sub_question_count <= MAX_SUB_QUESTIONS:
        raise InvalidArgument(f"{path}max_sub_question_count", f"must be between 0 and {MAX_SUB_QUESTIONS}")
    return Task(
        request.question,
        _passages(request, f"{path}passages"),
        _bounds(request.bounds, f"{path}bounds"),
        read_schema(request.answer_schema, f"{path}answer_schema") if request.answer_schema else None,
        request.extractive,
        request.max_sub_question_count,
    )


def _passages(request: reasoner_pb2.ReasonRequest, path: str) -> list[Passage]:
    seen: set[str] = set()
    for place, passage in enumerate(request.passages):
        if not 1 <= len(passage.id.encode()) <= 2 * MAX_ID_BYTES:
            raise InvalidArgument(f"{path}[{place}].id", f"must be 1 to {2 * MAX_ID_BYTES} bytes long")
        if passage.id in seen:
            raise InvalidArgument(f"{path}[{place}].id", "is that of an earlier passage; send each passage once")
        seen.add(passage.id)
        if len(passage.title.encode()) > MAX_TITLE_BYTES:
            raise InvalidArgument(f"{path}[{place}].title", f"is longer than {MAX_TITLE_BYTES} bytes; shorten it")
        if len(passage.text.encode()) > MAX_TEXT_BYTES:
            raise InvalidArgument(f"{path}[{place}].text", f"is longer than {MAX_TEXT_BYTES} bytes; send a part of it")
    return [Passage(passage.id, passage.title, passage.text) for passage in request.passages]


def _bounds(message: answer_pb2.AnswerBounds, path: str) -> Bounds:
    seconds = (
        seconds_of(message.generation_time, f"{path}.generation_time") if message.HasField("generation_time") else None
    )
    tokens = message.max_token_count if message.HasField("max_token_count") else None
    cost = message.max_cost if message.HasField("max_cost") else None
    if seconds is not None and seconds <= 0:
        raise InvalidArgument(f"{path}.generation_time", "must be above 0; leave it out for no bound of your own")
    if tokens is not None and tokens <= 0:
        raise InvalidArgument(f"{path}.max_token_count", "must be above 0; leave it out for no bound of your own")
    if cost is not None and not (math.isfinite(cost) and cost >= 0):
        raise InvalidArgument(f"{path}.max_cost", "must be a number of 0 or more")
    return Bounds(seconds, tokens, cost)
