"""The retriever's Prometheus series."""

from __future__ import annotations

from functools import cache

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from services.chassis import tracing
from services.chassis.metrics import LATENCY_BUCKETS

ENGINE_DEATHS = ("storage_full", "version_broken", "killed", "crashed")
"""Causes of deaths of the embedded engine's process."""


class RetrieverMetrics:
    """Series about searches and the connections to Qdrant."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.pool_size = Gauge("qdrant_pool_size", "Connections to Qdrant.", registry=registry)
        self.pool_in_use = Gauge("qdrant_pool_in_use", "Connections that carry a call.", registry=registry)
        self.pool_waiting = Gauge("qdrant_pool_waiting", "Calls that wait for a connection.", registry=registry)
        self.pool_wait_seconds = Histogram(
            "qdrant_pool_wait_seconds",
            "Time that calls waited for a connection.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.breaker_open = Gauge(
            "qdrant_circuit_breaker_open",
            "1 while calls to Qdrant fail fast: the breaker is open, or one call is probing; else 0.",
            registry=registry,
        )
        self.breaker_transitions = Counter(
            "qdrant_circuit_breaker_transitions_total",
            "Changes of the breaker's state, by the new one.",
            ["state"],
            registry=registry,
        )
        self.calls = Counter(
            "qdrant_calls_total",
            "Calls to Qdrant that ended, by status code; a call that was retried is one call.",
            ["code"],
            registry=registry,
        )
        self.retries = Counter(
            "qdrant_retry_attempts_total",
            "Tries of a call to Qdrant beyond its first. Retry rate: this over `qdrant_calls_total`.",
            registry=registry,
        )
        self.search_seconds = Histogram(
            "qdrant_search_seconds",
            "Time that searches spend in Qdrant, waiting for a connection and retries included.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.nodes = Gauge(
            "qdrant_nodes", "Nodes of Qdrant that QDRANT_URL lists; 0 with the embedded engine.", registry=registry
        )
        self.nodes_up = Gauge(
            "qdrant_nodes_up",
            "Those of them that are called; one that does not answer is left alone until it does.",
            registry=registry,
        )
        self.engine_down = Gauge(
            "qdrant_engine_down",
            "1 while the embedded engine's process is dead and not started again yet; else 0.",
            registry=registry,
        )
        self.engine_deaths = Counter(
            "qdrant_engine_deaths_total",
            "Deaths of the embedded engine's process, by cause: `storage_full`, `version_broken` (it ended itself, so "
            "that the next one loads a version again), `killed` (as for want of memory), `crashed`.",
            ["cause"],
            registry=registry,
        )
        for cause in ENGINE_DEATHS:
            self.engine_deaths.labels(cause)  # from 0, so that the first death is an increase
        self.engine_logs_set_aside = Counter(
            "qdrant_engine_logs_set_aside_total",
            "Logs of versions that the embedded engine could not read, and set aside to go on without them.",
            registry=registry,
        )
        self.engine_damaged_versions = Gauge(
            "qdrant_engine_damaged_versions",
            "Versions that the embedded engine cannot read, so that calls to them fail.",
            registry=registry,
        )
        self.engine_versions_not_rebuilt = Gauge(
            "qdrant_engine_versions_not_rebuilt",
            "Versions whose last rebuild (a graph, a new layout) failed in the embedded engine. They serve as before.",
            registry=registry,
        )

    def observe_search(self, seconds: float) -> None:
        """Count one search."""
        self.search_seconds.observe(seconds, tracing.exemplar())

    def breaker_changed(self, _name: str, _old: str, new: str) -> None:
        """Record a `services.chassis.breaker.Transition`."""
        self.breaker_open.set(new != "closed")
        self.breaker_transitions.labels(new).inc()


@cache
def process_metrics() -> RetrieverMetrics:
    """The series of this process, in the default registry."""
    return RetrieverMetrics()
