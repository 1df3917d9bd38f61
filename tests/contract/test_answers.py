"""Answers in words, through all stages: extractive here, for no language model is configured."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from typer.testing import CliRunner, Result

from services.chassis.errors import InvalidArgument, Unavailable
from sluice.gateway.v1 import answer_pb2 as pb
from sluice.gateway.v1 import answer_pb2_grpc, search_pb2
from sluice.gateway.v1.documents_pb2 import Document
from sluice.reasoner.v1 import reasoner_pb2_grpc
from sluice.type.v1 import answer_pb2, stage_pb2
from sluice.type.v1.features_pb2 import Features
from sluice.type.v1.filter_pb2 import Condition, Filter, Value
from sluice_cli.calls import WRONG_COMMAND_LINE, Screen
from sluice_cli.main import app
from sluice_cli.search import reasoned
from sluice_client import Answer, AnswerReply, AsyncClient, Bounds, Client, Method
from tests.contract.conftest import Platform, start
from tests.contract.test_bad_input import index, soon
from tests.scripted_llm import Script, ScriptedLLM, reply, scripted_llm

DOCUMENTS = [
    Document(
        id="film", title="Polish-Russian War", text="The film was directed by Xawery Zulawski. It came out in 2009."
    ),
    Document(
        id="director",
        title="Xawery Zulawski",
        text="He is a Polish director. He is the son of actress Malgorzata Braunek.",
    ),
    Document(
        id="tea",
        title="Tea",
        text="Tea is a drink. It is made of leaves.",
        metadata={"year": Value(integer_value=2009)},
    ),
]
OF_ANOTHER_YEAR = Filter(must=[Condition(field="year", equals=Value(integer_value=1))])
QUESTION = "Who is the mother of the director of the film Polish-Russian War?"


@pytest.fixture
async def answering(tmp_path: Path) -> AsyncIterator[Platform]:
    """The stages of an answer."""
    async with AsyncExitStack() as stack:
        stages = {"embedder", "expander", "retriever", "reasoner", "gateway"}
        platform = await start(stack, stages, retriever={"qdrant_path": tmp_path / "qdrant"})
        await index(platform, *DOCUMENTS)
        yield platform


async def answer(platform: Platform, query: str = QUESTION, **request: Any) -> pb.AnswerResponse:
    stub = answer_pb2_grpc.AnswerServiceStub(platform["gateway"].channel)
    search = search_pb2.SearchRequest(query=query, **request.pop("search", {}))
    return await platform["gateway"].call(stub.Answer, pb.AnswerRequest(search=search, **request), deadline=soon())


def reason_report(replied: pb.AnswerResponse) -> search_pb2.StageReport:
    assert replied.search.stages[-1].stage == stage_pb2.STAGE_REASON
    return replied.search.stages[-1]


async def test_an_answer_is_made_of_sentences_that_stand_in_the_results(answering: Platform) -> None:
    replied = await answer(answering)
    texts = {result.passage.id: (result.passage.text, result.rank) for result in replied.search.results}
    assert replied.answer.method == answer_pb2.ANSWER_METHOD_EXTRACTIVE
    assert replied.answer.in_sources
    assert replied.answer.supported
    assert {one.passage_id for one in replied.answer.citations} >= {"film", "director"}
    for one in replied.answer.citations:
        text, rank = texts[one.passage_id]
        assert (text[one.start : one.end], one.result_rank) == (one.quote, rank)


async def test_with_reasoning_off_sentences_are_the_choice_and_with_it_on_a_degradation(answering: Platform) -> None:
    chosen = reason_report(await answer(answering))
    assert (chosen.outcome, chosen.reason) == (search_pb2.STAGE_OUTCOME_SKIPPED, "FEATURE_OFF")
    replied = await answer(answering, search={"features": Features(reasoning=True)})
    assert reason_report(replied).outcome == search_pb2.STAGE_OUTCOME_DEGRADED
    assert (reason_report(replied).reason, replied.answer.fallback_reason) == (
        "LLM_NOT_CONFIGURED",
        "LLM_NOT_CONFIGURED",
    )
    assert replied.answer.text


async def test_times_of_retrieval_and_generation_are_told_apart(answering: Platform) -> None:
    replied = await answer(answering)
    retrieval, generation, total = (
        one.ToTimedelta() for one in (replied.retrieval_time, replied.generation_time, replied.total_time)
    )
    assert retrieval
    assert generation
    assert total >= retrieval + generation


async def test_a_stream_has_the_results_first_and_the_whole_answer_last(answering: Platform) -> None:
    gateway = answering["gateway"]
    stub = answer_pb2_grpc.AnswerServiceStub(gateway.channel)
    request = pb.StreamAnswerRequest(answer=pb.AnswerRequest(search=search_pb2.SearchRequest(query=QUESTION)))
    events = [event async for event in gateway.stream(stub.StreamAnswer, request, deadline=soon())]
    assert events[0].search.results
    assert events[-1].answer.answer.citations
    assert events[-1].answer.search.results == events[0].search.results


async def test_where_nothing_is_found_nothing_is_answered(answering: Platform) -> None:
    replied = await answer(answering, search={"filter": OF_ANOTHER_YEAR})
    assert not replied.search.results
    assert (replied.answer.in_sources, replied.answer.method) == (False, answer_pb2.ANSWER_METHOD_UNSPECIFIED)
    assert reason_report(replied).reason == "NO_PASSAGES"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"query": ""}, "search.query"),
    ({"passage_count": 21}, "passage_count"),
    ({"passage_count": 0}, "passage_count"),
    ({"sub_question_count": 3}, "sub_question_count"),
    ({"reason_policy": 9}, "reason_policy"),
    ({"search": {"page_token": "x"}}, "search.page_token"),
    ({"search": {"limit": 101}}, "limit"),
    ({"answer_schema": "{"}, "answer_schema"),
    ({"answer_schema": '{"type": "object", "properties": {"a": {"$ref": "x"}}}'}, "answer_schema.properties.a.$ref"),
    ({"bounds": answer_pb2.AnswerBounds(max_token_count=0)}, "bounds.max_token_count"),
]


async def test_bad_input_is_named(answering: Platform) -> None:
    for request, field in BAD:
        with pytest.raises(InvalidArgument) as refused:
            await answer(answering, **request)
        assert refused.value.field == field


async def test_without_a_reasoner_the_results_are_there_unless_it_is_required(platform: Platform) -> None:
    await index(platform, *DOCUMENTS)
    replied = await answer(platform)
    assert len(replied.search.results) == len(DOCUMENTS)
    report = reason_report(replied)
    assert (report.outcome, report.reason) == (search_pb2.STAGE_OUTCOME_FAILED, "UNAVAILABLE")
    assert replied.answer.method == answer_pb2.ANSWER_METHOD_UNSPECIFIED
    with pytest.raises(Unavailable):
        await answer(platform, reason_policy=search_pb2.STAGE_POLICY_REQUIRED)


async def sluice(platform: Platform, *arguments: str) -> Result:
    gateway = platform["gateway"].address
    return await asyncio.to_thread(CliRunner().invoke, app, ["--gateway", gateway, "answer", QUESTION, *arguments])


def printed(result: Result) -> str:
    """The output of the command: the stages of this process log in between."""
    return "\n".join(line for line in result.stdout.splitlines() if not re.match(r"\d{4}-\d\d-\d\d ", line))


async def test_the_command_shows_sources_as_footnotes(answering: Platform) -> None:
    result = await sluice(answering, "--explain")
    assert result.exit_code == 0
    lines = printed(result).splitlines()
    assert "directed by Xawery Zulawski" in lines[0]
    assert any(line.startswith("[1] Polish-Russian War (film, result ") for line in lines)
    assert "made by extractive" in printed(result)
    assert "reason " in printed(result)


async def test_the_command_prints_json(answering: Platform, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"name": {"type": "string"}}}')
    result = await sluice(answering, "--json", "--schema", str(schema))
    replied = json.loads(printed(result))
    assert (replied["answer"]["text"], replied["answer"]["method"], replied["json_version"]) == ("", "extractive", 1)
    assert replied["search"]["stages"][-1]["stage"] == "reason"
    schema.write_text("[")
    assert (await sluice(answering, "--schema", str(schema))).exit_code == WRONG_COMMAND_LINE


async def test_the_command_shows_two_answers_next_to_each_other(answering: Platform) -> None:
    shown = printed(await sluice(answering, "--side-by-side"))
    assert "without reasoning" in shown
    assert "with reasoning" in shown
    compared = json.loads(printed(await sluice(answering, "--side-by-side", "--json")))
    reasons = [compared[side]["search"]["stages"][-1]["reason"] for side in ("without", "with")]
    assert reasons == ["FEATURE_OFF", "LLM_NOT_CONFIGURED"]
    assert (await sluice(answering, "--side-by-side", "--with", "max_hops")).exit_code == WRONG_COMMAND_LINE


async def test_both_clients_answer_and_stream(answering: Platform) -> None:
    address = answering["gateway"].address
    async with AsyncClient(address) as client:
        replied = await client.answer(QUESTION, passage_count=2, bounds=Bounds(max_token_count=100))
        events = [event async for event in client.stream_answer(QUESTION)]
    assert replied.answer.citations[0].quote in replied.answer.text
    assert isinstance(events[0], Answer)
    assert isinstance(events[-1], AnswerReply)

    def blocking() -> list[Answer | str | AnswerReply]:
        with Client(address) as client:
            assert client.answer(QUESTION).answer.method is Method.EXTRACTIVE
            return list(client.stream_answer(QUESTION))

    assert [type(event) for event in await asyncio.to_thread(blocking)] == [type(event) for event in events]


FILM = reply("Xawery Zulawski.", (1, "directed by Xawery Zulawski"), confidence=0.75)
REASONING = {"features": Features(reasoning=True)}


@asynccontextmanager
async def over(folder: Path, *scripts: Script, **settings: Any) -> AsyncIterator[tuple[Platform, ScriptedLLM]]:
    """The stages of an answer, over a model that plays scripts."""
    async with AsyncExitStack() as stack:
        llm = await stack.enter_async_context(scripted_llm(*scripts))
        given = {"reasoner_llm_url": llm.url, "reasoner_llm_api": "openai", "reasoner_llm_model": "tiny", **settings}
        stages = {"embedder", "expander", "retriever", "reasoner", "gateway"}
        platform = await start(stack, stages, retriever={"qdrant_path": folder / "qdrant"}, reasoner=given)
        await index(platform, *DOCUMENTS)
        yield platform, llm


async def test_a_model_answers_with_checked_quotes_and_the_price_is_told(tmp_path: Path) -> None:
    price = {"reasoner_prompt_price": 1.0, "reasoner_completion_price": 2.0}
    async with over(tmp_path, FILM, **price) as (platform, llm):
        written = await answer(platform, search=REASONING, passage_count=1)
        assert (written.answer.text, written.answer.method) == ("Xawery Zulawski.", answer_pb2.ANSWER_METHOD_LLM)
        assert (written.answer.prompt_token_count, written.answer.cost) == (120, pytest.approx(0.18))
        (citation,) = written.answer.citations
        assert (citation.passage_id, citation.result_rank) == (written.search.results[0].passage.id, 1)
        report = reason_report(written)
        assert (report.outcome, report.model, report.item_count) == (search_pb2.STAGE_OUTCOME_RAN, "tiny", 1)
        async with AsyncClient(platform["gateway"].address) as client:
            events = [event async for event in client.stream_answer(QUESTION, features=Features(reasoning=True))]
        assert "".join(event for event in events if isinstance(event, str)) == "Xawery Zulawski."
        assert len(events) > 4
        assert len(llm.requests) == 2


async def test_a_model_that_hangs_or_is_gone_is_made_up_for_within_the_deadline(tmp_path: Path) -> None:
    async with over(tmp_path, Script(list(FILM.parts)[:4], hangs=True)) as (platform, llm):
        async with AsyncClient(platform["gateway"].address) as client:
            slow = await client.answer(QUESTION, features=Features(reasoning=True), timeout=0.8)
            await asyncio.wait_for(llm.left.wait(), 1)
        assert (slow.answer.method, slow.answer.fallback_reason) == (Method.EXTRACTIVE, "LLM_TOO_SLOW")
        assert slow.answer.supported
        llm.scripts = [Script(breaks=True)]
        gone = await answer(platform, search=REASONING)
        assert (reason_report(gone).reason, gone.answer.supported) == ("LLM_UNAVAILABLE", True)


async def test_a_caller_that_leaves_ends_the_generation(tmp_path: Path) -> None:
    hanging = over(tmp_path, Script(list(FILM.parts), hangs=True))
    async with hanging as (platform, llm), AsyncClient(platform["gateway"].address) as client:
        events = client.stream_answer(QUESTION, features=Features(reasoning=True))
        async for event in events:
            if isinstance(event, str):
                break
        await cast(Any, events).aclose()
        await asyncio.wait_for(llm.left.wait(), 1)
        llm.left.clear()
        waiting = asyncio.create_task(client.answer(QUESTION, features=Features(reasoning=True)))
        while len(llm.requests) < 2:
            await asyncio.sleep(0.005)
        waiting.cancel()
        await asyncio.wait_for(llm.left.wait(), 1)


async def test_questions_of_the_model_are_searched(tmp_path: Path) -> None:
    asking = reply("No idea.", sub_questions=["Who is Xawery Zulawski?"])
    async with over(tmp_path, asking, reply("Malgorzata Braunek.", (2, "the son of actress Malgorzata Braunek"))) as (
        platform,
        llm,
    ):
        request = {"search": {**REASONING, "limit": 1}, "passage_count": 1, "sub_question_count": 1}
        written = await answer(platform, "Polish-Russian War?", **request)
        assert (written.answer.text, list(written.answer.sub_questions)) == (
            "Malgorzata Braunek.",
            ["Who is Xawery Zulawski?"],
        )
        assert [result.passage.id for result in written.search.results] == ["film", "director"]
        assert written.answer.citations[0].result_rank == 2
        assert len(llm.requests) == 2


class Dying(reasoner_pb2_grpc.ReasonerServiceServicer):
    """A reasoner that dies at each call, when the model may have been paid."""

    def __init__(self) -> None:
        self.calls = 0

    async def Reason(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        self.calls += 1
        await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")


async def test_a_call_of_the_reasoner_is_never_repeated(tmp_path: Path) -> None:
    dying, server = Dying(), grpc.aio.server()
    reasoner_pb2_grpc.add_ReasonerServiceServicer_to_server(dying, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop, None)
        stages = {"embedder", "expander", "retriever", "gateway"}
        settings = {"retriever": {"qdrant_path": tmp_path / "qdrant"}, "gateway": {"reasoner_address": address}}
        platform = await start(stack, stages, **settings)
        await index(platform, *DOCUMENTS)
        replied = await answer(platform)
        assert reason_report(replied).outcome == search_pb2.STAGE_OUTCOME_FAILED
        assert dying.calls == 1


async def test_on_a_terminal_text_appears_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(force_terminal=True, color_system=None, width=100, file=io.StringIO())
    monkeypatch.setattr(reasoned, "stdout", screen)
    async with over(tmp_path, FILM, Script(list(FILM.parts)[:-1], breaks=True)) as (platform, _):
        assert (await sluice(platform, "--reasoning")).exit_code == 0
        shown = cast(io.StringIO, screen.file).getvalue()
        assert shown.startswith("Xawery Zulawski.\n\n[1] ")
        assert shown.count("Xawery Zulawski.") == 1 + shown.count("by Xawery Zulawski.")
        cast(io.StringIO, screen.file).truncate(0)
        warned = await sluice(platform, "--reasoning")
        shown = cast(io.StringIO, screen.file).getvalue()
        assert "What was written so far is not the answer" in shown
        assert "The film was directed by Xawery Zulawski." in shown
        assert "LLM_UNAVAILABLE" in warned.output
