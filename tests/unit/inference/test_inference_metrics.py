from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Histogram

from services.inference.metrics import InferenceMetrics, SchedulerTelemetry
from services.inference.scheduling import BatchReport, Lane
from tests.unit.inference.test_served_model import MODEL


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def telemetry(registry: CollectorRegistry) -> SchedulerTelemetry:
    batch_size = Histogram("batch_size", "Rows.", buckets=(1, 8), registry=registry)
    return SchedulerTelemetry(InferenceMetrics(registry), batch_size)


def value(registry: CollectorRegistry, name: str, **labels: Any) -> float | None:
    return registry.get_sample_value(name, labels)


@pytest.mark.parametrize(
    ("precision", "served", "refused"),
    [("int8", "fp32", 1), ("int8", "bf16", 1), ("int8", "int8", 0), ("fp32", "fp32", 0), ("fp32", "bf16", 0)],
)
def test_a_refused_precision_is_shown(registry: CollectorRegistry, precision: str, served: str, refused: int) -> None:
    InferenceMetrics(registry).describe(replace(MODEL, precision=served), precision)
    assert value(registry, "sluice_precision_refused") == refused


def test_pseudo_embeddings_refuse_no_precision(registry: CollectorRegistry) -> None:
    InferenceMetrics(registry).describe(replace(MODEL, pseudo=True), "int8")
    assert value(registry, "sluice_precision_refused") == 0


def test_a_pass_is_counted_in_its_lane(registry: CollectorRegistry, telemetry: SchedulerTelemetry) -> None:
    telemetry.batch_finished(
        BatchReport(Lane.BULK, rows=4, tokens=30, padded_tokens=40, waited_seconds=0.1, compute_seconds=0.2)
    )
    assert value(registry, "batch_size_sum") == 4
    assert value(registry, "sluice_computed_tokens_total", lane="bulk") == 30
    assert value(registry, "sluice_padding_tokens_total", lane="bulk") == 10
    assert value(registry, "sluice_batch_compute_seconds_count", lane="bulk") == 1
    assert value(registry, "sluice_batch_compute_seconds_count", lane="interactive") == 0


def test_queues_results_and_refusals_are_shown(registry: CollectorRegistry, telemetry: SchedulerTelemetry) -> None:
    telemetry.queue_changed(Lane.INTERACTIVE, 3, 99)
    telemetry.reused(5, 2, 1)
    telemetry.dropped(Lane.BULK, "expired")
    telemetry.refused(Lane.BULK, "full")
    assert value(registry, "sluice_queue_depth", lane="interactive") == 3
    assert value(registry, "sluice_queued_tokens", lane="interactive") == 99
    assert value(registry, "sluice_requested_results_total") == 5
    assert value(registry, "sluice_reused_results_total", source="cache") == 2
    assert value(registry, "sluice_reused_results_total", source="in_flight") == 1
    assert value(registry, "sluice_dropped_work_total", lane="bulk", reason="expired") == 1
    assert value(registry, "sluice_refused_calls_total", lane="bulk", reason="full") == 1
    assert value(registry, "sluice_refused_calls_total", lane="bulk", reason="late") == 0
