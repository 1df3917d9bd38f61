"""Metrics of the expander. `strategy` is the one that served, not always the one requested."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from services.chassis import tracing
from services.chassis.metrics import LATENCY_BUCKETS
from services.expander.expansion import Strategy

query_expansion_variants_total = Counter(
    "query_expansion_variants_total",
    "Variants returned, the original counted. Variants a query: this over `query_expansion_latency_seconds_count`.",
    ["strategy"],
)
query_expansion_latency_seconds = Histogram(
    "query_expansion_latency_seconds",
    "Time from a query to its variants.",
    ["strategy"],
    buckets=(0.0001, 0.0002, *LATENCY_BUCKETS),
)
for _strategy in Strategy:  # a series that exists from the start has a rate from the start
    query_expansion_variants_total.labels(_strategy.value)
    query_expansion_latency_seconds.labels(_strategy.value)


def observe_expansion(strategy: Strategy, variant_count: int, seconds: float) -> None:
    """Count one call."""
    query_expansion_latency_seconds.labels(strategy.value).observe(seconds, tracing.exemplar())
    query_expansion_variants_total.labels(strategy.value).inc(variant_count)
