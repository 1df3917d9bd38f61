"""Answers in words from results, by a reasoner in memory."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace

import pytest

from services.chassis.errors import InvalidArgument, SluiceError, Unavailable
from services.gateway.answering.answering import Answered, Answering, Reading, Wishes, search_until
from services.gateway.search.flags import Features
from services.gateway.search.question import Policy, Question
from services.gateway.search.stages import Answer, Outcome, Result
from sluice.type.v1 import answer_pb2
from tests.unit.gateway.samples import COURSE, passage

QUESTION = Question("who directed it", "docs", Features(reasoning=True))
OFF = replace(QUESTION, features=Features())


def results(*names: str, first: int = 1) -> list[Result]:
    return [
        Result(passage(name, f"title {name}", f"text of {name}"), 1.0, rank, 1.0, rank, None)
        for rank, name in enumerate(names, first)
    ]


def found(*names: str) -> Answer:
    return Answer(results(*names), [], COURSE, None)


def written(
    text: str, *cited: str, sub_questions: tuple[str, ...] = (), fallback: str = ""
) -> answer_pb2.WrittenAnswer:
    return answer_pb2.WrittenAnswer(
        text=text,
        citations=[answer_pb2.Citation(passage_id=name, quote="text") for name in cited],
        method=answer_pb2.ANSWER_METHOD_EXTRACTIVE if fallback else answer_pb2.ANSWER_METHOD_LLM,
        fallback_reason=fallback,
        prompt_token_count=100,
        completion_token_count=10,
        cost=0.5,
        sub_questions=sub_questions,
        model="tiny",
    )


@dataclass
class World:
    """A reasoner and a search, and what they were asked."""

    answers: list[answer_pb2.WrittenAnswer | SluiceError]
    found: dict[str, Answer] = field(default_factory=dict)
    search_error: SluiceError | None = None
    readings: list[Reading] = field(default_factory=list)
    searched: list[Question] = field(default_factory=list)

    async def reason(self, reading: Reading, *, deadline: float) -> answer_pb2.WrittenAnswer:
        self.readings.append(reading)
        answer = self.answers.pop(0)
        if isinstance(answer, SluiceError):
            raise answer
        return answer

    async def stream(
        self, reading: Reading, *, deadline: float
    ) -> AsyncGenerator[str | answer_pb2.WrittenAnswer, None]:
        answer = await self.reason(reading, deadline=deadline)
        for word in answer.text.split():
            yield word
        yield answer

    async def search(self, question: Question) -> Answer:
        self.searched.append(question)
        if self.search_error:
            raise self.search_error
        return self.found[question.query]

    async def parts(
        self, first: Answer, wishes: Wishes | None = None, question: Question = QUESTION, *, streamed: bool = False
    ) -> list[str | Answered]:
        answering = Answering(self).answer(
            question, first, 0.25, wishes or Wishes(), self.search, deadline=time.monotonic() + 5, streamed=streamed
        )
        return [part async for part in answering]

    async def answer(self, first: Answer, wishes: Wishes | None = None, question: Question = QUESTION) -> Answered:
        (answered,) = await self.parts(first, wishes, question)
        assert isinstance(answered, Answered)
        return answered


async def test_citations_have_the_ranks_of_their_results() -> None:
    world = World([written("It was c.", "c", "a")])
    answered = await world.answer(found("a", "b", "c"))
    assert [one.result_rank for one in answered.written.citations] == [3, 1]
    report = answered.report
    assert (report.outcome, report.reason, report.model, report.item_count) == (Outcome.RAN, "", "tiny", 2)
    assert (answered.retrieval_seconds, answered.idle_stages) == (0.25, frozenset())


async def test_as_many_passages_are_read_as_were_asked_for() -> None:
    world = World([written("x")])
    await world.answer(found("a", "b", "c"), Wishes(passages=2))
    assert [identity for identity, _, _ in world.readings[0].passages()] == ["a", "b"]


async def test_long_passages_are_read_at_their_beginning_and_places_stay() -> None:
    world = World([written("x")])
    long = Result(passage("a", "t" * 2000, "  " + "x" * 50_000), 1.0, 1, 1.0, 1, None)
    await world.answer(Answer([long], [], COURSE, None))
    ((_, title, text),) = world.readings[0].passages()
    assert (len(title), len(text), text[:3]) == (1000, 16_384, "  x")


async def test_with_reasoning_off_no_model_is_asked_and_nothing_is_missing() -> None:
    world = World([written("x", fallback="")])
    answered = await world.answer(found("a"), Wishes(sub_questions=2), OFF)
    assert (world.readings[0].extractive, world.readings[0].sub_questions) == (True, 0)
    assert (answered.report.outcome, answered.report.reason) == (Outcome.SKIPPED, "FEATURE_OFF")
    assert answered.report.complete


async def test_sentences_in_place_of_a_model_are_a_degradation_and_an_idle_stage() -> None:
    answered = await World([written("x", fallback="LLM_TOO_SLOW")]).answer(found("a"))
    assert (answered.report.outcome, answered.report.reason) == (Outcome.DEGRADED, "LLM_TOO_SLOW")
    assert answered.idle_stages == {"reason"}


async def test_without_results_nobody_is_asked() -> None:
    world = World([])
    answered = await world.answer(found())
    assert (answered.report.reason, answered.method, world.readings) == ("NO_PASSAGES", "none", [])


async def test_a_reasoner_that_fails_leaves_the_results_unless_it_is_required() -> None:
    answered = await World([Unavailable("down")]).answer(found("a"))
    assert (answered.report.outcome, answered.report.reason, answered.method) == (
        Outcome.FAILED,
        "DEPENDENCY_DOWN",
        "none",
    )
    assert len(answered.results) == 1
    assert answered.idle_stages == {"reason"}
    with pytest.raises(Unavailable):
        await World([Unavailable("down")]).answer(found("a"), Wishes(policy=Policy.REQUIRED))


async def test_a_mistake_of_the_caller_is_always_told() -> None:
    with pytest.raises(InvalidArgument):
        await World([InvalidArgument("answer_schema", "is not JSON")]).answer(found("a"))


async def test_questions_of_the_model_are_searched_and_what_is_new_is_read_as_well() -> None:
    world = World(
        [written("half", "a", sub_questions=("who?", "where?")), written("whole", "new", "a")],
        {"who?": found("a", "new", "further", "third"), "where?": found("new", "last")},
    )
    question = replace(QUESTION, like_document_id="z", offset=0)
    answered = await world.answer(found("a", "b"), Wishes(sub_questions=2), question)
    assert answered.written.text == "whole"
    assert [result.passage.id for result in answered.results] == ["a", "b", "new", "further", "last"]
    assert [result.rank for result in answered.results] == [1, 2, 3, 4, 5]
    assert [one.result_rank for one in answered.written.citations] == [3, 1]
    assert (answered.written.prompt_token_count, answered.written.completion_token_count) == (200, 20)
    assert (answered.written.cost, list(answered.written.sub_questions)) == (1.0, ["who?", "where?"])
    assert [(asked.query, asked.like_document_id) for asked in world.searched] == [("who?", ""), ("where?", "")]
    assert (world.readings[0].sub_questions, world.readings[1].sub_questions) == (2, 0)
    assert answered.report.outcome is Outcome.RAN


async def test_the_first_answer_stands_where_the_second_cannot_be_had() -> None:
    first = written("half", "a", sub_questions=("who?",))
    more = {"who?": found("new")}
    for world, reason in (
        (World([first], more, search_error=Unavailable("down")), "SUB_QUESTIONS_NOT_SEARCHED"),
        (World([first, Unavailable("down")], more), "SUB_QUESTIONS_NOT_SEARCHED"),
        (World([first, written("sentences", fallback="LLM_TOO_SLOW")], more), ""),
        (World([first], {"who?": found("a")}), ""),
    ):
        answered = await world.answer(found("a", "b"), Wishes(sub_questions=1))
        assert (answered.written.text, answered.report.reason) == ("half", reason)


async def test_a_second_question_has_what_the_first_left_of_the_bounds() -> None:
    bounds = answer_pb2.AnswerBounds(max_token_count=150, max_cost=0.75)
    bounds.generation_time.FromSeconds(3)
    first = written("half", "a", sub_questions=("who?",))
    world = World([first, written("whole", "new")], {"who?": found("new")})
    await world.answer(found("a"), Wishes(sub_questions=1, bounds=bounds))
    left = world.readings[1].bounds
    assert (left.max_token_count, left.max_cost) == (40, 0.25)
    assert 0 < left.generation_time.ToTimedelta().total_seconds() < 3
    bounds.max_token_count = 110
    answered = await World([first], {}).answer(found("a"), Wishes(sub_questions=1, bounds=bounds))
    assert answered.report.reason == "SUB_QUESTIONS_NOT_SEARCHED"


async def test_text_is_streamed_but_not_that_of_an_answer_that_another_may_replace() -> None:
    *text, answered = await World([written("two words", "a")]).parts(found("a"), streamed=True)
    assert text == ["two", "words"]
    assert isinstance(answered, Answered)
    world = World([written("first try", sub_questions=("who?",)), written("second one")], {"who?": found("new")})
    *text, _ = await world.parts(found("a"), Wishes(sub_questions=1), streamed=True)
    assert text == ["second", "one"]
    *text, _ = await World([written("only one")]).parts(found("a"), Wishes(sub_questions=1), streamed=True)
    assert text == ["only one"]


def test_a_search_leaves_time_for_sentences() -> None:
    assert search_until(100.0, 110.0) == 109.75
    assert search_until(100.0, 101.0) == pytest.approx(100.85)
