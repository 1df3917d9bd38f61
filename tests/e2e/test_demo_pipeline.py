"""The demo in miniature: real processes, real models, real questions."""

import asyncio
import json
from urllib.request import urlopen

import pytest

from demo import report
from demo.indexing import is_stored
from demo.questions import CONFIGS, LIMIT, QUESTIONS, ask
from deploy.local import STAGES
from deploy.local.processes import Process

pytestmark = pytest.mark.asyncio(loop_scope="session")

EXPECTED = {
    "run a function in a pool of worker threads": ("concurrent.futures", "threading", "multiprocessing.pool"),
    "parse command line options": ("argparse", "getopt", "optparse"),
    "compare two files line by line": ("difflib", "filecmp"),
    "round a number to the nearest even digit in money": ("decimal", "round"),
}
RAN = {
    "off": {"embed", "retrieve"},
    "rerank": {"embed", "retrieve", "rerank"},
    "all": {"expand", "embed", "retrieve", "rerank"},
}


def is_in(title, modules):
    return any(title == module or title.startswith(f"{module}.") for module in modules)


async def test_a_second_start_finds_what_the_first_one_stored(stored, client):
    assert len(stored.corpus.passages) > 300
    assert await is_stored(client, stored.corpus, stored.collection)


@pytest.mark.parametrize("question", EXPECTED)
@pytest.mark.parametrize("config", ["rerank", "all"])
async def test_the_expected_modules_are_among_the_best_five(stored, client, question, config):
    run = await ask(client, question, config, collection=stored.collection)
    titles = [result.passage.title for result in run.answer.results[:5]]
    assert any(is_in(title, EXPECTED[question]) for title in titles), titles


@pytest.mark.parametrize("config", CONFIGS)
async def test_every_stage_reports_what_it_did(stored, client, config):
    answer = (await ask(client, QUESTIONS[0], config, collection=stored.collection)).answer
    assert [report.stage.value for report in answer.stages] == ["expand", "embed", "retrieve", "hop", "rerank"]
    assert {report.stage.value for report in answer.stages if report.outcome == "ran"} == RAN[config]
    assert all(report.outcome in ("ran", "skipped") for report in answer.stages)
    assert all(bool(report.duration) == (report.outcome == "ran") for report in answer.stages)


@pytest.mark.parametrize("config", CONFIGS)
async def test_results_are_ranked_by_score_without_repeats(stored, client, config):
    results = (await ask(client, QUESTIONS[1], config, collection=stored.collection)).answer.results
    assert [result.rank for result in results] == list(range(1, LIMIT + 1))
    assert sorted((result.score for result in results), reverse=True) == [result.score for result in results]
    assert len({result.passage.id for result in results}) == LIMIT
    assert all(result.passage.text and result.passage.metadata["module"] for result in results)


async def test_without_reranking_the_first_stage_has_the_last_word(stored, client):
    results = (await ask(client, QUESTIONS[0], "off", collection=stored.collection)).answer.results
    assert [result.scores.retrieval_rank for result in results] == [result.rank for result in results]
    assert all(result.scores.rerank is None and result.scores.late is None for result in results)


async def test_the_demo_reranks_by_late_interaction(stored, client):
    for config in ("rerank", "all"):
        results = (await ask(client, QUESTIONS[0], config, collection=stored.collection)).answer.results
        assert all(result.scores.rerank is None and result.scores.late is not None for result in results)


async def test_the_report_holds_every_run(stored, client, tmp_path):
    runs = [await ask(client, QUESTIONS[0], config, collection=stored.collection) for config in CONFIGS]
    report.write(tmp_path / "demo.json", 400, runs)
    written = json.loads((tmp_path / "demo.json").read_text())
    assert written["passages"] == 400
    assert [run["config"] for run in written["runs"]] == ["off", "rerank", "all"]
    for run in written["runs"]:
        assert set(run) == {"question", "config", "results", "stages"}
        assert all(set(result) == {"title", "score"} for result in run["results"])
        assert all(set(stage) == {"stage", "outcome", "ms"} for stage in run["stages"])


@pytest.mark.parametrize("stage", STAGES)
async def test_every_stage_has_a_process_a_log_and_metrics_of_its_own(stored, stage):
    assert Process.of(stored.stack.pid(stage)).alive
    assert '"event": "serving"' in stored.stack.log(stage).read_text()
    assert b"grpc_server_handled_total" in await asyncio.to_thread(_fetched, stored.stack.metrics_url(stage))


def _fetched(url):
    with urlopen(url) as reply:
        return reply.read()
