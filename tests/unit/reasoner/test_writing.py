"""Answers by a language model, over a real socket to a server that plays scripts."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from services.chassis.breaker import Breaker
from services.reasoner.answers import Answer, Bounds, Fallback, Method, Passage, Task, Usage
from services.reasoner.chat_server import ChatServer
from services.reasoner.ollama_chat import OllamaChat
from services.reasoner.openai_chat import OpenAIChat
from services.reasoner.prompting import Prices, Room
from services.reasoner.reasoning import Reasoner
from services.reasoner.writing import LanguageModelWriter, Limits
from tests.scripted_llm import Script, ScriptedLLM, reply, scripted_llm

PASSAGES = [
    Passage("roll", "Rolling back", "A rollback takes two seconds.\nIt reaches all gateways."),
    Passage("kill", "Kills", "A kill works within seconds, for all users."),
]
TASK = Task("How long does a rollback take?", PASSAGES)
LIMITS = Limits(Room(4096, 512), Prices(0.5, 2.0), seconds=10.0, concurrency=2)
TWO_SECONDS = reply("Two seconds.", (1, "a rollback takes  TWO seconds"))
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"seconds": {"type": "integer"}},
    "required": ["seconds"],
    "additionalProperties": False,
}


class Asked:
    """A reasoner over a scripted model."""

    def __init__(
        self, llm: ScriptedLLM, reasoner: Reasoner, writer: LanguageModelWriter, abandoned: list[Usage]
    ) -> None:
        self.llm = llm
        self.reasoner = reasoner
        self.writer = writer
        self.abandoned = abandoned

    async def parts(self, task: Task = TASK, seconds: float = 10.0) -> list[str | Answer]:
        return [part async for part in self.reasoner.answer(task, deadline=time.monotonic() + seconds)]

    async def answer(self, task: Task = TASK, seconds: float = 10.0) -> Answer:
        last = (await self.parts(task, seconds))[-1]
        assert isinstance(last, Answer)
        return last


@asynccontextmanager
async def asking(
    *scripts: Script, api: str = "openai", limits: Limits = LIMITS, url: str = "", failures: int = 5
) -> AsyncIterator[Asked]:
    async with AsyncExitStack() as stack:
        llm = await stack.enter_async_context(scripted_llm(*scripts))
        server = ChatServer(url or llm.url, "secret", connections=limits.concurrency)
        stack.push_async_callback(server.aclose)
        model = OpenAIChat(server, "tiny") if api == "openai" else OllamaChat(server, "tiny", limits.room.context)
        abandoned: list[Usage] = []
        writer = LanguageModelWriter(model, limits, Breaker("llm", failures=failures), abandoned.append)
        yield Asked(llm, Reasoner(writer), writer, abandoned)


@pytest.mark.parametrize(("api", "path"), [("openai", "/v1/chat/completions"), ("ollama", "/api/chat")])
async def test_a_model_answers_with_quotes_that_stand_in_their_passages(api: str, path: str) -> None:
    async with asking(TWO_SECONDS, api=api) as asked:
        *text, answer = await asked.parts()
        assert isinstance(answer, Answer)
        assert "".join(map(str, text)) == answer.text == "Two seconds."
        assert len(text) > 1
        (citation,) = answer.citations
        assert citation.quote == "A rollback takes two seconds"
        assert PASSAGES[0].text[citation.start : citation.end] == citation.quote
        assert (answer.method, answer.supported, answer.model, answer.fallback) == (Method.LLM, True, "tiny", None)
        assert answer.usage == Usage(120, 30, 0.12)
        assert (asked.llm.paths, asked.llm.keys) == ([path], ["Bearer secret"])
        request = asked.llm.requests[0]
        schema = request["format"] if api == "ollama" else request["response_format"]["json_schema"]["schema"]
        assert list(schema["properties"]) == ["citations", "answer", "in_sources", "confidence"]
        assert request["stream"] is True


async def test_a_base_url_may_end_with_the_version() -> None:
    async with scripted_llm(TWO_SECONDS) as other, asking(TWO_SECONDS, url=f"{other.url}/v1") as asked:
        assert (await asked.answer()).method is Method.LLM
        assert other.paths == ["/v1/chat/completions"]


async def test_quotes_that_stand_nowhere_are_dropped_and_counted() -> None:
    script = reply("Three.", (1, "takes three seconds"), (2, "A rollback takes two seconds."), (2, "for all users"))
    async with asking(script) as asked:
        answer = await asked.answer()
        assert [one.passage_id for one in answer.citations] == ["kill"]
        assert answer.dropped_citations == 2
    async with asking(reply("Three.", (1, "takes three seconds"))) as asked:
        answer = await asked.answer()
        assert (answer.text, answer.supported, answer.citations, answer.dropped_citations) == ("Three.", False, [], 1)


async def test_the_last_word_of_a_quote_that_was_cut_off_is_left_out() -> None:
    text = "The gateway listens on port 50051, " * 10
    schema_most = 60  # of LIMITS
    cut_by_the_server, cut_by_the_model = text[20 : 20 + schema_most], text[20:65]
    assert (cut_by_the_server[-4:], cut_by_the_model[-2:]) == ("tewa", "50")
    async with asking(reply("50051.", (1, cut_by_the_server), (1, cut_by_the_model))) as asked:
        answer = await asked.answer(Task("Which port?", [Passage("ports", "", text)]))
        assert f'"maxLength": {schema_most}' in json.dumps(asked.llm.requests[0])
        assert [one.quote for one in answer.citations] == [cut_by_the_server.rpartition(" ")[0]]
        assert answer.dropped_citations == 1


async def test_a_model_may_say_that_the_passages_do_not_answer() -> None:
    async with asking(reply("The passages do not say.", in_sources=False, confidence=0.1)) as asked:
        answer = await asked.answer()
        assert (answer.in_sources, answer.supported, answer.method) == (False, False, Method.LLM)


async def test_with_a_schema_the_answer_is_its_json() -> None:
    async with asking(reply({"seconds": 2}, (1, "two seconds"))) as asked:
        *text, answer = await asked.parts(replace(TASK, schema=SCHEMA))
        assert isinstance(answer, Answer)
        assert (text, json.loads(answer.text)) == ([], {"seconds": 2})
        assert asked.llm.requests[0]["response_format"]["json_schema"]["schema"]["properties"]["answer"] == SCHEMA


BROKEN = {
    "no JSON": Script(["I would say two seconds."]),
    "half of it": Script(list(TWO_SECONDS.parts)[:5]),
    "cut off": Script(TWO_SECONDS.parts, whole=False),
    "a key too many": reply("Two.", also="this"),
    "a key missing": Script(['{"answer": "Two."}']),
    "a passage that is not there": reply("Two.", (3, "two seconds")),
    "more confidence than there is": reply("Two.", confidence=2.0),
    "a list": Script(["[]"]),
    "not a number": Script(['{"citations": [], "answer": "", "in_sources": true, "confidence": NaN}']),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_is_not_of_the_schema_is_answered_by_sentences(name: str) -> None:
    async with asking(BROKEN[name]) as asked:
        answer = await asked.answer()
        assert (answer.method, answer.fallback, answer.model) == (Method.EXTRACTIVE, Fallback.INVALID, "tiny")
        assert answer.citations[0].quote == "A rollback takes two seconds."
        assert answer.usage.completion_tokens == 30
        assert len(asked.llm.requests) == 1


async def test_an_extraction_that_fails_has_no_text_but_sentences_to_read() -> None:
    async with asking(reply({"seconds": "two"})) as asked:
        answer = await asked.answer(replace(TASK, schema=SCHEMA))
        assert (answer.text, answer.fallback, answer.supported) == ("", Fallback.INVALID, True)


DOWN = {
    "a fault": (Script(status=500), Fallback.UNAVAILABLE, "HTTP 500"),
    "a wrong key": (Script(status=401), Fallback.UNAVAILABLE, "check REASONER_LLM_KEY"),
    "an unknown model": (Script(status=404), Fallback.UNAVAILABLE, "check REASONER_LLM_URL"),
    "a refusal": (Script(status=400), Fallback.UNAVAILABLE, "HTTP 400"),
    "too many": (Script(status=429), Fallback.BUSY, "HTTP 429"),
    "a broken connection": (Script(TWO_SECONDS.parts, breaks=True), Fallback.UNAVAILABLE, "broke"),
    "an error in the stream": (Script(raw=b'data: {"error": "secret"}\n\n'), Fallback.UNAVAILABLE, "an error"),
    "nonsense": (Script(raw=b"data: <html>\n\n"), Fallback.UNAVAILABLE, "an error"),
    "nothing": (Script(raw=b"\n"), Fallback.UNAVAILABLE, "in the middle"),
}


@pytest.mark.parametrize("name", DOWN)
async def test_a_server_that_fails_is_asked_once_and_answered_for_by_sentences(name: str) -> None:
    script, fallback, detail = DOWN[name]
    async with asking(script) as asked:
        answer = await asked.answer()
        assert (answer.method, answer.fallback) == (Method.EXTRACTIVE, fallback)
        assert detail in answer.fallback_detail
        assert "rollback" not in answer.fallback_detail
        assert len(asked.llm.requests) == 1


async def test_a_server_that_is_not_there_costs_nothing() -> None:
    async with asking(TWO_SECONDS, url="http://127.0.0.1:1") as asked:
        answer = await asked.answer()
        assert (answer.fallback, answer.text) == (
            Fallback.UNAVAILABLE,
            "A rollback takes two seconds. " + PASSAGES[1].text,
        )
        assert "is it running?" in answer.fallback_detail


@pytest.mark.parametrize("parts", [[], list(TWO_SECONDS.parts)[:9]], ids=["silent", "slow"])
async def test_a_model_that_does_not_end_is_left_in_time_and_told_so(parts: list[str]) -> None:
    async with asking(Script(parts, hangs=True)) as asked:
        started = time.monotonic()
        answer = await asked.answer(seconds=0.5)
        assert time.monotonic() - started < 0.5
        assert (answer.method, answer.fallback) == (Method.EXTRACTIVE, Fallback.TOO_SLOW)
        assert answer.usage.prompt_tokens > 0
        await asyncio.wait_for(asked.llm.left.wait(), 1)


async def test_the_time_of_the_model_is_bounded_by_the_task_and_by_the_settings() -> None:
    for task, limits in (
        (replace(TASK, bounds=Bounds(seconds=0.1)), LIMITS),
        (TASK, replace(LIMITS, seconds=0.1)),
    ):
        async with asking(Script(hangs=True), limits=limits) as asked:
            started = time.monotonic()
            assert (await asked.answer(task)).fallback is Fallback.TOO_SLOW
            assert time.monotonic() - started < 5


async def test_who_leaves_ends_the_generation_and_what_it_took_is_counted() -> None:
    async with asking(Script(list(TWO_SECONDS.parts), hangs=True)) as asked:
        parts = asked.reasoner.answer(TASK, deadline=math.inf)
        assert await anext(parts)
        await parts.aclose()
        await asyncio.wait_for(asked.llm.left.wait(), 1)
        (usage,) = asked.abandoned
        assert usage.prompt_tokens > usage.completion_tokens > 0
        assert usage.cost > 0


async def test_no_error_shows_a_password_of_the_url() -> None:
    async with asking(TWO_SECONDS, url="http://me:hidden@127.0.0.1:1") as asked:
        answer = await asked.answer()
        assert "http://127.0.0.1:1 cannot be reached" in answer.fallback_detail


async def test_a_call_that_is_cancelled_ends_the_generation() -> None:
    async with asking(Script(hangs=True)) as asked:
        running = asyncio.create_task(asked.answer())
        while not asked.llm.requests:
            await asyncio.sleep(0.005)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await asyncio.wait_for(asked.llm.left.wait(), 1)
        assert asked.writer.places.waiting == 0


async def test_a_server_that_fails_again_and_again_is_not_asked_for_a_while() -> None:
    async with asking(Script(status=500), failures=2) as asked:
        answers = [await asked.answer() for _ in range(4)]
        assert len(asked.llm.requests) == 2
        assert {answer.fallback for answer in answers} == {Fallback.UNAVAILABLE}
        assert "failed repeatedly" in answers[-1].fallback_detail
        assert answers[-1].usage == Usage()


async def test_a_request_that_the_server_does_not_like_opens_no_breaker() -> None:
    async with asking(Script(status=400), Script(status=400), TWO_SECONDS, failures=2) as asked:
        answers = [await asked.answer() for _ in range(3)]
        assert answers[-1].method is Method.LLM


async def test_more_answers_than_places_wait_and_too_many_do_without() -> None:
    async with asking(Script(hangs=True), limits=replace(LIMITS, concurrency=1, seconds=0.4)) as asked:
        answers = await asyncio.gather(*(asked.answer() for _ in range(8)))
        details = [answer.fallback_detail for answer in answers]
        assert details.count("too many answers wait for the language model") == 3
        assert {answer.fallback for answer in answers} == {Fallback.TOO_SLOW, Fallback.BUSY}
        assert all(answer.supported for answer in answers)


async def test_bounds_of_tokens_and_cost_cut_the_passages_before_the_model_is_asked() -> None:
    long = Task("How long?", [Passage("long", "", "A rollback takes two seconds. " * 400)])
    async with asking(TWO_SECONDS) as asked:
        whole = await asked.answer(long)
        cut = await asked.answer(replace(long, bounds=Bounds(tokens=900)))
        cheap = await asked.answer(replace(long, bounds=Bounds(cost=1.5)))
        sizes = [len(asked.llm.prompt(number)) for number in range(3)]
    assert (whole.truncated_passages, cut.truncated_passages, cheap.truncated_passages) == (1, 1, 1)
    assert sizes[0] > sizes[2] > sizes[1]


@pytest.mark.parametrize("bounds", [Bounds(tokens=100), Bounds(cost=0.01), Bounds(cost=0.0)])
async def test_bounds_that_leave_no_room_ask_no_model(bounds: Bounds) -> None:
    async with asking(TWO_SECONDS) as asked:
        answer = await asked.answer(replace(TASK, bounds=bounds))
        assert (answer.fallback, answer.usage, asked.llm.requests) == (Fallback.BUDGET, Usage(), [])


async def test_no_model_is_asked_for_sentences_or_without_passages() -> None:
    async with asking(TWO_SECONDS) as asked:
        chosen = await asked.answer(replace(TASK, extractive=True))
        assert (chosen.method, chosen.fallback, chosen.model) == (Method.EXTRACTIVE, None, "")
        nothing = await asked.answer(replace(TASK, passages=[]))
        assert (nothing.in_sources, nothing.fallback) == (False, None)
        assert asked.llm.requests == []


async def test_a_model_may_ask_for_further_searches() -> None:
    async with asking(reply("Two.", (1, "two seconds"), sub_questions=[" Who may? ", ""])) as asked:
        answer = await asked.answer(replace(TASK, sub_questions=2))
        assert answer.sub_questions == ["Who may?"]
        assert "sub_questions" in asked.llm.prompt()
    async with asking(reply("Two.", (1, "two seconds"), sub_questions=["Who may?"])) as asked:
        assert (await asked.answer()).fallback is Fallback.INVALID  # it was not asked for any


async def test_letters_of_all_scripts_arrive_whole() -> None:
    text = 'Zwei "Sekunden" \\ 二秒 😀 < done >'
    script = reply(text, (1, "two seconds"))
    escaped = json.dumps(json.loads("".join(script.parts)))
    for parts in (script.parts, list(escaped)):
        async with asking(Script(parts)) as asked:
            *deltas, answer = await asked.parts()
            assert isinstance(answer, Answer)
            assert "".join(map(str, deltas)) == answer.text == text
