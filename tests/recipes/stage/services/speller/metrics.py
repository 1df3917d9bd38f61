"""Metrics of the speller."""

from __future__ import annotations

from functools import cache

from prometheus_client import REGISTRY, CollectorRegistry, Histogram

from services.chassis.metrics import LATENCY_BUCKETS


class SpellerMetrics:
    """Series of the speller, in one registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.latency = Histogram(
            "speller_latency_seconds",
            "Time from a query to its correction.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )


@cache
def process_metrics() -> SpellerMetrics:
    """Return the metrics of this process."""
    return SpellerMetrics()
