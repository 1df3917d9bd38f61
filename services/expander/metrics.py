"""Metrics of the expander. `strategy` is the one that served, not always the one requested."""

from __future__ import annotations

from functools import cache

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from services.chassis import tracing
from services.chassis.metrics import LATENCY_BUCKETS
from services.expander.expansion import Strategy


class ExpanderMetrics:
    """Series of the expander, in one registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.variants = Counter(
            "query_expansion_variants_total",
            "Variants returned, the query included. Variants a query: this over "
            "`query_expansion_latency_seconds_count`.",
            ["strategy"],
            registry=registry,
        )
        self.latency = Histogram(
            "query_expansion_latency_seconds",
            "Time from a query to its variants.",
            ["strategy"],
            buckets=(0.0001, 0.0002, *LATENCY_BUCKETS),
            registry=registry,
        )
        for strategy in Strategy:  # a series that exists from the start has a rate from the start
            self.variants.labels(strategy.value)
            self.latency.labels(strategy.value)

    def observe(self, strategy: Strategy, variant_count: int, seconds: float) -> None:
        """Count one call."""
        self.latency.labels(strategy.value).observe(seconds, tracing.exemplar())
        self.variants.labels(strategy.value).inc(variant_count)


@cache
def process_metrics() -> ExpanderMetrics:
    """Return the metrics of this process."""
    return ExpanderMetrics()
