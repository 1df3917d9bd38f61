"""`sluice evaluate` and `sluice whatif` against the real stages, in this process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from services.chassis import errors
from sluice_cli import calls
from sluice_cli.main import app
from sluice_client import AsyncClient, Document
from tests.contract.canned_gateway import canned_gateway
from tests.contract.conftest import Platform

Sluice = Callable[..., Awaitable[Result]]
ANIMALS = ("otter", "heron", "badger", "lynx", "viper", "beaver", "falcon", "marten")


def running(address: str) -> Sluice:
    async def run(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, app, ["--gateway", address, *arguments])

    return run


def printed(result: Result) -> Any:
    """The JSON of the command, below the log of the stages of this process."""
    return json.loads(result.stdout[result.stdout.index("{\n") :])


@pytest.fixture
async def animals(platform: Platform) -> Sluice:
    """The command, with a gateway that has a passage for each animal, and others about nothing."""
    address = platform["gateway"].address
    async with AsyncClient(address) as client:
        documents = [Document(name, name, f"The {name} lives by the river and sleeps.") for name in ANIMALS]
        documents += [Document(f"other-{n}", "", f"Where does the number {n} live?") for n in range(20)]
        await client.index(documents, collection="animals")
    return running(address)


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """A folder as BEIR has it, with a query that nothing answers."""
    queries = [{"_id": name, "text": f"where does the {name} live"} for name in (*ANIMALS, "yeti")]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in queries))
    rows = [f"{name}\t{name}\t2\n" for name in ANIMALS] + ["yeti\tother-1\t0\n"]
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(rows))
    return tmp_path


async def test_configurations_are_compared_by_judgments(animals: Sluice, judged: Path) -> None:
    said = ["evaluate", "animals", "--judgments", str(judged / "qrels.tsv")]
    (judged / "words.yaml").write_text("dense: false\n")
    configurations = ["--config", "dense=lexical:false", "--config", f"words={judged / 'words.yaml'}"]
    result = await animals(*said, *configurations, "--output", str(judged / "offline.json"), "--show", "2")
    # The vectors of a stack without a model carry no meaning, and a figure must not hide that.
    assert result.exit_code == calls.NEEDS_A_LOOK, result.output
    assert "dense: 8 answers are not by all that was asked for: 8 embed PSEUDO_EMBEDDINGS" in result.stderr
    assert "words: " not in result.stderr
    assert "words against dense over 8 questions: nDCG@10 +" in result.stdout
    assert "where does the" in result.stdout
    written = json.loads((judged / "offline.json").read_text())
    assert written["step"] == "offline"
    assert written["summary"].startswith("words against dense over 8 questions")
    assert "where does the" not in json.dumps(written)
    quality = written["result"]["quality"]
    by_words = quality["configurations"][1]["measures"]
    assert {name: found["value"] for name, found in by_words.items()} == dict.fromkeys(by_words, 1.0)
    main = quality["differences"][0]
    assert (main["measure"], main["wins"] + main["ties"], main["losses"]) == ("ndcg@10", 8, 0)
    assert main["difference"]["low"] <= main["difference"]["value"] <= main["difference"]["high"]
    assert [side["flags"] for side in written["result"]["sides"]] == [{"lexical": False}, {"dense": False}]
    assert written["result"]["left_out"] == 1


async def test_an_evaluation_as_json_has_the_texts_and_kendalls_tau(animals: Sluice, judged: Path) -> None:
    said = ["evaluate", "animals", "--judgments", str(judged / "qrels.tsv"), "--limit", "3", "--json"]
    said += ["--second-judgments", str(judged / "qrels.tsv"), "--plot", str(judged / "plot.svg")]
    result = await animals(*said, "--config", "dense=lexical:false", "--config", "words=dense:false")
    found = printed(result)
    assert (found["quality"]["questions"], found["left_out"], found["kendalls_tau"]) == (3, 6, 1.0)
    assert found["quality"]["moved"][0]["query"].startswith("where does the")
    assert (judged / "plot.svg").read_text().startswith("<?xml")


async def test_judgments_of_other_ids_are_said_to_be_so(animals: Sluice, judged: Path) -> None:
    (judged / "qrels.tsv").write_text("otter\tno-such-passage\t1\n")
    said = [
        "evaluate",
        "animals",
        "--judgments",
        str(judged / "qrels.tsv"),
        "--config",
        "a=",
        "--config",
        "b=dense:false",
    ]
    result = await animals(*said)
    assert result.exit_code == calls.NEEDS_A_LOOK
    assert "not one result is judged" in result.stderr
    assert "--by-document" in result.stderr


@pytest.mark.parametrize(
    ("configurations", "said"),
    [
        (["a="], "give two or more"),
        (["a=", "a=dense:false"], "a comes more than once"),
        (["a=", "b=dance:false"], "dance is no flag"),
        (["a=", "b=dense:perhaps"], "dense must be of type bool"),
        (["a=", "b=rerank_candidate_count:0"], "rerank_candidate_count must be between"),
        (["a=", "nonsense"], "'nonsense' is none"),
        (["a=", "b=/no/such.yaml"], "cannot be read"),
    ],
)
async def test_a_wrong_configuration_is_a_wrong_command_line(
    judged: Path, configurations: list[str], said: str
) -> None:
    options = [part for one in configurations for part in ("--config", one)]
    result = await running("127.0.0.1:1")("evaluate", "c", "--judgments", str(judged / "qrels.tsv"), *options)
    assert result.exit_code == calls.WRONG_COMMAND_LINE, result.output
    assert said in " ".join(result.stderr.replace("│", " ").split())


async def test_a_question_that_failed_is_left_out_for_all_configurations(judged: Path) -> None:
    async with canned_gateway() as gateway:
        gateway.failures.extend([None, None, errors.Unavailable("Qdrant is down")])
        said = [
            "evaluate",
            "c",
            "--judgments",
            str(judged / "qrels.tsv"),
            "--config",
            "a=",
            "--config",
            "b=dense:false",
        ]
        result = await running(gateway.address)(*said, "--json")
    assert result.exit_code == calls.NEEDS_A_LOOK
    found = printed(result)
    assert found["quality"]["questions"] == 7
    assert [side["failed"] for side in found["sides"]] == [0, 1]
    assert "1 of 8 questions failed, and are left out for all: 1 UNAVAILABLE" in result.stderr


async def test_a_collection_that_is_not_there_ends_it_at_once(judged: Path) -> None:
    async with canned_gateway() as gateway:
        gateway.failures.append(errors.NotFound("there is no collection 'c'"))
        said = [
            "evaluate",
            "c",
            "--judgments",
            str(judged / "qrels.tsv"),
            "--config",
            "a=",
            "--config",
            "b=dense:false",
        ]
        result = await running(gateway.address)(*said)
        assert (result.exit_code, len(gateway.requests)) == (calls.NOT_DONE, 1)


async def test_the_arms_of_an_experiments_plan_are_configurations(judged: Path) -> None:
    plan: Any = "name: x\narms:\n  - name: base\n  - name: reranked\n    overrides:\n      rerank: true\n"
    (judged / "plan.yaml").write_text(plan)
    async with canned_gateway() as gateway:
        said = ["evaluate", "c", "--judgments", str(judged / "qrels.tsv"), "--config", str(judged / "plan.yaml")]
        result = await running(gateway.address)(*said, "--json", "--limit", "1")
        sides = json.loads(result.stdout)["sides"]
        assert [(side["name"], side["flags"]) for side in sides] == [("base", {}), ("reranked", {"rerank": True})]


async def test_recorded_questions_are_asked_again_and_compared(animals: Sluice, judged: Path) -> None:
    said = ["whatif", "animals", "--sample", str(judged / "queries.jsonl"), "--rate", "1000", "--concurrency", "2"]
    said += ["--judgments", str(judged / "qrels.tsv"), "--output", str(judged / "replay.json"), "--show", "3"]
    said += ["--plot", str(judged / "replay.svg")]
    result = await animals(*said, "--config", "dense=lexical:false", "--config", "words=dense:false")
    assert "words against dense over 9 recorded questions" in result.stdout
    assert "Questions that changed most" in result.stdout
    written = json.loads((judged / "replay.json").read_text())
    found = written["result"]
    assert (written["step"], found["questions"], found["stopped"], found["verdict"]) == ("replay", 9, "", "better")
    assert "where does the" not in json.dumps(written)
    (changed,) = found["changed"]
    assert 0 <= changed["rank_biased_overlap"]["low"] <= changed["rank_biased_overlap"]["value"] < 1
    assert found["quality"]["questions"] == 8
    dense, words = found["sides"]
    assert (dense["items"]["embed"], "embed" in words["items"]) == (1, False)
    assert dense["tokens"] > 0 == words["tokens"]
    assert (judged / "replay.svg").exists()


async def test_a_replay_waits_for_a_gateway_that_has_no_room_and_asks_again(judged: Path) -> None:
    async with canned_gateway() as gateway:
        gateway.failures.extend([None, errors.ResourceExhausted("busy", retry_after=0.01), None])
        said = ["whatif", "c", "--sample", str(judged / "queries.jsonl"), "--rate", "500", "--limit", "3", "--json"]
        result = await running(gateway.address)(*said, "--config", "a=", "--config", "b=dense:false")
        found = printed(result)
        assert (found["questions"], len(gateway.requests)) == (3, 7)
        assert (found["pace"]["refused"], found["pace"]["backed_off"]) == (1, 1)
        assert [side["failed"] for side in found["sides"]] == [0, 0]


async def test_a_replay_ends_where_the_gateway_has_no_spare_capacity(judged: Path) -> None:
    async with canned_gateway() as gateway:
        busy = [errors.ResourceExhausted("busy", retry_after=0.001) for _ in range(20)]
        gateway.failures.extend([None, None, *busy])
        said = ["whatif", "c", "--sample", str(judged / "queries.jsonl"), "--rate", "1000"]
        result = await running(gateway.address)(*said, "--config", "a=", "--config", "b=dense:false")
        assert result.exit_code == calls.NEEDS_A_LOOK
        assert "ended early: the gateway has no spare capacity; the figures are of 1 questions" in result.stderr
        assert len(gateway.requests) < 12


async def test_a_replay_keeps_its_figures_where_the_gateway_goes_away(judged: Path) -> None:
    async with canned_gateway() as gateway:
        gateway.failures.extend([None, None, errors.NotFound("the collection was deleted")])
        said = ["whatif", "c", "--sample", str(judged / "queries.jsonl"), "--rate", "500"]
        result = await running(gateway.address)(*said, "--config", "a=", "--config", "b=dense:false")
        assert result.exit_code == calls.NEEDS_A_LOOK
        assert "ended early: the collection was deleted" in result.stderr
        assert "over 1 recorded questions" in result.stdout


# A shell that runs the tests in the background has them ignore interrupts, and whatever they start.
HEEDING_INTERRUPTS = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("sluice_cli.main", run_name="__main__", alter_sys=True)
"""


async def test_an_interrupt_ends_a_replay_with_the_figures_so_far(judged: Path) -> None:
    async with canned_gateway() as gateway:
        said = ["whatif", "c", "--sample", str(judged / "queries.jsonl"), "--rate", "3"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", HEEDING_INTERRUPTS, "--gateway", gateway.address, *said),
            *("--config", "a=", "--config", "b=dense:false", "--output", str(judged / "replay.json")),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        while len(gateway.requests) < 3:
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        stdout, stderr = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == calls.INTERRUPTED
        assert b"b against a over 1 recorded questions" in stdout
        assert b"ended early: interrupted" in stderr
        assert b"Traceback" not in stderr
        assert len(gateway.requests) < 18
    assert json.loads((judged / "replay.json").read_text())["result"]["stopped"] == "interrupted"
