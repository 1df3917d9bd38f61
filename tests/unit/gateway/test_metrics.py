"""Counts of searches."""

from __future__ import annotations

import asyncio
import math
import time

import pytest
from prometheus_client import CollectorRegistry

from services.chassis.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from services.experiment.flags import FLAGS
from services.gateway.metrics import GatewayMetrics, ObservedAnswer, ObservedSearch
from services.gateway.search.flags import Features
from services.gateway.search.stages import Answer, Outcome, Result, Stage, StageReport
from sluice.type.v1 import passage_pb2, relation_pb2
from tests.unit.gateway.samples import COURSE

FEATURES = Features(expansion=True, rerank=True, multi_hop=True)
LABELS = {
    flag.name: "on" if flag.kind is bool else str(FEATURES.values[flag.name])
    for flag in FLAGS.values()
    if flag.metric_label
}
RAN = [StageReport(stage, Outcome.RAN) for stage in Stage]


class Counted:
    """Metrics with a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = GatewayMetrics(self.registry)

    def search(self, deadline: float = math.inf) -> ObservedSearch:
        return ObservedSearch(self.metrics, FEATURES, deadline)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def outcomes(self) -> dict[str, float]:
        """Outcomes of the searches with the labels of these features, without those that never came."""
        [searches] = [metric for metric in self.registry.collect() if metric.name == "sluice_searches"]
        assert all(sample.labels.items() >= LABELS.items() for sample in searches.samples if sample.value)
        return {sample.labels["outcome"]: sample.value for sample in searches.samples if sample.value}


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.mark.parametrize(
    ("changed", "outcome"),
    [
        (StageReport(Stage.RERANK, Outcome.RAN), "full"),
        (StageReport(Stage.RERANK, Outcome.SKIPPED, "FEATURE_OFF"), "full"),
        (StageReport(Stage.RERANK, Outcome.SKIPPED, "NO_CANDIDATES"), "full"),
        (StageReport(Stage.RERANK, Outcome.SKIPPED, "NO_TIME"), "degraded"),
        (StageReport(Stage.RERANK, Outcome.DEGRADED, "FEWER_CANDIDATES"), "degraded"),
        (StageReport(Stage.RERANK, Outcome.FAILED, "DEPENDENCY_DOWN"), "degraded"),
    ],
)
def test_an_answer_that_lacks_something_is_degraded(counted: Counted, changed: StageReport, outcome: str) -> None:
    with counted.search() as observed:
        observed.answered(Answer([], [*RAN[:3], changed], COURSE, None))
    assert counted.outcomes() == {outcome: 1}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ResourceExhausted("full"), "refused"),
        (DeadlineExceeded("late"), "late"),
        (asyncio.CancelledError(), "cancelled"),
        (InvalidArgument("filter", "is wrong"), "invalid"),
        (NotFound("no such collection"), "invalid"),
        (Unavailable("down"), "failed"),
        (FailedPrecondition("another model", reason="MODEL_MISMATCH"), "failed"),
        (RuntimeError("a bug"), "failed"),
    ],
)
def test_a_search_that_fails_is_counted_with_its_time(counted: Counted, error: BaseException, outcome: str) -> None:
    with pytest.raises(type(error)), counted.search():
        raise error
    assert counted.outcomes() == {outcome: 1}
    assert counted.value("sluice_search_latency_seconds_count", **LABELS) == 1


def test_a_call_that_the_server_cancels_at_its_deadline_is_late(counted: Counted) -> None:
    with pytest.raises(asyncio.CancelledError), counted.search(deadline=time.monotonic()):
        raise asyncio.CancelledError
    assert counted.outcomes() == {"late": 1}


def test_a_failed_expansion_leaves_one_variant(counted: Counted) -> None:
    observe = counted.metrics.observe_stages
    observe(FEATURES, [StageReport(Stage.EXPAND, Outcome.FAILED, "DEPENDENCY_DOWN")])
    observe(FEATURES, [StageReport(Stage.EXPAND, Outcome.RAN, item_count=5)])
    observe(Features(), [StageReport(Stage.EXPAND, Outcome.SKIPPED, "FEATURE_OFF")])
    observe(FEATURES, [StageReport(Stage.EXPAND, Outcome.SKIPPED, "NOT_REACHED")])
    assert counted.value("sluice_search_variants_count") == 2
    assert counted.value("sluice_search_variants_sum") == 6


def test_signs_of_bad_quality_have_series_of_their_own(counted: Counted) -> None:
    counted.metrics.observe_stages(
        FEATURES,
        [
            StageReport(Stage.EMBED, Outcome.FAILED, "MODEL_MISMATCH"),
            StageReport(Stage.RERANK, Outcome.SKIPPED, "NO_CANDIDATES"),
        ],
    )
    assert counted.value("sluice_rerank_without_candidates_total") == 1
    assert counted.value("sluice_model_mismatches_total") == 1


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [("", "full"), ("FEATURE_OFF", "full"), ("LLM_TOO_SLOW", "degraded"), ("NO_PASSAGES", "full")],
)
def test_an_answer_in_words_is_counted_by_method_with_its_times(counted: Counted, reason: str, outcome: str) -> None:
    report = StageReport(Stage.REASON, Outcome.DEGRADED if reason else Outcome.RAN, reason)
    with ObservedAnswer(counted.metrics, math.inf) as observed:
        observed.answered("extractive", [*RAN[:3], report], {"retrieval": 0.25, "generation": 1.0, "total": 1.25})
    assert counted.value("sluice_answers_total", method="extractive", outcome=outcome) == 1
    assert counted.value("sluice_answer_latency_seconds_sum", part="total") == 1.25


@pytest.mark.parametrize(
    ("error", "deadline", "outcome"),
    [
        (Unavailable("down"), math.inf, "failed"),
        (GeneratorExit(), math.inf, "cancelled"),
        (GeneratorExit(), 0.0, "late"),
    ],
)
def test_an_answer_that_is_not_made_is_counted_too(
    counted: Counted, error: BaseException, deadline: float, outcome: str
) -> None:
    with pytest.raises(type(error)), ObservedAnswer(counted.metrics, deadline):
        raise error
    assert counted.value("sluice_answers_total", method="none", outcome=outcome) == 1


def test_a_search_that_followed_relations_is_counted_with_its_score_and_its_relations(counted: Counted) -> None:
    step = relation_pb2.RelationStep(passage_id="a", key="ada byron")
    for score in (0.25, 0.75, None):
        result = Result(passage_pb2.Passage(id="b"), 1.0, 1, 1.0, 1, None, path=[step, step] if score else ())
        with counted.search() as observed:
            observed.answered(Answer([result], RAN, COURSE, None, score))
    assert counted.value("sluice_enrichment_score_sum") == 1.0
    assert counted.value("sluice_enrichment_score_count") == 2
    assert counted.value("sluice_search_relations_sum") == 4
    assert counted.value("enrichment_usage_rate") == pytest.approx(2 / 3)
    assert counted.value("avg_enrichment_score") == 0.5
    assert counted.value("avg_relationships_per_query") == 2
