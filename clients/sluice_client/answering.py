"""Answers in words, with what they stand on."""

from __future__ import annotations

import enum
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Unpack

from google.protobuf.message import Message

from sluice.gateway.v1 import answer_pb2 as pb
from sluice.gateway.v1 import answer_pb2_grpc, search_pb2
from sluice.type.v1 import answer_pb2
from sluice_client.answers import Answer, Policy, SearchOptions
from sluice_client.channel import Caller
from sluice_client.messages import Received, Sent, fill

ANSWER_SECONDS = 60.0
"""Deadline of an answer that is given none."""


class Method(enum.StrEnum):
    """Origin of an answer."""

    LLM = "llm"
    """A large language model wrote it."""
    EXTRACTIVE = "extractive"
    """It is made of sentences of the passages."""
    UNKNOWN = "unknown"
    """Sent by a newer gateway."""


@dataclass(frozen=True, slots=True)
class Bounds(Sent, proto=answer_pb2.AnswerBounds):
    """Most that the model may take for an answer; None leaves a bound to the reasoner."""

    generation_time: timedelta | None = None
    max_token_count: int | None = None
    """Tokens that it reads and writes."""
    max_cost: float | None = None
    """In the currency of the reasoner's settings."""


@dataclass(frozen=True, slots=True)
class Citation(Received, proto=answer_pb2.Citation):
    """A quote that an answer stands on: the characters of the passage's text from `start` up to `end`."""

    passage_id: str
    quote: str
    start: int
    end: int
    result_rank: int
    """Rank of the passage among the results, from 1."""


@dataclass(frozen=True, slots=True)
class WrittenAnswer(Received, proto=answer_pb2.WrittenAnswer):
    """An answer in words."""

    text: str
    """With a schema: JSON, or empty where no model wrote it."""
    citations: Sequence[Citation]
    """Each quote stands in its passage."""
    confidence: float
    """0 to 1: the model's own estimate, or the share of the question's words that the sentences have."""
    in_sources: bool
    """False says that the answer is not in the passages."""
    supported: bool
    """True if at least one citation is left."""
    method: Method | None
    """None where there is no answer."""
    dropped_citation_count: int = 0
    """Citations whose words do not stand in their passage."""
    fallback_reason: str = ""
    """Reason for sentences in place of a model's answer, as in "LLM_TOO_SLOW"."""
    fallback_detail: str = ""
    model: str = ""
    prompt_token_count: int = 0
    completion_token_count: int = 0
    cost: float = 0.0
    sub_questions: Sequence[str] = ()
    """Questions that the model had searched."""
    truncated_passage_count: int = 0
    """Passages that the model read only in part."""


@dataclass(frozen=True, slots=True)
class AnswerReply(Received, proto=pb.AnswerResponse):
    """An answer in words, and what was found."""

    answer: WrittenAnswer
    search: Answer
    """The results, with a report of every stage."""
    retrieval_time: timedelta
    generation_time: timedelta
    total_time: timedelta


class AnswerOptions(SearchOptions, total=False):
    """Options of an answer, beside those of its search; all of them may be left out."""

    passage_count: int
    """Number of results that are read, 1 to 20; 6 if left out."""
    answer_schema: Mapping[str, Any] | None
    """JSON schema of the answer, for extraction; see docs/answers.md for the keywords."""
    bounds: Bounds | None
    """Most time, tokens and cost."""
    reason_policy: Policy | None
    """Consequence of a failure of the reasoner; best effort if left out."""
    sub_question_count: int
    """Questions of the model that are searched for a better answer, 0 to 2; none if left out."""


_OWN = ("passage_count", "bounds", "reason_policy", "sub_question_count")


class Answering(Caller):
    """A caller that asks for answers in words."""

    async def answer(
        self, query: str, *, timeout: float | None = None, **options: Unpack[AnswerOptions]
    ) -> AnswerReply:
        """Answer a question in words, from the best passages; see `AnswerOptions`.

            reply = await client.answer("how is a feature rolled back?", features=Features(reasoning=True))
            print(reply.answer.text, [citation.quote for citation in reply.answer.citations])

        `timeout` is the deadline in seconds, 60 if not given. Without a working model, or with the flag `reasoning`
        off, the answer is made of sentences. Raises SluiceError as `search` does.
        """
        request = _request(query, options)
        stub = self._stub(answer_pb2_grpc.AnswerServiceStub)
        return AnswerReply.from_proto(await self._call(stub.Answer, request, _seconds(timeout)))

    async def stream_answer(
        self, query: str, *, timeout: float | None = None, **options: Unpack[AnswerOptions]
    ) -> AsyncIterator[Answer | str | AnswerReply]:
        """Answer a question in words, part by part: the results, the text as it is written, then the whole reply.

        The reply stands for all before it: what was written is only checked then. To stop the model, close the
        iterator (`aclose`).
        """
        request = pb.StreamAnswerRequest(answer=_request(query, options, "answer"))
        stub = self._stub(answer_pb2_grpc.AnswerServiceStub)
        async with aclosing(self._stream(stub.StreamAnswer, request, _seconds(timeout))) as events:
            async for event in events:
                match event.WhichOneof("event"):
                    case "search":
                        yield Answer.from_proto(event.search)
                    case "text_delta":
                        yield event.text_delta
                    case "answer":
                        yield AnswerReply.from_proto(event.answer)


def _request(query: str, options: AnswerOptions, path: str = "") -> pb.AnswerRequest:
    given: dict[str, Any] = dict(options)
    own: dict[str, Any] = {name: given.pop(name) for name in _OWN if name in given}
    schema = given.pop("answer_schema", None)
    search: Message = fill(search_pb2.SearchRequest(), path and f"{path}.search", query=query, **given)
    return fill(
        pb.AnswerRequest(), path, search=search, answer_schema=json.dumps(schema) if schema is not None else None, **own
    )


def _seconds(timeout: float | None) -> float:
    return ANSWER_SECONDS if timeout is None else timeout
