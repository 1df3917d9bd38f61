"""The expander's Prometheus series. `strategy` is the one that served, never anything that a caller sent."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from services.expander.expansion import Expansion, Strategy

VARIANTS = Counter(
    "query_expansion_variants_total", "Variants returned, the original counted.", labelnames=["strategy"]
)
# A known word costs microseconds, a query of new ones milliseconds.
LATENCY = Histogram(
    "query_expansion_latency_seconds",
    "Time to expand one query.",
    labelnames=["strategy"],
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
)
for _strategy in Strategy:  # a series that is there from the start has a rate from the start
    VARIANTS.labels(_strategy.value)
    LATENCY.labels(_strategy.value)


def observe(expansion: Expansion, seconds: float) -> None:
    """Records one answered request."""
    VARIANTS.labels(expansion.strategy_used.value).inc(len(expansion.variants))
    LATENCY.labels(expansion.strategy_used.value).observe(seconds)
