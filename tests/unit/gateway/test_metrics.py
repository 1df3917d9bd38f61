"""How searches are counted."""

from __future__ import annotations

import asyncio
import math
import time

import pytest
from prometheus_client import REGISTRY

from services.chassis.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from services.gateway import metrics
from services.gateway.rollout.table import Features
from services.gateway.search.stages import Answer, Outcome, Stage, StageReport

FEATURES = Features(expansion=True, rerank=True)
LABELS = {"expansion": "on", "rerank": "on"}


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def answer(*reports: StageReport) -> Answer:
    return Answer([], reports, "docs-v1", more=False)


RAN = [StageReport(stage, Outcome.RAN) for stage in Stage]


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
def test_an_answer_that_lacks_something_is_degraded(changed: StageReport, outcome: str) -> None:
    before = value("sluice_searches_total", **LABELS, outcome=outcome)
    with metrics.ObservedSearch(FEATURES, math.inf) as observed:
        observed.answered(answer(*RAN[:3], changed))
    assert value("sluice_searches_total", **LABELS, outcome=outcome) == before + 1


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
def test_a_search_that_fails_is_counted_with_its_time(error: BaseException, outcome: str) -> None:
    before = value("sluice_searches_total", **LABELS, outcome=outcome)
    timed = value("sluice_search_latency_seconds_count", **LABELS)
    with pytest.raises(type(error)), metrics.ObservedSearch(FEATURES, math.inf):
        raise error
    assert value("sluice_searches_total", **LABELS, outcome=outcome) == before + 1
    assert value("sluice_search_latency_seconds_count", **LABELS) == timed + 1


def test_a_call_that_the_server_cancels_at_its_deadline_is_late() -> None:
    before = value("sluice_searches_total", **LABELS, outcome="late")
    with pytest.raises(asyncio.CancelledError), metrics.ObservedSearch(FEATURES, time.monotonic()):
        raise asyncio.CancelledError
    assert value("sluice_searches_total", **LABELS, outcome="late") == before + 1


def test_a_failed_expansion_leaves_one_variant() -> None:
    count, total = value("sluice_search_variants_count"), value("sluice_search_variants_sum")
    metrics.observe_stages(FEATURES, [StageReport(Stage.EXPAND, Outcome.FAILED, "DEPENDENCY_DOWN")])
    metrics.observe_stages(FEATURES, [StageReport(Stage.EXPAND, Outcome.RAN, item_count=5)])
    metrics.observe_stages(Features(), [StageReport(Stage.EXPAND, Outcome.SKIPPED, "FEATURE_OFF")])
    assert (value("sluice_search_variants_count") - count, value("sluice_search_variants_sum") - total) == (2, 6)


def test_what_says_that_quality_suffers_has_series_of_its_own() -> None:
    empty, mismatches = value("sluice_rerank_without_candidates_total"), value("sluice_model_mismatches_total")
    metrics.observe_stages(
        FEATURES,
        [
            StageReport(Stage.EMBED, Outcome.FAILED, "MODEL_MISMATCH"),
            StageReport(Stage.RERANK, Outcome.SKIPPED, "NO_CANDIDATES"),
        ],
    )
    assert value("sluice_rerank_without_candidates_total") == empty + 1
    assert value("sluice_model_mismatches_total") == mismatches + 1
