from __future__ import annotations

import asyncio
import json
import re
import signal
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from services.chassis import errors
from sluice.gateway.v1 import documents_pb2, search_pb2
from sluice.type.v1 import features_pb2, filter_pb2
from sluice_cli import calls
from sluice_cli.indexing.run import READ_AHEAD
from sluice_cli.main import ROOMS, app
from sluice_client import FLAGS
from tests.contract.canned_gateway import CannedGateway, canned_gateway

Sluice = Callable[..., Awaitable[Result]]


@pytest.fixture
async def gateway() -> AsyncIterator[CannedGateway]:
    async with canned_gateway() as running:
        yield running


@pytest.fixture(autouse=True)
def states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where runs of `sluice index` keep their files."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "sluice" / "index"


def _files(folder: Path, pattern: str = "*") -> list[Path]:
    return list(folder.glob(pattern))


@pytest.fixture
def sluice(gateway: CannedGateway) -> Sluice:
    """Runs the command against the canned gateway, in a thread, since the gateway lives in this one's event loop."""

    async def run(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, app, ["--gateway", gateway.address, *arguments])

    return run


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    lines = [json.dumps({"_id": f"d{number}", "title": f"Title {number}", "text": "text"}) for number in range(5)]
    path.write_text(
        "\n".join([*lines, "nonsense", '{"id": "d9"}', '{"id": "odd", "text": "x", "metadata": {"a": {}}}'])
    )
    return path


# Searching


async def test_only_what_is_said_is_sent(gateway: CannedGateway, sluice: Sluice) -> None:
    assert (await sluice("search", "why?")).exit_code == calls.DONE
    said = "search why? --rerank --no-expansion --expansion-strategy multi_query --no-dense --limit 3 --collection c"
    said += " --page-token 0 --collapse"
    assert (await sluice(*said.split(), "--filter", "year>=2020", "--filter", "kind!=a")).exit_code == calls.DONE
    assert gateway.requests == [
        search_pb2.SearchRequest(query="why?", limit=10, features=features_pb2.Features()),
        search_pb2.SearchRequest(
            query="why?",
            limit=3,
            collection="c",
            filter=filter_pb2.Filter(
                must=[filter_pb2.Condition(field="year", integer_range=filter_pb2.IntegerRange(gte=2020))],
                must_not=[filter_pb2.Condition(field="kind", equals=filter_pb2.Value(string_value="a"))],
            ),
            features=features_pb2.Features(
                dense=False,
                expansion=False,
                expansion_strategy=features_pb2.EXPANSION_STRATEGY_MULTI_QUERY,
                rerank=True,
            ),
            page_token="0",
            collapse_duplicates=True,
        ),
    ]


async def test_answers_go_to_standard_output_and_trouble_to_standard_error(
    gateway: CannedGateway, sluice: Sluice
) -> None:
    gateway.documents["d0"] = documents_pb2.Document(id="d0", title="Title 0", text="text")
    result = await sluice("search", "why?")
    assert "1. Title 0" in result.stdout
    assert "warning: expand degraded: OTHER_STRATEGY_SERVED: no WordNet" in result.stderr


async def test_an_explanation_shows_every_stage(gateway: CannedGateway, sluice: Sluice) -> None:
    gateway.documents["d0"] = documents_pb2.Document(id="d0", title="Title 0", text="text")
    shown = (await sluice("search", "why?", "--explain")).stdout
    for part in ("▲2 from 3", "expand", "degraded", "embed", "10.5", "rerank", "skipped", gateway.request_ids[0]):
        assert part in shown


async def test_json_holds_the_whole_answer_and_nothing_else(gateway: CannedGateway, sluice: Sluice) -> None:
    gateway.documents |= {name: documents_pb2.Document(id=name, text="ünïcode") for name in ("d0", "d1")}
    result = await sluice("search", "why?", "--json", "--limit", "1")
    answer = json.loads(result.stdout)
    assert answer["results"][0]["passage"]["text"] == "ünïcode"
    assert answer["next_page_token"] == "1"
    assert answer["stages"][0] == {
        "stage": "expand",
        "outcome": "degraded",
        "reason": "OTHER_STRATEGY_SERVED",
        "detail": "no WordNet",
        "duration": 0.003,
        "model": "",
        "item_count": 3,
        "truncated_count": 0,
    }
    assert not result.stderr


async def test_sentences_that_answer_are_shown_instead_of_the_beginning(gateway: CannedGateway, sluice: Sluice) -> None:
    gateway.documents["d0"] = documents_pb2.Document(id="d0", title="Title 0", text="Yes. It is so.")
    shown = (await sluice("search", "why?", "--highlights", "--diversity", "0.25")).stdout
    assert "Yes. …" in shown
    assert "so" not in shown
    assert (gateway.requests[-1].highlights, gateway.requests[-1].diversity) == (True, 0.25)


async def test_filters_within_filters_are_written_as_json(gateway: CannedGateway, sluice: Sluice) -> None:
    tree = '{"any": ["kind=class", {"all": ["year>=2020"]}]}'
    assert (await sluice("search", "why?", "--filter", "lang=en", "--filter-json", tree)).exit_code == calls.DONE
    first, second = gateway.requests[-1].filter.must
    assert first.field == "lang"
    assert [part.field for part in second.filter.should] == ["kind", ""]
    assert second.filter.should[1].filter.must[0].integer_range.gte == 2020
    wrong = await sluice("search", "why?", "--filter-json", "{")
    assert (wrong.exit_code, "is no JSON" in wrong.stderr) == (calls.WRONG_COMMAND_LINE, True)


async def test_what_is_like_a_document_is_asked_for_by_its_id(gateway: CannedGateway, sluice: Sluice) -> None:
    gateway.documents["d0"] = documents_pb2.Document(id="d0", title="Title 0", text="text")
    result = await sluice("similar", "papers", "4983", "--query", "in mice", "--by-document", "--no-rerank")
    assert "1. Title 0" in result.stdout
    assert gateway.requests[-1] == search_pb2.SearchRequest(
        query="in mice",
        like_document_id="4983",
        collection="papers",
        limit=10,
        group_by_document=True,
        features=features_pb2.Features(rerank=False),
    )


async def test_a_vector_is_read_from_a_file(gateway: CannedGateway, sluice: Sluice, tmp_path: Path) -> None:
    raw = struct.pack("<3f", 1.0, 0.5, -2.0)
    (tmp_path / "raw").write_bytes(raw)
    (tmp_path / "written.json").write_text("[1, 0.5, -2]")
    for name in ("raw", "written.json"):
        result = await sluice("search", "--vector", str(tmp_path / name), "--vector-model", "mini")
        assert result.exit_code == calls.DONE
        assert gateway.requests[-1].vector == search_pb2.QueryVector(values=raw, model="mini")
    assert gateway.requests[-1].query == ""


async def test_a_vector_that_cannot_be_read_is_a_wrong_command_line(sluice: Sluice, tmp_path: Path) -> None:
    (tmp_path / "wrong.json").write_text('["a"]')
    for said in (
        ["--vector", str(tmp_path / "wrong.json"), "--vector-model", "mini"],
        ["--vector", str(tmp_path / "wrong.json")],
        ["--vector", str(tmp_path / "absent"), "--vector-model", "mini"],
        [],
    ):
        assert (await sluice("search", *said)).exit_code == calls.WRONG_COMMAND_LINE


async def test_values_are_counted_in_a_table_and_as_json(gateway: CannedGateway, sluice: Sluice) -> None:
    said = ["facets", "papers", "kind", "year", "--filter", "lang=en", "--limit", "5"]
    shown = (await sluice(*said)).stdout
    assert re.search(r"\[b\]class\[/b\] +3 +0.2%", shown)
    assert re.search(r"true +1 +0.1%", shown)
    assert "1,200 passages in papers (documents@1)" in shown
    request = gateway.requests[-1]
    assert (request.collection, list(request.fields), request.limit) == ("papers", ["kind", "year"], 5)
    assert request.filter.must[0].field == "lang"
    counts = json.loads((await sluice(*said, "--json")).stdout)
    assert counts["fields"][1] == {
        "field": "year",
        "type": "keyword",
        "values": [
            {"value": "[b]class[/b]", "passage_count": 3},
            {"value": 7, "passage_count": 2},
            {"value": True, "passage_count": 1},
        ],
    }


# Comparing


async def test_a_comparison_is_shown_side_by_side_and_as_json(gateway: CannedGateway, sluice: Sluice) -> None:
    gateway.documents |= {name: documents_pb2.Document(id=name, title=f"Title {name}") for name in ("d0", "d1", "d2")}
    said = "compare why? --rerank --limit 3 --collection c --feature rerank-v1 --persistence 0.5"
    result = await sluice(*said.split())
    assert result.exit_code == calls.DONE
    assert gateway.requests[-1] == search_pb2.CompareSearchRequest(
        search=search_pb2.SearchRequest(query="why?", limit=3, collection="c"),
        enhanced=features_pb2.Features(rerank=True),
        feature="rerank-v1",
        persistence=0.5,
    )
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "1 Title d0 Title d2 ▲2 from 3" in lines
    assert "3 Title d2" in lines
    assert "all 40.0 140.0 +0.100 s" in lines
    assert "50% · rank-biased overlap: 0.375" in result.stdout
    found = json.loads((await sluice("compare", "why?", "--json")).stdout)
    assert (found["overlap"], found["enhanced_duration"], len(found["standard"]["results"])) == (0.5, 0.14, 3)
    assert found["standard"]["arms"] == [
        {"feature": "rerank-v1", "arm": "standard", "ramp_id": "", "reason": "no_user"}
    ]


async def test_a_comparison_without_results_says_so(sluice: Sluice) -> None:
    assert "Neither answer has a result." in (await sluice("compare", "why?")).stdout


# Trouble


@pytest.mark.parametrize(
    ("failure", "message", "remedy"),
    [
        (
            errors.InvalidArgument("limit", "must be between 1 and 100, not 0"),
            "limit: must be",
            "correct the named field",
        ),
        (errors.NotFound("there is no collection 'c'"), "no collection 'c'", "--collection"),
        (errors.Unavailable("Qdrant is down"), "Qdrant is down [UNAVAILABLE]", "sluice doctor"),
        (errors.ResourceExhausted("busy", retry_after=100.5), "busy", "try again in 101 s"),
        (errors.Internal("our fault"), "our fault", "log has it under request"),
    ],
)
async def test_an_error_is_one_line_and_a_remedy(
    gateway: CannedGateway, sluice: Sluice, failure: errors.SluiceError, message: str, remedy: str
) -> None:
    gateway.failures.append(failure)
    result = await sluice("search", "why?")
    assert (result.exit_code, result.stdout) == (calls.NOT_DONE, "")
    first, second = result.stderr.splitlines()
    assert first.startswith("error: ")
    assert message in first
    assert second.startswith("remedy: ")
    assert remedy in second


@pytest.mark.parametrize("command", [["search", "why?"], ["config"], ["delete", "d0"]])
async def test_without_a_gateway_every_command_says_how_to_get_one(command: list[str]) -> None:
    result = await asyncio.to_thread(CliRunner().invoke, app, ["--gateway", "127.0.0.1:1", *command])
    assert result.exit_code == calls.NOT_DONE
    assert "127.0.0.1:1 cannot be reached" in result.stderr
    assert "make up" in result.stderr


async def test_a_fault_of_our_own_is_no_traceback(sluice: Sluice, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr("sluice_cli.search.answer.answer_view", broken)
    result = await sluice("search", "why?")
    assert result.exit_code == calls.NOT_DONE
    assert "a fault of sluice itself: KeyError: 'oops'" in result.stderr
    assert "Traceback" not in result.stderr


async def test_a_wrong_condition_is_a_wrong_command_line(gateway: CannedGateway, sluice: Sluice) -> None:
    assert (await sluice("search", "why?", "--filter", "kind")).exit_code == calls.WRONG_COMMAND_LINE
    assert not gateway.requests


# Indexing


async def test_good_records_are_stored_and_bad_ones_written_down(
    gateway: CannedGateway, sluice: Sluice, corpus: Path, states: Path
) -> None:
    gateway.refused_ids = {"d3"}
    result = await sluice("index", str(corpus), "--collection", "c", "--batch-size", "2")
    assert result.exit_code == calls.NEEDS_A_LOOK
    assert "4 documents stored in documents@1 by all-MiniLM-L6-v2" in result.stdout
    assert gateway.documents.keys() == {"d0", "d1", "d2", "d4"}
    (rejects,) = _files(states)
    assert "4 records rejected" in result.stderr
    assert str(rejects) in result.stderr.replace("\n", "")
    assert _files(corpus.parent, "corpus*") == [corpus]
    reasons = {reject["line"]: reject for reject in map(json.loads, rejects.read_text().splitlines())}
    assert reasons[6] == {"line": 6, "id": "", "reason": "is not JSON: Expecting value: line 1 column 1 (char 0)"}
    assert reasons[7]["reason"] == "has neither title nor text"
    assert reasons[4] == {"line": 4, "id": "d3", "reason": "metadata.year: is of another type"}
    assert reasons[8]["reason"] == "metadata.a: is a dict; send str, int, float, bool or a list of str"


async def test_a_clean_run_leaves_no_rejects_not_even_old_ones(
    gateway: CannedGateway, sluice: Sluice, tmp_path: Path, states: Path
) -> None:
    (tmp_path / "corpus.jsonl").write_text("nonsense")
    assert (await sluice("index", str(tmp_path / "corpus.jsonl"))).exit_code == calls.NEEDS_A_LOOK
    assert len(_files(states)) == 1
    (tmp_path / "corpus.jsonl").write_text('{"id": "a", "text": "x"}')
    result = await sluice("index", str(tmp_path / "corpus.jsonl"), "--json")
    assert result.exit_code == calls.DONE
    assert not _files(states)
    told = json.loads(result.stdout)
    assert (told["stored"], told["rejected"], told["rejects_file"]) == (1, 0, None)


async def test_a_folder_is_stored_under_its_paths(gateway: CannedGateway, sluice: Sluice, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    (docs / "guide").mkdir(parents=True)
    (docs / "guide" / "rollback.md").write_text("# Rolling back\n")
    (docs / "picture.png").touch()
    result = await sluice("index", str(docs))
    assert result.exit_code == calls.DONE
    assert "1 files of other kinds passed over" in result.stdout
    assert gateway.documents["guide/rollback.md"].title == "Rolling back"


async def test_folders_with_files_of_one_name_go_into_one_collection_by_their_prefixes(
    gateway: CannedGateway, sluice: Sluice, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(f"# {name}\n")
        (tmp_path / name / "more.md").write_text("# more\n")
        assert (await sluice("index", str(tmp_path / name), "--prefix", f"{name}/")).exit_code == calls.DONE
    assert gateway.documents.keys() == {"first/README.md", "first/more.md", "second/README.md", "second/more.md"}


async def test_what_a_folder_has_no_more_is_pruned_and_only_that(
    gateway: CannedGateway, sluice: Sluice, tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("a.md", "b.md", "c.md"):
        (docs / name).write_text(f"# {name}\n")
    gateway.documents["other/x.md"] = documents_pb2.Document(id="other/x.md", text="x")
    await sluice("index", str(docs), "--prefix", "docs/")
    (docs / "b.md").unlink()
    (docs / "c.md").write_text("")  # there, though not to be stored
    result = await sluice("index", str(docs), "--prefix", "docs/", "--prune")
    assert "1 documents deleted" in result.stdout
    assert gateway.documents.keys() == {"other/x.md", "docs/a.md", "docs/c.md"}
    refused = await sluice("index", str(docs), "--prune")
    assert "3 documents of the collection are not in" in refused.stderr.replace("\n", " ")
    assert "other/x.md" in gateway.documents
    assert (await sluice("index", str(docs), "--prune", "--yes")).exit_code == calls.NEEDS_A_LOOK
    assert gateway.documents.keys() == {"a.md"}


async def test_documents_that_replace_others_are_counted(
    gateway: CannedGateway, sluice: Sluice, tmp_path: Path
) -> None:
    path = tmp_path / "dup.jsonl"
    path.write_text('{"id": "1", "text": "first"}\n{"id": 1, "text": "numeric"}\n{"_id": "1", "text": "third"}\n')
    result = await sluice("index", str(path))
    assert "2 of them replaced a document of the same id" in result.stdout
    assert json.loads((await sluice("index", str(path), "--json")).stdout)["replaced"] == 3


async def test_an_error_is_told_as_json_too_where_that_was_asked_for(
    gateway: CannedGateway, sluice: Sluice, tmp_path: Path
) -> None:
    gateway.failures.append(errors.FailedPrecondition("built by another model", reason="MODEL_MISMATCH"))
    result = await sluice("search", "why?", "--json")
    assert result.exit_code == calls.NOT_DONE
    told = json.loads(result.stdout)
    assert told["json_version"] == calls.JSON_VERSION
    assert (told["error"]["code"], told["error"]["reason"]) == ("FAILED_PRECONDITION", "MODEL_MISMATCH")
    assert "built by another model" in result.stderr
    missing = await sluice("index", str(tmp_path / "none.jsonl"), "--json")
    assert json.loads(missing.stdout)["error"]["exit_code"] == missing.exit_code == calls.NOT_DONE


async def test_only_a_folder_can_be_pruned(sluice: Sluice, corpus: Path) -> None:
    assert (await sluice("index", str(corpus), "--prune")).exit_code == calls.WRONG_COMMAND_LINE


async def test_a_type_can_be_said(gateway: CannedGateway, sluice: Sluice, tmp_path: Path) -> None:
    table = tmp_path / "shop.csv"
    table.write_text("id,text,price\na,x,3.10\nb,y,9\n")
    result = await sluice("index", str(table))
    assert "column 'price' is text, as '3.10' in line 2" in result.stderr.replace("\n", " ")
    assert gateway.documents["a"].metadata["price"].string_value == "3.10"
    await sluice("index", str(table), "--type", "price=float")
    assert gateway.documents["a"].metadata["price"].float_value == 3.1
    wrong = await sluice("index", str(table), "--type", "price=money")
    assert wrong.exit_code == calls.WRONG_COMMAND_LINE


async def test_nothing_lies_next_to_the_data_where_nothing_was_stored(
    gateway: CannedGateway, sluice: Sluice, corpus: Path, states: Path
) -> None:
    gateway.failures.extend([None, errors.FailedPrecondition("built by another model")])
    result = await sluice("index", str(corpus))
    assert result.exit_code == calls.NOT_DONE
    assert "stopped with 0 documents stored; the same command again begins anew" in result.stderr
    assert _files(corpus.parent, "corpus*") == [corpus]
    assert not _files(states, "*.checkpoint.json")


async def test_the_source_is_never_its_own_rejects_file(gateway: CannedGateway, sluice: Sluice, corpus: Path) -> None:
    refused = await sluice("index", str(corpus), "--rejects", str(corpus))
    assert refused.exit_code == calls.WRONG_COMMAND_LINE
    await sluice("index", str(corpus))
    assert len(gateway.documents) == 5


async def test_a_storing_that_stops_says_how_far_it_came(gateway: CannedGateway, sluice: Sluice, corpus: Path) -> None:
    # How things are, the first batch, the second batch.
    gateway.failures.extend([None, None, errors.FailedPrecondition("built by another model")])
    result = await sluice("index", str(corpus), "--batch-size", "3", "--concurrency", "1")
    assert result.exit_code == calls.NOT_DONE
    assert "stopped with 3 documents stored" in result.stderr
    assert "2 documents, 'd3' to 'd4', could not be stored: built by another model" in result.stderr


async def test_a_run_that_stopped_is_taken_up_where_it_was(
    gateway: CannedGateway, sluice: Sluice, tmp_path: Path, states: Path
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    lines = [json.dumps({"id": f"d{number}", "text": "text"}) for number in range(6)]
    corpus.write_text("\n".join(["nonsense", *lines, "more nonsense"]))
    gateway.refused_ids = {"d1"}
    # How things are, two batches without d1, and then no more.
    gateway.failures.extend([None, None, None, errors.FailedPrecondition("built by another model")])
    once = ("index", str(corpus), "--batch-size", "2", "--concurrency", "1", "--json")
    stopped = await sluice(*once)
    assert stopped.exit_code == calls.NOT_DONE
    assert "goes on from there" in stopped.stderr.replace("\n", " ")
    stored = set(gateway.documents)
    assert 0 < len(stored) < 5

    del gateway.requests[:]
    resumed = await sluice(*once)
    assert resumed.exit_code == calls.NEEDS_A_LOOK
    assert "going on at" in resumed.stderr
    told = json.loads(resumed.stdout)
    assert (told["stored"], told["rejected"], told["stored_before"]) == (5, 3, len(stored))
    sent = [
        document.id
        for request in gateway.requests
        if "Index" in type(request).__name__
        for document in request.documents
    ]
    assert sent == [f"d{number}" for number in range(6) if f"d{number}" not in stored | gateway.refused_ids]
    (rejects,) = _files(states)  # and no checkpoint any more
    assert sorted(json.loads(line)["line"] for line in rejects.read_text().splitlines()) == [1, 3, 8]


async def _stop(gateway: CannedGateway, sluice: Sluice, corpus: Path, *options: str) -> None:
    gateway.failures.extend([None, None, errors.FailedPrecondition("built by another model")])
    stopped = await sluice("index", str(corpus), "--batch-size", "2", "--concurrency", "1", *options)
    assert stopped.exit_code == calls.NOT_DONE


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda gateway, corpus, _: corpus.write_text(corpus.read_text() + "\n"), "the source has changed"),
        (
            lambda gateway, corpus, _: gateway.config.collection.create_time.FromSeconds(1),
            "the collection is another one",
        ),
        (
            lambda gateway, corpus, states: next(states.glob("*.checkpoint.json")).write_text(
                '{"sluice_checkpoint": 1, "run'
            ),
            "is damaged",
        ),
    ],
    ids=["source", "collection", "checkpoint"],
)
async def test_a_run_is_not_taken_up_where_something_has_changed_since(
    gateway: CannedGateway, sluice: Sluice, corpus: Path, states: Path, change: Any, why: str
) -> None:
    await _stop(gateway, sluice, corpus)
    change(gateway, corpus, states)
    again = await sluice("index", str(corpus), "--json")
    assert why in again.stderr
    assert "starting from the beginning" in again.stderr.replace("\n", " ")
    assert json.loads(again.stdout)["stored_before"] == 0
    assert len(gateway.documents) == 5


async def test_a_foreign_checkpoint_is_left_alone(
    gateway: CannedGateway, sluice: Sluice, corpus: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "notes.json"
    foreign.write_text("{}")
    refused = await sluice("index", str(corpus), "--checkpoint", str(foreign))
    assert refused.exit_code == calls.NOT_DONE
    assert "is no checkpoint of sluice" in refused.stderr
    assert (foreign.read_text(), gateway.documents) == ("{}", {})


async def test_a_checkpoint_that_cannot_be_written_is_told_before_anything_is_stored(
    gateway: CannedGateway, sluice: Sluice, corpus: Path
) -> None:
    refused = await sluice("index", str(corpus), "--checkpoint", "/dev/full/checkpoint.json")
    assert refused.exit_code == calls.NOT_DONE
    assert "cannot be" in refused.stderr
    assert "--checkpoint" in refused.stderr
    assert not gateway.documents


async def test_without_knowing_the_collection_nothing_is_taken_up(
    gateway: CannedGateway, sluice: Sluice, corpus: Path
) -> None:
    await _stop(gateway, sluice, corpus)
    gateway.config.stages[2].serving = False
    refused = await sluice("index", str(corpus))
    assert refused.exit_code == calls.NOT_DONE
    assert "the retriever does not serve" in refused.stderr


async def test_long_documents_are_cut_unless_they_are_to_stay_whole(
    gateway: CannedGateway, sluice: Sluice, corpus: Path
) -> None:
    for options in ([], ["--chunk-tokens", "64", "--overlap-tokens", "0"], ["--whole"]):
        assert (await sluice("index", str(corpus), *options)).exit_code == calls.NEEDS_A_LOOK
    sent = [request for request in gateway.requests if isinstance(request, documents_pb2.IndexDocumentsRequest)]
    assert [request.chunking if request.HasField("chunking") else None for request in sent] == [
        documents_pb2.Chunking(),
        documents_pb2.Chunking(chunk_tokens=64, overlap_tokens=0),
        None,
    ]


async def test_whole_documents_have_no_chunks_to_speak_of(sluice: Sluice, corpus: Path) -> None:
    refused = await sluice("index", str(corpus), "--whole", "--chunk-tokens", "64")
    assert refused.exit_code == calls.WRONG_COMMAND_LINE
    assert "--whole" in refused.stderr


async def test_a_full_disk_of_the_index_is_told_with_how_to_go_on(
    gateway: CannedGateway, sluice: Sluice, corpus: Path
) -> None:
    gateway.failures.extend([None, errors.ResourceExhausted("Qdrant's storage is full", reason="STORAGE_FULL")])
    stopped = await sluice("index", str(corpus))
    assert stopped.exit_code == calls.NOT_DONE
    assert "Qdrant's storage is full" in stopped.stderr
    assert "remedy: free some space" in stopped.stderr
    assert "same command again" in stopped.stderr.replace("\n", " ")


# A shell that runs the tests in the background has them ignore interrupts, and whatever they start.
HEEDING_INTERRUPTS = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("sluice_cli.main", run_name="__main__", alter_sys=True)
"""


async def _sluice_process(gateway: CannedGateway, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HEEDING_INTERRUPTS, "--gateway", gateway.address, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_standard_input_is_a_source(gateway: CannedGateway, tmp_path: Path) -> None:
    process = await _sluice_process(gateway, "index", "-", "--rejects", str(tmp_path / "rejects.jsonl"))
    stdout, _ = await process.communicate(b'{"id": "a", "text": "x"}\n{"id": "b", "text": "y"}\n')
    assert process.returncode == calls.DONE
    assert stdout.startswith(b"2 documents stored")
    assert gateway.documents.keys() == {"a", "b"}


async def test_an_interrupt_ends_a_storing_that_waits_for_its_source(gateway: CannedGateway, tmp_path: Path) -> None:
    rejects = str(tmp_path / "rejects.jsonl")
    process = await _sluice_process(gateway, "index", "-", "--batch-size", "1", "--rejects", rejects)
    assert process.stdin is not None
    process.stdin.writelines(b'{"id": "d%d", "text": "x"}\n' % number for number in range(READ_AHEAD))
    while "d0" not in gateway.documents:  # it stores, and waits for more
        await asyncio.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    told = await asyncio.wait_for(process.stderr.read(), 20)
    assert await process.wait() == calls.INTERRUPTED
    assert re.search(rb"stopped with \d+ documents stored", told)
    assert b"Traceback" not in told


# Load


async def test_a_load_test_asks_as_users_do_and_counts_by_arm(
    gateway: CannedGateway, sluice: Sluice, tmp_path: Path
) -> None:
    gateway.documents["d0"] = documents_pb2.Document(id="d0", title="Title 0", text="text")
    gateway.failures.extend([errors.Internal("broken"), None])
    plot = tmp_path / "load.png"
    said = "loadtest --requests 200 --concurrency 20 --users 50 --max-error-rate 2% --max-p95-ms 60000 --rerank"
    result = await sluice(*said.split(), "--plot", str(plot), "--json")
    assert result.exit_code == calls.DONE, result.stderr
    found = json.loads(result.stdout[: result.stdout.rindex("}") + 1])
    assert found["total"]["requests"] == len(gateway.requests) == 200
    assert found["codes"] == {"OK": 199, "INTERNAL": 1}
    assert sum(side["requests"] for side in found["arms"]["rerank"].values()) == 199
    assert found["snapshots"] == {"7": 199}
    assert plot.read_bytes().startswith(b"\x89PNG")
    users = [request.user_id for request in gateway.requests]
    assert users.count("user-1") > 5 * users.count("user-40")
    assert all(request.features.rerank for request in gateway.requests)


async def test_a_load_test_that_passes_a_limit_ends_with_another_exit_code(
    gateway: CannedGateway, sluice: Sluice
) -> None:
    gateway.failures.extend([errors.Internal("broken")] * 3)
    said = "loadtest --requests 100 --concurrency 5 --max-error-rate 2%"
    result = await sluice(*said.split())
    assert result.exit_code == calls.NEEDS_A_LOOK
    assert "3.00 %" in result.stdout
    assert "FAILED error rate: 0.03, at most 0.02" in result.stdout
    assert "rerank: treatment" in result.stdout
    assert (await sluice("loadtest", "--max-error-rate", "2")).exit_code == calls.WRONG_COMMAND_LINE


async def test_a_load_test_ends_at_the_first_mistake_of_its_own(gateway: CannedGateway, sluice: Sluice) -> None:
    gateway.failures.append(errors.NotFound("there is no collection 'c'"))
    result = await sluice("loadtest", "--requests", "100", "--concurrency", "1")
    assert (result.exit_code, len(gateway.requests)) == (calls.NOT_DONE, 1)
    assert "no collection 'c'" in result.stderr


# The rest


async def test_documents_are_read_back_by_id(gateway: CannedGateway, sluice: Sluice) -> None:
    gateway.documents["d0"] = documents_pb2.Document(id="d0", title="Title 0", text="first\nsecond")
    gateway.documents["d0"].metadata["year"].integer_value = 2020
    gateway.chunked_ids = {"d0"}
    shown = await sluice("documents", "get", "d0", "--collection", "c")
    assert shown.exit_code == calls.DONE
    assert shown.stdout.splitlines() == ["d0  Title 0", "year=2020  1 chunks", "first", "second", ""]
    assert gateway.requests[-1].collection == "c"
    missing = await sluice("documents", "get", "d0", "gone", "--json")
    assert missing.exit_code == calls.NEEDS_A_LOOK
    assert "gone does not exist" in missing.stderr
    found = json.loads(missing.stdout)
    assert (found["documents"][0]["document"]["metadata"], found["missing_ids"]) == ({"year": 2020}, ["gone"])


async def test_documents_are_listed_as_far_as_is_wanted(gateway: CannedGateway, sluice: Sluice) -> None:
    gateway.documents |= {f"d{number}": documents_pb2.Document(id=f"d{number}", text="text") for number in range(45)}
    some = await sluice("documents", "list", "--limit", "3", "--filter", "year>=2020")
    assert [line for line in some.stdout.splitlines() if line.startswith("d")] == ["d0  ", "d1  ", "d2  "]
    assert "more than 3" in some.stderr
    assert gateway.requests[-1].filter.must[0].field == "year"
    found = json.loads((await sluice("documents", "list", "--limit", "0", "--json")).stdout)
    assert [stored["document"]["id"] for stored in found] == list(gateway.documents)


async def test_collections_are_listed_created_and_deleted(gateway: CannedGateway, sluice: Sluice) -> None:
    created = await sluice("collections", "create", "papers", "--model", "all-MiniLM-L6-v2")
    assert created.stdout == "papers is papers@1, empty, by all-MiniLM-L6-v2\n"
    listed = (await sluice("collections")).stdout
    for part in ("documents@1  live  7 passages", "papers@1  live  0 passages", "384 dimensions"):
        assert part in listed
    assert all(len(line) <= 80 for line in listed.splitlines())
    versions = json.loads((await sluice("collections", "--json")).stdout)
    assert [(version["version"], version["live"], version["model_served"]) for version in versions] == [
        ("documents@1", True, True),
        ("papers@1", True, True),
    ]
    deleted = await sluice("collections", "delete", "papers", "--yes")
    assert deleted.stdout == "papers is deleted: papers@1\n"
    assert [version.collection for version in gateway.versions] == ["documents"]


async def test_a_collection_is_not_deleted_without_its_name_or_a_yes(
    gateway: CannedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--gateway", gateway.address, "collections", "delete", "documents"]

    async def deleted(typed: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, app, command, input=typed)

    refused = await deleted("documents\n")
    assert refused.exit_code == calls.WRONG_COMMAND_LINE
    assert "--yes" in refused.stderr
    monkeypatch.setattr(calls, "has_terminal", lambda: True)
    other = await deleted("papers\n")
    assert other.exit_code == calls.WRONG_COMMAND_LINE
    assert "7 live passages" in other.stderr
    assert gateway.versions
    assert (await deleted("documents\n")).exit_code == calls.DONE
    assert not gateway.versions


async def test_an_unknown_collection_is_named_with_those_there_are(gateway: CannedGateway, sluice: Sluice) -> None:
    gateway.failures.append(errors.NotFound("there is no collection 'paper'; there are: documents, papers"))
    result = await sluice("search", "why?", "--collection", "paper")
    assert "there are: documents, papers" in result.stderr


async def test_deleting_tells_what_was_there(gateway: CannedGateway, sluice: Sluice) -> None:
    gateway.documents["d0"] = documents_pb2.Document(id="d0")
    assert (await sluice("delete", "d0", "d1", "d1")).stdout == "1 deleted, 1 did not exist\n"
    assert json.loads((await sluice("delete", "d0", "--json")).stdout) == {
        "asked": 1,
        "deleted": 0,
        "json_version": 1,
    }


async def test_the_configuration_is_shown_for_people_and_for_machines(gateway: CannedGateway, sluice: Sluice) -> None:
    shown = (await sluice("config")).stdout
    for part in ("release 0.1.0", "rerank", "all-MiniLM-L6-v2", "onnx fp32 on cpu", "documents@1", "year (integer)"):
        assert part in shown
    found = json.loads((await sluice("config", "--json")).stdout)
    assert found["collection"]["passage_count"] == 7
    assert found["stages"][3]["serving"] is False


async def test_the_doctor_checks_a_running_gateway(gateway: CannedGateway, sluice: Sluice) -> None:
    result = await sluice("doctor", "--json")
    checks = {check["subject"]: check for check in json.loads(result.stdout)}
    assert {subject: checks[subject]["status"] for subject in ("gateway", "embed", "collection", "question")} == {
        "gateway": "OK",
        "embed": "OK",
        "collection": "OK",
        "question": "OK",
    }
    assert (checks["rerank"]["status"], checks["wordnet"]["status"]) == ("WARN", "WARN")
    asked = gateway.requests[1].features
    assert (asked.rerank, asked.dense, asked.expansion) == (False, True, True)  # the reranker does not serve


async def test_the_doctor_works_when_nothing_runs() -> None:
    result = await asyncio.to_thread(CliRunner().invoke, app, ["--gateway", "127.0.0.1:1", "doctor", "--json"])
    checks = {check["subject"]: check for check in json.loads(result.stdout)}
    assert result.exit_code == calls.NEEDS_A_LOOK
    assert checks["gateway"]["status"] == "FAIL"
    assert "make up" in checks["gateway"]["remedy"]
    # The stages' own ways of finding things were asked, whatever they found.
    assert {"python", "memory", "disk", "embedding model", "rerank model", "wordnet"} <= checks.keys()
    assert "models" not in checks


@pytest.mark.parametrize(
    "command",
    [
        *("search", "answer", "compare", "index", "delete", "config", "doctor", "loadtest", "help"),
        *("reindex", "rollback", "verify", "collections", "collections create", "collections delete"),
        *("documents get", "documents list", "snapshot create", "snapshot list", "snapshot restore", "snapshot prune"),
        *("enrich", "feedback", "feedback export", "experiment", "experiment create", "experiment start"),
        *("experiment stop", "experiment attach", "experiment list", "experiment template", "experiment check"),
        *("experiment status", "experiment report", "experiment plan"),
    ],
)
def test_the_help_of_every_command_has_examples(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "-h"])
    assert result.exit_code == 0
    assert f"  sluice {command}" in result.stdout
    assert CliRunner().invoke(app, ["help", *command.split()]).stdout == result.stdout


def test_every_flag_is_an_option_with_the_bounds_of_the_proto() -> None:
    for command in ("search", "answer", "compare", "rollout create"):
        shown = "".join(CliRunner().invoke(app, [*command.split(), "-h"]).stdout.split())
        for flag in FLAGS.values():
            assert f"--{flag.name.replace('_', '-')}" in shown
            assert flag.help.replace(" ", "") in shown
            assert flag.kind is not int or f"[{flag.least}<=x<={flag.most}]" in shown
    refused = CliRunner().invoke(app, ["search", "why?", "--rerank-candidate-count", "1001"])
    assert refused.exit_code == calls.WRONG_COMMAND_LINE


def test_the_list_of_commands_has_the_first_line_of_each_help() -> None:
    listed = "".join(CliRunner().invoke(app, ["-h"]).stdout.split())
    for command in ROOMS:
        first = CliRunner().invoke(app, [command, "-h"]).stdout.split("\n\n")[1]
        assert "".join(f"{command} {first}".split()) in listed


@pytest.mark.parametrize(
    ("typed", "place", "completed"),
    [
        ("sluice sea", 1, "search"),
        ("sluice rollout ki", 2, "kill"),
        ("sluice search q --rerank-c", 3, "--rerank-candidate-count"),
        ("sluice search q --expansion-strategy m", 4, "multi_query"),
    ],
)
def test_a_shell_completes_commands_flags_and_choices(typed: str, place: int, completed: str) -> None:
    environment = {"_SLUICE_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(place)}
    assert CliRunner().invoke(app, [], prog_name="sluice", env=environment).stdout.split() == [completed]


def test_help_for_an_unknown_command_says_so() -> None:
    result = CliRunner().invoke(app, ["help", "rollout", "nonsense"])
    assert result.exit_code == calls.WRONG_COMMAND_LINE
    assert "no command 'nonsense'" in result.stderr


async def test_help_imports_nothing_heavy() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "importtime", "-m", "sluice_cli.main", "--help"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, imports = await process.communicate()
    imported = {line.rpartition("|")[2].strip() for line in imports.decode().splitlines()}
    assert "typer" in imported
    assert not imported & {"grpc", "rich", "sluice_client", "google.protobuf", "asyncio"}
