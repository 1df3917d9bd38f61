"""The parts of `bench.rerank` that need no server."""

import json
import math
import random

import pytest

from bench.rerank import results
from bench.rerank.methods import EVERYTHING, HYBRID, METHODS
from bench.rerank.results import cost, quality_rows, row, store, store_costs, time_rows
from bench.rerank.timing import Times
from bench.rerank.tune import Candidates, fit
from bench.speed.results import load
from services.gateway.settings import GatewaySettings
from sluice_client.flags import flag_values

LATE_WEIGHT = GatewaySettings.model_fields["late_weight"].default
LATE = METHODS["late@50"]
KEYS = {"method", "candidates", "collection", "ndcg10", "added_p50_ms", "added_p99_ms", "search_p99_ms"}


def test_every_method_says_how_it_reranks_and_how_many():
    for method in METHODS.values():
        flags = flag_values(method.config.features)
        assert flags["rerank"] == (method is not HYBRID)
        assert flags.get("rerank_method") == (None if method is HYBRID else method.name)
        assert flags.get("rerank_candidate_count", 0) == method.candidates


def test_everything_leaves_the_way_to_rerank_to_the_gateway():
    flags = flag_values(EVERYTHING.config.features)
    assert flags["expansion"]
    assert flags["rerank"]
    assert "rerank_method" not in flags


def test_a_row_has_every_key_whatever_was_measured():
    assert row("late", 50, "c").keys() == KEYS
    (timed,) = time_rows("c", {LATE: Times([30.0, 40.0], [20.0, 30.0])}, "a processor")
    assert timed.keys() >= KEYS
    assert timed["added_p50_ms"] == 25.0
    assert timed["ndcg10"] is None


def test_quality_is_compared_with_hybrid_on_the_same_questions():
    qrels = {"q": {"a": 1}, "r": {"b": 1}}
    runs = {HYBRID: {"q": ["x", "a"], "r": ["b"]}, LATE: {"q": ["a", "x"], "r": ["b"]}}
    hybrid, late = quality_rows("c", qrels, runs)
    assert (hybrid["method"], hybrid["candidates"], late["method"], late["candidates"]) == ("hybrid", 0, "late", 50)
    assert late["ndcg10"] == 1.0
    assert late["vs_hybrid"][0] == pytest.approx(1.0 - hybrid["ndcg10"], abs=1e-4)
    assert "vs_hybrid" not in hybrid


def test_times_and_quality_of_different_runs_meet_in_one_row(tmp_path):
    file = tmp_path / "rerank.json"
    store([row("late", 50, "c", ndcg10=0.7)], file)
    store([row("late", 50, "c", added_p50_ms=20.0), row("late", 20, "c", added_p50_ms=15.0)], file)
    assert load(file) == json.loads(file.read_text())
    of_20, of_50 = load(file)
    assert (of_20["candidates"], of_20["ndcg10"]) == (20, None)
    assert (of_50["ndcg10"], of_50["added_p50_ms"]) == (0.7, 20.0)


@pytest.mark.parametrize(("value", "bound", "ok"), [(50, "<= 50", True), (51, "<= 50", False), (14, ">= 15", False)])
def test_a_cost_is_held_to_its_bound(value, bound, ok):
    assert cost("added p99", value, "ms", bound)["ok"] is ok


def test_a_cost_replaces_the_one_of_its_name(tmp_path):
    file = tmp_path / "costs.json"
    store_costs([cost("rate", 1.0, "searches/s"), cost("bytes", 2.0, "bytes")], file)
    store_costs([cost("rate", 3.0, "searches/s")], file)
    assert {each["name"]: each["value"] for each in load(file)} == {"rate": 3.0, "bytes": 2.0}


def test_tables_and_plot_show_rows_with_gaps(tmp_path):
    rows = [row("hybrid", 0, "c", ndcg10=0.6), row("late", 50, "c", ndcg10=0.7, added_p50_ms=20.0, added_p99_ms=30.0)]
    rows.append(row("flashrank", 20, "c", added_p50_ms=3000.0))
    assert results.table(rows).row_count == 3
    assert results.costs_table([cost("rate", 3.0, "searches/s"), cost("p99", 3.0, "ms", "<= 5")]).row_count == 2
    assert results.plot(rows, tmp_path / "rerank.png")
    assert (tmp_path / "rerank.svg").exists()


def test_the_fit_finds_the_logistic_function_that_made_the_answers():
    chance = random.Random(3)
    scores = [chance.uniform(0.7, 1.0) for _ in range(20_000)]
    relevant = [chance.random() < 1 / (1 + math.exp(-50 * (score - 0.88))) for score in scores]
    slope, middle = fit(scores, relevant)
    assert slope == pytest.approx(50, rel=0.05)
    assert middle == pytest.approx(0.88, abs=0.002)


def test_what_was_not_found_counts_against_a_ranking():
    found = Candidates(grades=[0, 1], first=[0.9, 0.8], late=[0.5, 0.9], logits=[1.0, 2.0], best={})
    assert found.ndcg(found.first) == pytest.approx(1 / math.log2(3))
    assert found.ndcg(found.late) == 1.0
    assert found._replace(best={"elsewhere": 1}).ndcg(found.late) == pytest.approx(1 / (1 + 1 / math.log2(3)))


def test_a_cascade_that_reads_nothing_is_late_interaction():
    found = Candidates([0, 1, 0], [0.9, 0.8, 0.1], [0.5, 0.9, 0.2], [3.0, 2.0, 1.0], {})
    assert found.by_cascade(0) == found.by_late(LATE_WEIGHT)
    assert found.by_cascade(2) != found.by_late(LATE_WEIGHT)
