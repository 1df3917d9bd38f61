"""Answers in words, from what a search finds.

    question ─▶ search ─▶ reason ─┬─▶ answer
                  ▲               │
                  └─ questions of the model, searched once

The reasoner answers by a model or of sentences; it is asked for sentences alone where the flag `reasoning` is off. If
it fails, the results are the answer. Retrieval and reasoning have times of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

from services.chassis.errors import InvalidArgument, SluiceError
from services.chassis.timing import answer_by, duration
from services.gateway.search.question import Policy, Question
from services.gateway.search.reports import failed
from services.gateway.search.stages import Answer, Outcome, Result, Stage, StageReport
from sluice.gateway.v1 import answer_pb2 as pb
from sluice.type.v1 import answer_pb2

DEFAULT_PASSAGES = 6
MOST_PASSAGES = 20
MOST_SUB_QUESTIONS = 2
# Of what a question of the model finds, the best that the first search did not.
_PASSAGES_A_SUB_QUESTION = 2
# Characters of a title and of a text that are read; places in the text are the same in what is sent.
_TITLE_CHARACTERS = 1_000
_TEXT_CHARACTERS = 16_384
# Time that a search leaves to the reasoner: at most this, and this share of what there is.
_KEPT_SECONDS = 0.25
_KEPT_SHARE = 0.15

Search = Callable[[Question], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Wishes:
    """Wishes for an answer: passages to read, schema, bounds."""

    passages: int = DEFAULT_PASSAGES
    """Number of results that are read."""
    schema: str = ""
    bounds: answer_pb2.AnswerBounds = field(default_factory=answer_pb2.AnswerBounds)
    policy: Policy = Policy.BEST_EFFORT
    sub_questions: int = 0

    @classmethod
    def from_proto(cls, message: pb.AnswerRequest, path: str = "") -> Self:
        """Read a request. Raises InvalidArgument."""
        passages = message.passage_count if message.HasField("passage_count") else DEFAULT_PASSAGES
        if not 1 <= passages <= MOST_PASSAGES:
            raise InvalidArgument(f"{path}passage_count", f"must be between 1 and {MOST_PASSAGES}, not {passages}")
        if not 0 <= message.sub_question_count <= MOST_SUB_QUESTIONS:
            raise InvalidArgument(
                f"{path}sub_question_count",
                f"must be between 0 and {MOST_SUB_QUESTIONS}, not {message.sub_question_count}",
            )
        try:
            policy = Policy(message.reason_policy) if message.reason_policy else Policy.BEST_EFFORT
        except ValueError:
            raise InvalidArgument(f"{path}reason_policy", "is unknown; use required or best effort") from None
        return cls(passages, message.answer_schema, message.bounds, policy, message.sub_question_count)


@dataclass(frozen=True, slots=True)
class Reading:
    """A question to the reasoner, with the passages to read."""

    question: str
    results: Sequence[Result]
    """The passages to read."""
    schema: str
    bounds: answer_pb2.AnswerBounds
    extractive: bool
    sub_questions: int

    def passages(self) -> list[tuple[str, str, str]]:
        """Id, title and text of each passage, as far as they are read."""
        return [
            (one.passage.id, one.passage.title[:_TITLE_CHARACTERS], one.passage.text[:_TEXT_CHARACTERS])
            for one in self.results
        ]


class Reasoner(Protocol):
    """Answers from passages."""

    async def reason(self, reading: Reading, *, deadline: float) -> answer_pb2.WrittenAnswer:
        """Return the answer."""

    def stream(self, reading: Reading, *, deadline: float) -> AsyncGenerator[str | answer_pb2.WrittenAnswer, None]:
        """Yield the text as it is written, and the answer at the end."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer in words, and all that came with it."""

    written: answer_pb2.WrittenAnswer
    results: Sequence[Result]
    report: StageReport
    retrieval_seconds: float
    generation_seconds: float

    @property
    def idle_stages(self) -> frozenset[str]:
        """The stage of reasoning, if it was asked and did not do its work."""
        return frozenset() if self.report.did_its_work else frozenset({Stage.REASON.name.lower()})

    @property
    def method(self) -> str:
        """Name of the method, as in "llm"; "none" where there is no answer."""
        method = answer_pb2.AnswerMethod.Name(self.written.method).removeprefix("ANSWER_METHOD_").lower()
        return method if self.written.method else "none"

    @property
    def seconds(self) -> dict[str, float]:
        """Times by part."""
        return {"retrieval": self.retrieval_seconds, "generation": self.generation_seconds}

    def to_proto(self, total_seconds: float) -> pb.AnswerResponse:
        """Write all but what was found."""
        return pb.AnswerResponse(
            answer=self.written,
            retrieval_time=duration(self.retrieval_seconds),
            generation_time=duration(self.generation_seconds),
            total_time=duration(total_seconds),
        )


def search_until(now: float, deadline: float) -> float:
    """Deadline of the search, so that there is time for an answer of sentences."""
    return deadline - min(_KEPT_SECONDS, (deadline - now) * _KEPT_SHARE)


class Answering:
    """Lets the reasoner answer from results."""

    def __init__(self, reasoner: Reasoner) -> None:
        self._reasoner = reasoner

    async def answer(
        self,
        question: Question,
        found: Answer,
        seconds: float,
        wishes: Wishes,
        search: Search,
        *,
        deadline: float,
        streamed: bool,
    ) -> AsyncGenerator[str | Answered, None]:
        """Yield the text as it is written, if streamed, and at the end the answer.

        `found` and `seconds` are the first search; `search` makes further ones. Raises the error of the reasoner where
        its policy is REQUIRED.
        """
        run = _Run(self._reasoner, question, found, seconds, wishes, search, answer_by(time.monotonic(), deadline))
        async with aclosing(run.answer(streamed)) as parts:
            async for part in parts:
                yield part


class _Run:
    """One answer on its way."""

    def __init__(
        self,
        reasoner: Reasoner,
        question: Question,
        found: Answer,
        seconds: float,
        wishes: Wishes,
        search: Search,
        last_moment: float,
    ) -> None:
        self._reasoner = reasoner
        self._question = question
        self._wishes = wishes
        self._search = search
        self._last_moment = last_moment
        self._results = list(found.results)
        self._retrieval_seconds = seconds
        self._generation_seconds = 0.0
        self._written = answer_pb2.WrittenAnswer()
        self._problem = ""
        """Reason for not having searched the questions of the model."""

    async def answer(self, streamed: bool) -> AsyncGenerator[str | Answered, None]:
        if not self._results:
            yield self._answered(
                StageReport(Stage.REASON, Outcome.SKIPPED, "NO_PASSAGES", "nothing was found to answer from")
            )
            return
        asking = self._wishes.sub_questions if self._question.features.reasoning else 0
        reading = Reading(
            question=self._question.query,
            results=self._results[: self._wishes.passages],
            schema=self._wishes.schema,
            bounds=self._wishes.bounds,
            extractive=not self._question.features.reasoning,
            sub_questions=asking,
        )
        try:
            async with aclosing(self._twice(reading, streamed)) as parts:
                async for text in parts:
                    yield text
        except InvalidArgument:  # of a schema, or of bounds
            raise
        except SluiceError as failure:
            if not self._written.method and self._wishes.policy is Policy.REQUIRED:
                raise
            if not self._written.method:
                yield self._answered(failed(Stage.REASON, failure, self._generation_seconds))
                return
            self._problem = failure.message
        yield self._answered(self._report())

    async def _twice(self, reading: Reading, streamed: bool) -> AsyncGenerator[str, None]:
        """Ask the reasoner, and once more if it has questions that find something; keep its answer."""
        asking = reading.sub_questions > 0
        # Of two texts only the second is the answer; so the first is not shown as it is written.
        async with aclosing(self._read(reading, streamed and not asking)) as parts:
            async for part in parts:
                yield part
        first = self._written
        further = await self._further(reading, first) if first.sub_questions else None
        if further is not None:
            async with aclosing(self._read(further, streamed)) as parts:
                async for part in parts:
                    yield part
            self._written = _second(first, self._written)
        elif asking and streamed and first.text:
            yield first.text

    async def _read(self, reading: Reading, streamed: bool) -> AsyncGenerator[str, None]:
        """Ask the reasoner once; keep its answer."""
        started = time.perf_counter()
        try:
            if not streamed:
                self._written = await self._reasoner.reason(reading, deadline=self._last_moment)
                return
            async with aclosing(self._reasoner.stream(reading, deadline=self._last_moment)) as parts:
                async for part in parts:
                    if isinstance(part, str):
                        yield part
                    else:
                        self._written = part
        finally:
            self._generation_seconds += time.perf_counter() - started

    async def _further(self, reading: Reading, written: answer_pb2.WrittenAnswer) -> Reading | None:
        """Search the model's questions, and return what to read then; None if nothing else is found or possible."""
        bounds = _left(reading.bounds, written, self._generation_seconds)
        if bounds is None:
            self._problem = "the bounds of the answer leave nothing for them"
            return None
        started = time.perf_counter()
        try:
            answers = await asyncio.gather(
                *(
                    self._search(
                        replace(
                            self._question,
                            query=asked,
                            limit=self._wishes.passages,
                            offset=0,
                            course=None,
                            like_document_id="",
                            vector=None,
                        )
                    )
                    for asked in written.sub_questions
                )
            )
        except SluiceError as failure:
            self._problem = failure.message
            return None
        finally:
            self._retrieval_seconds += time.perf_counter() - started
        known = {result.passage.id for result in self._results}
        added: list[Result] = []
        for answer in answers:
            new = [result for result in answer.results if result.passage.id not in known]
            for result in new[:_PASSAGES_A_SUB_QUESTION]:
                known.add(result.passage.id)
                added.append(result._replace(rank=self._results[-1].rank + len(added) + 1))
        if not added:
            return None
        self._results += added
        read = [*reading.results, *added][-MOST_PASSAGES:]
        return replace(reading, results=read, bounds=bounds, sub_questions=0)

    def _report(self) -> StageReport:
        written = self._written
        reason, detail = written.fallback_reason, written.fallback_detail
        outcome = Outcome.DEGRADED if reason else Outcome.RAN
        if not self._question.features.reasoning:
            outcome, reason = Outcome.SKIPPED, "FEATURE_OFF"
            detail = "reasoning is off for this request; the answer is made of sentences"
        elif self._problem and not reason:
            outcome, reason = Outcome.DEGRADED, "SUB_QUESTIONS_NOT_SEARCHED"
            detail = f"the questions of the model were not searched: {self._problem}"
        return StageReport(
            Stage.REASON,
            outcome,
            reason,
            detail,
            self._generation_seconds,
            written.model,
            len(written.citations),
            written.truncated_passage_count,
        )

    def _answered(self, report: StageReport) -> Answered:
        ranks = {result.passage.id: result.rank for result in self._results}
        for citation in self._written.citations:
            citation.result_rank = ranks.get(citation.passage_id, 0)
        return Answered(self._written, self._results, report, self._retrieval_seconds, self._generation_seconds)


def _second(first: answer_pb2.WrittenAnswer, second: answer_pb2.WrittenAnswer) -> answer_pb2.WrittenAnswer:
    """Return the better of two answers, with what both took: the first where the model failed at the second."""
    chosen = answer_pb2.WrittenAnswer()
    chosen.CopyFrom(first if second.fallback_reason else second)
    chosen.prompt_token_count = first.prompt_token_count + second.prompt_token_count
    chosen.completion_token_count = first.completion_token_count + second.completion_token_count
    chosen.cost = first.cost + second.cost
    chosen.sub_questions[:] = first.sub_questions
    return chosen


def _left(
    bounds: answer_pb2.AnswerBounds, written: answer_pb2.WrittenAnswer, seconds: float
) -> answer_pb2.AnswerBounds | None:
    """Return what is left of bounds after an answer; None if nothing is."""
    left = answer_pb2.AnswerBounds()
    left.CopyFrom(bounds)
    if bounds.HasField("generation_time"):
        time_left = bounds.generation_time.seconds + bounds.generation_time.nanos / 1e9 - seconds
        if time_left <= 0:
            return None
        left.generation_time.CopyFrom(duration(time_left))
    if bounds.HasField("max_token_count"):
        left.max_token_count = bounds.max_token_count - written.prompt_token_count - written.completion_token_count
        if left.max_token_count <= 0:
            return None
    if bounds.HasField("max_cost"):
        left.max_cost = max(0.0, bounds.max_cost - written.cost)
    return left
