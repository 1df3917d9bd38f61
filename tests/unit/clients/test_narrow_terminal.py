"""Views in 80 columns: nothing is folded that belongs on one line."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import timedelta

from rich.console import Console, RenderableType

from sluice.type.v1 import collection_pb2
from sluice_cli.collections.versions import versions_view
from sluice_cli.rollout import views
from sluice_cli.search.compare import comparison_view
from sluice_client import (
    Answer,
    Arm,
    BadEventCount,
    CollectionVersion,
    Comparison,
    FeatureState,
    FeatureStatus,
    Guardrail,
    GuardrailEvidence,
    LimitEvidence,
    ListedVersion,
    Outcome,
    Passage,
    Result,
    Scores,
    Stage,
    StageReport,
    features,
)
from tests.unit.clients.rollout_examples import rolled_back, totals


def lines_of(view: RenderableType) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=80, highlight=False).print(view)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def status(requests: int) -> FeatureStatus:
    feature = replace(rolled_back().feature, state=FeatureState.RAMPING, treatment_ppm=500_000, reason="week 2")
    arms = [totals(arm, requests, requests // 50, 1.4) for arm in (Arm.TREATMENT, Arm.CONTROL)]
    exposed = [*arms[0].bad_events, BadEventCount(Guardrail.EXPOSURE, requests // 4)]
    return FeatureStatus(
        feature,
        guardrails=[
            GuardrailEvidence(Guardrail.ERRORS, 31_000, 16_000, 12.25, 4.38, -12.4, 4.38),
            GuardrailEvidence(Guardrail.EXPOSURE, 120_000, 0, 0.1, 4.38, 3.9, 4.38),
        ],
        arms=[replace(arms[0], bad_events=exposed, shadow_overlap=0.71), arms[1]],
        limits=[LimitEvidence("without the feature", 0.05, 120_000, 12.5, 4.38)],
    )


def test_a_rollouts_status_has_each_arm_and_each_guardrail_on_one_line() -> None:
    shown = lines_of(views.status_view(status(1_000_000)))
    header = next(line for line in shown if line.startswith("arm"))
    assert "not run" in header
    (treatment,) = [line for line in shown if line.startswith("treatment")]
    assert treatment.split()[1:] == [
        *("1,000,000", "333,333", "2.00", "%", "0.20", "%", "25.00", "%"),
        *("1,400", "ms", "2,940", "ms", "3,990", "ms"),
    ]
    assert "quality: treatment 0.710, control 0.660; overlap of pairs: 0.71" in shown
    assert "errors                  31,000  16,000 ██████████ 12.2/4.4 ░░░░░░░░░░ -12.4/4.4" in shown
    assert any(line.startswith("exposure") and line.endswith("████████░░ 3.9/4.4") for line in shown)
    assert any(line.startswith("limit: ") and line.endswith("at most 5.00 %") for line in shown)


def test_where_no_answer_was_judged_a_status_does_not_speak_of_quality() -> None:
    arms = [replace(arm, quality_score=None, shadow_overlap=None) for arm in status(600).arms]
    shown = "\n".join(lines_of(views.status_view(replace(status(600), arms=arms))))
    assert "quality" not in shown
    assert "overlap" not in shown


def test_a_list_of_versions_has_two_lines_a_version() -> None:
    version = collection_pb2.CollectionVersion(
        collection="documentation-of-the-product",
        version="documentation-of-the-product-v12",
        live=True,
        passage_count=12_345_678,
        model={"name": "sentence-transformers/all-MiniLM-L6-v2", "dimension": 384, "precision": "int8"},
        lexical_settings="words-2 english, k1 1.2, b 0.75",
    )
    shown = lines_of(versions_view([ListedVersion(CollectionVersion.from_proto(version), model_served=True)]))
    assert shown[0] == "documentation-of-the-product"
    assert "documentation-of-the-product-v12  live  12,345,678 passages" in shown[1]
    assert "sentence-transformers/all-MiniLM-L6-v2, 384 dimensions, int8" in shown[2]


def test_a_comparison_keeps_ranks_changes_and_times_whole() -> None:
    titles = ["argparse: a parser for options, arguments and subcommands of the command line", "getopt"]
    results = [
        Result(Passage(f"d{rank}", f"d{rank}", title, "text", {}), 0.5, rank, Scores(0.5, rank, None))
        for rank, title in enumerate(titles, start=1)
    ]
    stages = [
        StageReport(Stage.RETRIEVE, Outcome.RAN, "", "", timedelta(milliseconds=1234.5), "", 100),
        StageReport(Stage.RERANK, Outcome.FAILED, "BREAKER_OPEN", "the reranker is left alone", timedelta(0), "", 0),
    ]
    answer = Answer(results, stages, "", features(dense=True), "c", "c-v1", "r")
    turned = [replace(results[1], rank=1), replace(results[0], rank=2)]
    compared = Comparison(
        answer, replace(answer, results=turned), timedelta(seconds=1), timedelta(seconds=2), 10, 1.0, 0.9, 0.9
    )
    shown = lines_of(comparison_view(compared))
    assert any(line.endswith("▲1 from 2") for line in shown)
    assert any("1234.5" in line for line in shown)
    together = " ".join(" ".join(shown).split())
    assert "BREAKER_OPEN" in together
    assert all(len(line) <= 80 for line in shown)
