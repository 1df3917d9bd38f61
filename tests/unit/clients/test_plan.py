"""`sluice plan` as it is typed."""

import json
from collections import Counter

import pytest
from typer.testing import CliRunner

from sluice_cli import calls
from sluice_cli.calibrate import pace, summed
from sluice_cli.main import app
from tests.unit.plan.samples import measurements


@pytest.fixture
def sluice(tmp_path):
    path = tmp_path / "measured.json"
    path.write_text(measurements().model_dump_json())

    def run(*arguments):
        return CliRunner().invoke(app, ["plan", "--measurements", str(path), *arguments])

    return run


def test_a_plan_names_replicas_targets_percentiles_and_the_cost_of_features(sluice):
    result = sluice(*["--qps", "200", "--p99-ms", "200", "--features", "rerank,expansion", "--json"])
    assert result.exit_code == calls.DONE, result.output
    told = json.loads(result.stdout)
    assert list(told["stages"]) == ["gateway", "expander", "embedder", "retriever", "reranker"]
    assert all(stage["replicas"] >= 1 for stage in told["stages"].values())
    assert all(stage["p50_ms"] <= stage["p99_ms"] for stage in told["stages"].values())
    assert told["holds"]
    assert told["p99_ms"] <= 200
    assert told["saturating"] in told["stages"]
    assert {cost["feature"] for cost in told["feature_costs"]} == {"rerank", "expansion"}
    assert told["measured"]["machine"] == "sample, 2 processors"


def test_without_features_there_is_no_reranker_to_pay(sluice):
    told = json.loads(sluice(*["--qps", "50", "--p99-ms", "200", "--features", "none", "--json"]).stdout)
    assert list(told["stages"]) == ["gateway", "embedder", "retriever"]
    assert told["feature_costs"] == []


def test_a_terminal_gets_a_table(sluice):
    result = sluice(*["--qps", "50", "--p99-ms", "200"])
    assert result.exit_code == calls.DONE
    for word in ("reranker", "p50 ms", "autoscaler", "gives way first", "What each feature costs", "cores in all"):
        assert word in result.stdout


def test_one_machine_is_predicted_and_the_exit_code_says_whether_it_holds(sluice):
    fine = sluice(*["--qps", "2", "--shared-cores", "2", "--p99-ms", "1000", "--json"])
    assert (fine.exit_code, json.loads(fine.stdout)["holds"]) == (calls.DONE, True)
    too_late = sluice(*["--qps", "2", "--shared-cores", "2", "--p99-ms", "50"])
    assert too_late.exit_code == calls.NEEDS_A_LOOK
    too_many = sluice(*["--qps", "500", "--shared-cores", "2", "--json"])
    assert too_many.exit_code == calls.NEEDS_A_LOOK
    assert json.loads(too_many.stdout)["p99_ms"] is None
    assert "the queues only grow" in too_many.stderr


def test_the_sample_that_comes_with_it_is_announced_as_anothers(tmp_path):
    result = CliRunner().invoke(app, ["plan", "--qps", "5", "--shared-cores", "2", "--json"])
    assert "measured on another machine" in result.stderr
    assert "sluice plan calibrate" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ("--p99-ms 150", calls.WRONG_COMMAND_LINE, "--qps 2000"),
        ("--qps 20", calls.WRONG_COMMAND_LINE, "--p99-ms 150"),
        ("--qps 20 --p99-ms 150 --features telepathy", calls.WRONG_COMMAND_LINE, "rerank"),
        ("--qps 20 --p99-ms 60", calls.NEEDS_A_LOOK, "--candidates"),
    ],
)
def test_what_cannot_be_planned_is_said_with_a_remedy(sluice, arguments, code, told):
    result = sluice(*arguments.split())
    assert result.exit_code == code
    assert told in result.stderr


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', "\udcff"])
def test_a_file_that_holds_no_measurements_is_named(tmp_path, content):
    path = tmp_path / "mine.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    result = CliRunner().invoke(app, ["plan", "--qps", "1", "--p99-ms", "9", "--measurements", str(path)])
    assert result.exit_code == calls.NOT_DONE
    assert "mine.json" in result.stderr
    assert "remedy: make it" in result.stderr


def test_a_target_that_cannot_be_held_names_stage_and_reason(sluice):
    result = sluice(*["--qps", "2000", "--p99-ms", "60", "--json"])
    assert result.exit_code == calls.NEEDS_A_LOOK
    told = json.loads(result.stdout)
    assert told["holds"] is False
    assert told["stage"] == "reranker"
    assert "a search that meets no other takes" in told["reason"]
    assert "cannot be held" in result.stderr


def test_a_long_simulation_is_announced_where_there_is_no_terminal(sluice, monkeypatch):
    monkeypatch.setattr("sluice_cli.plan.SILENT_SECONDS", 0.0)
    assert "Simulating searches" in sluice(*["--qps", "200", "--p99-ms", "200"]).stderr


def test_counters_are_summed_over_their_labels():
    scrape = '# TYPE a counter\na_total{lane="x"} 2\na_total{lane="y"} 3\n# TYPE b gauge\nb 7\n'
    assert summed(scrape, "a_total") == 5
    assert summed(scrape, "c_total") == 0


def test_a_pass_and_a_token_are_told_apart_and_neither_takes_less_than_nothing():
    def counted(passes, tokens, seconds):
        return Counter(passes=passes, tokens=tokens, held=seconds, cpu=2 * seconds), 1

    pass_ms, token_ms, cores = pace([counted(1, 10, 0.008), counted(1, 40, 0.023), counted(2, 90, 0.051)])
    assert (pass_ms, token_ms, cores) == pytest.approx((3.0, 0.5, 2.0))
    assert min(pace([counted(1, 10, 0.002), counted(1, 40, 0.017), counted(2, 90, 0.039)])) == 0.0
