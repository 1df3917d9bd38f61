"""`sluice judgments` against real files, a canned gateway, and a scripted language model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from sluice.gateway.v1 import documents_pb2
from sluice.rollout.v1 import feedback_pb2, feedback_pb2_grpc
from sluice.type.v1 import feedback_pb2 as events_pb2
from sluice.type.v1 import impression_pb2
from sluice_cli import calls
from sluice_cli.main import app
from tests.contract.canned_gateway import CannedGateway, canned_gateway
from tests.scripted_llm import Script, ScriptedLLM, scripted_llm

Sluice = Callable[..., Awaitable[Result]]


def said(content: dict[str, Any] | str) -> Script:
    """A reply of the model, and the tokens of it."""
    text = content if isinstance(content, str) else json.dumps(content)
    usage = {"prompt_tokens": 90, "completion_tokens": 10}
    return Script(raw=json.dumps({"choices": [{"message": {"content": text}}], "usage": usage}).encode())


@pytest.fixture
async def gateway() -> AsyncIterator[CannedGateway]:
    async with canned_gateway() as running:
        for name in ("a", "b", "c"):
            running.documents[name] = documents_pb2.Document(id=name, title=f"Title {name}", text=f"text of {name}")
        yield running


@pytest.fixture
async def llm() -> AsyncIterator[ScriptedLLM]:
    async with scripted_llm(said({"grade": 2})) as served:
        yield served


@pytest.fixture
def sluice(gateway: CannedGateway) -> Sluice:
    async def run(*arguments: Any) -> Result:
        line = ["--gateway", gateway.address, *map(str, arguments)]
        return await asyncio.to_thread(CliRunner().invoke, app, line)

    return run


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


async def test_lists_are_imported_merged_and_exported(sluice: Sluice, tmp_path: Path) -> None:
    (tmp_path / "qrels.txt").write_text("q1 0 a 2\nq1 0 b 0\n")
    (tmp_path / "more.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tb\t1\nq2\tc\t1\n")
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "why?"}\n')
    both = (tmp_path / "qrels.txt", tmp_path / "more.tsv", "--output", tmp_path / "all.jsonl")
    result = await sluice("judgments", "import", *both, "--merge", "highest")
    assert result.exit_code == calls.DONE, result.output
    assert "3 judgments of 2 queries" in result.stdout
    assert "1 queries have no text" in result.stderr
    assert lines(tmp_path / "all.jsonl")[0] == {"query_id": "q1", "query": "why?", "document_id": "a", "grade": 2}
    await sluice("judgments", "export", tmp_path / "all.jsonl", "--output", tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text() == "q1 0 a 2\nq1 0 b 1\nq2 0 c 1\n"


async def test_a_file_that_is_no_list_is_a_wrong_command_line(sluice: Sluice, tmp_path: Path) -> None:
    (tmp_path / "wrong.txt").write_text("nonsense\n")
    result = await sluice("judgments", "export", tmp_path / "wrong.txt", "--output", tmp_path / "out.txt")
    assert (result.exit_code, "wrong.txt:1" in result.stderr) == (calls.WRONG_COMMAND_LINE, True)
    assert not (tmp_path / "out.txt").exists()


@pytest.mark.parametrize("model", ["pbm", "coec"])
async def test_clicks_become_judgments_with_their_counts(sluice: Sluice, tmp_path: Path, model: str) -> None:
    events = []
    for number in range(40):
        order = ["a", "b"] if number % 2 else ["b", "a"]
        events.append(
            {"query_id": str(number), "client_id": "u", "user_query": "why?", "query_response_object_ids": order}
        )
        if number % 4:
            click = {"action_name": "click", "event_attributes": {"object": {"object_id": "a"}}}
            events.append({"query_id": str(number), **click})
    events.append({"query_id": "x", "client_id": "u", "query_response_object_ids": ["a"]})
    (tmp_path / "ubi").mkdir()
    for name, some in (("ubi_queries.jsonl", events[::2]), ("ubi_events.jsonl", events[1::2])):
        (tmp_path / "ubi" / name).write_text("".join(json.dumps(one) + "\n" for one in some))
    made = tmp_path / "clicked.jsonl"
    result = await sluice("judgments", "from-clicks", tmp_path / "ubi", "--output", made, "--model", model)
    assert result.exit_code == calls.DONE, result.output
    assert "40 answers with 30 clicks: 2 judgments of 1 queries" in result.stdout
    assert "1 answers have no query" in result.stderr
    found = {one["document_id"]: one for one in lines(made)}
    assert found["a"]["grade"] > 60
    assert found["b"]["grade"] < 10
    assert (found["a"]["query"], found["a"]["impressions"], found["a"]["clicks"]) == ("why?", 40, 30)


async def test_too_few_impressions_make_no_judgments(sluice: Sluice, tmp_path: Path) -> None:
    line = {"query_id": "1", "client_id": "u", "user_query": "why?", "query_response_object_ids": ["a"]}
    (tmp_path / "ubi.jsonl").write_text(json.dumps(line) + "\n")
    result = await sluice("judgments", "from-clicks", tmp_path / "ubi.jsonl", "--output", tmp_path / "c.jsonl")
    assert (result.exit_code, "a lower --min-impressions" in result.stderr) == (calls.NEEDS_A_LOOK, True)


async def test_agreement_of_two_lists_is_shown(sluice: Sluice, tmp_path: Path) -> None:
    (tmp_path / "people").write_text("q 0 a 1\nq 0 b 0\np 0 c 1\n")
    (tmp_path / "llm").write_text("q 0 a 3\nq 0 b 1\np 0 c 1\n")
    shown = (await sluice("judgments", "agreement", tmp_path / "people", tmp_path / "llm", "--relevant", 1, 2)).stdout
    assert "3 judgments of both lists" in shown
    assert "of 1 pairs that the first list tells apart, the second has 1 in the same order" in shown


async def test_a_model_judges_what_the_configurations_find(
    sluice: Sluice, llm: ScriptedLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_JUDGE_KEY", "secret")
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "why?"}\n')
    llm.scripts = [said({"grade": 3}), said("no JSON"), said({"grade": 0})]
    options = ("--model", "m", "--llm-url", f"{llm.url}/v1", "--output", tmp_path / "llm.jsonl")
    command = ("judgments", "ask-llm", "papers", "--queries", tmp_path / "queries.jsonl", *options)
    result = await sluice(*command)
    assert result.exit_code == calls.NEEDS_A_LOOK
    assert "2 verdicts, 1 useless replies; 300 tokens were used" in result.stdout
    assert [(one["document_id"], one["grade"], one["query"]) for one in lines(tmp_path / "llm.jsonl")] == [
        ("a", 3, "why?"),
        ("c", 0, "why?"),
    ]
    assert set(llm.keys) == {"Bearer secret"}
    assert llm.requests[0]["response_format"]["json_schema"]["schema"]["properties"]["grade"]["enum"] == [0, 1, 2, 3]
    # What was judged is not asked again.
    again = await sluice(*command)
    assert (len(llm.requests), "2 verdicts" in again.stdout) == (3, True)
    other = await sluice(*command, "--passage-tokens", "50")
    assert (other.exit_code, "another model, method or prompt" in other.stderr) == (calls.WRONG_COMMAND_LINE, True)


async def test_a_budget_that_is_spent_stops_it_and_a_larger_one_goes_on(
    sluice: Sluice, llm: ScriptedLLM, tmp_path: Path
) -> None:
    (tmp_path / "people.jsonl").write_text(
        "".join(
            json.dumps({"query_id": "q", "query": "why?", "document_id": name, "grade": grade}) + "\n"
            for name, grade in (("a", 2), ("b", 2), ("c", 0), ("gone", 1))
        )
    )
    options = ("--model", "m", "--llm-url", llm.url, "--output", tmp_path / "llm.jsonl")
    command = ("judgments", "ask-llm", "papers", "--judgments", tmp_path / "people.jsonl", *options)
    stopped = await sluice(*command, "--max-tokens", "400")
    assert stopped.exit_code == calls.NEEDS_A_LOOK
    assert "1 of 4 documents of the list are not in the collection" in stopped.stderr
    assert "the budget of 400 has no room for more" in stopped.stderr
    asked = len(llm.requests)
    assert 0 < asked < 3
    whole = await sluice(*command)
    assert (whole.exit_code, len(llm.requests)) == (calls.DONE, 3)
    assert "3 judgments of both lists" in whole.stdout
    assert "of 2 pairs that the first list tells apart" in whole.stdout


async def test_pairs_are_judged_in_both_orders_and_must_agree(sluice: Sluice, llm: ScriptedLLM, tmp_path: Path) -> None:
    (tmp_path / "people.jsonl").write_text(
        "".join(
            json.dumps({"query_id": "q", "query": "why?", "document_id": name, "grade": grade}) + "\n"
            for name, grade in (("a", 1), ("b", 0), ("c", 0))
        )
    )
    first, second = said({"better": "first"}), said({"better": "second"})
    # a over b by both orders, a and c by the place alone, b over c by both.
    llm.scripts = [first, second, first, first, first, second]
    options = ("--model", "m", "--llm-url", llm.url, "--output", tmp_path / "llm.jsonl", "--method", "pairwise")
    command = ("judgments", "ask-llm", "papers", "--judgments", tmp_path / "people.jsonl", *options)
    result = await sluice(*command, "--json")
    assert result.exit_code == calls.DONE, result.output
    found = json.loads(result.stdout)
    assert (found["verdicts"], found["contrary"], found["useless"], found["tokens"]) == (2, 1, 0, 600)
    assert (found["agreement"]["pairs"], found["agreement"]["same"], found["agreement"]["opposite"]) == (1, 1, 0)
    assert {one["document_id"]: one["grade"] for one in lines(tmp_path / "llm.jsonl")} == {"a": 1, "b": 1, "c": 0}


async def test_a_model_that_does_not_answer_is_a_problem_with_a_remedy(sluice: Sluice, tmp_path: Path) -> None:
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "why?"}\n')
    options = ("--model", "m", "--llm-url", "http://127.0.0.1:1", "--output", tmp_path / "llm.jsonl")
    result = await sluice("judgments", "ask-llm", "papers", "--queries", tmp_path / "queries.jsonl", *options)
    assert result.exit_code == calls.NOT_DONE
    assert "the same command goes on where this one stopped" in result.stderr


async def test_questions_that_users_asked_are_sampled(sluice: Sluice, tmp_path: Path) -> None:
    served = [
        {"query_id": "1", "client_id": "u", "user_query": "why?", "query_response_object_ids": ["a"]},
        {"query_id": "2", "client_id": "u", "user_query": "Why?", "query_response_object_ids": ["a"]},
        {"query_id": "3", "client_id": "u", "user_query": "how?", "query_response_object_ids": ["a"]},
        {"query_id": "4", "client_id": "u", "user_query": "hmac:00", "query_response_object_ids": ["a"]},
    ]
    (tmp_path / "ubi.jsonl").write_text("".join(json.dumps(one) + "\n" for one in served))
    made = tmp_path / "sample.jsonl"
    result = await sluice("feedback", "sample", tmp_path / "ubi.jsonl", "--output", made)
    assert result.exit_code == calls.DONE, result.output
    assert "2 of 2 distinct questions, from 3 answers" in result.stdout
    assert "1 answers have no text of a question" in result.stderr
    assert sorted((one["text"].casefold(), one["count"]) for one in lines(made)) == [("how?", 1), ("why?", 2)]


class Kept(feedback_pb2_grpc.FeedbackStoreServiceServicer):
    """A store that has ten answers to a user, the first of two results used in most, and one to nobody."""

    async def ExportFeedback(self, request: Any, context: Any) -> AsyncIterator[feedback_pb2.ExportFeedbackResponse]:  # noqa: N802  # gRPC's name
        for number in range(11):
            shown = impression_pb2.Impression(
                query_id=str(number), unit=number, object_ids=["a", "b"][:: 1 if number % 2 else -1], first_position=1
            )
            shown.time.GetCurrentTime()
            used = events_pb2.Event(event_id=f"e{number}", action=events_pb2.EVENT_ACTION_CITE, object_id="a")
            served = feedback_pb2.ServedImpression(impression=shown, query="why?" if request.collection else "")
            answer = feedback_pb2.AnswerFeedback(served=served, events=[used] if number > 2 else [])
            yield feedback_pb2.ExportFeedbackResponse(answers=[answer])


@pytest.fixture
async def service() -> AsyncIterator[str]:
    server = grpc.aio.server()
    feedback_pb2_grpc.add_FeedbackStoreServiceServicer_to_server(Kept(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_clicks_and_questions_are_read_from_the_service(sluice: Sluice, service: str, tmp_path: Path) -> None:
    made = tmp_path / "clicked.jsonl"
    options = ("--output", made, "--collection", "papers", "--rollout", service)
    result = await sluice("judgments", "from-clicks", *options)
    assert result.exit_code == calls.DONE, result.output
    assert "10 answers with 8 clicks: 2 judgments of 1 queries" in result.stdout
    assert "1 answers to nobody are left out" in result.stderr
    assert {one["document_id"]: one["clicks"] for one in lines(made)} == {"a": 8, "b": 0}
    sampled = await sluice("feedback", "--service", service, "sample", "--output", made, "--collection", "papers")
    assert "1 of 1 distinct questions, from 10 answers" in sampled.stdout
    unkept = await sluice("feedback", "--service", service, "sample", "--output", made, "--anonymous")
    assert (unkept.exit_code, "11 answers have no text" in unkept.stderr) == (calls.NEEDS_A_LOOK, True)
