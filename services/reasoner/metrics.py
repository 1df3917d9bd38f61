"""The reasoner's series."""

from __future__ import annotations

from functools import cache

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from services.chassis import tracing
from services.reasoner.answers import Answer, Fallback, Method, Usage

# Seconds, from sentences to a slow model.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120)


class ReasonerMetrics:
    """Series of the reasoner, in one registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.latency = Histogram(
            "reasoner_latency_seconds",
            "Time from passages to an answer, by what made it; failed tries of a model included.",
            ["method"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.tokens = Counter(
            "reasoner_tokens_total",
            "Tokens that the model read (`prompt`) and wrote (`completion`); estimated where the caller left.",
            ["kind"],
            registry=registry,
        )
        self.cost = Counter(
            "reasoner_cost_total", "Price of these tokens, in the currency of the settings.", registry=registry
        )
        self.unsupported = Counter(
            "reasoner_unsupported_answers_total",
            "Answers of the model that claim to be in the passages, with no valid citation.",
            registry=registry,
        )
        self.dropped_citations = Counter(
            "reasoner_dropped_citations_total",
            "Citations that were dropped: the quoted words do not stand in the passage.",
            registry=registry,
        )
        self.not_in_sources = Counter(
            "reasoner_not_in_sources_total", "Answers that say that the passages do not answer.", registry=registry
        )
        self.fallbacks = Counter(
            "reasoner_fallbacks_total",
            "Extractive answers that were not asked for, by reason.",
            ["reason"],
            registry=registry,
        )
        self.breaker_open = Gauge(
            "reasoner_llm_breaker_open",
            "1 while the language model is not asked, or probed; else 0.",
            registry=registry,
        )
        self.waiting = Gauge("reasoner_llm_waiting", "Answers that wait for the language model.", registry=registry)
        for method in Method:  # a series that exists from the start has a rate from the start
            self.latency.labels(method.name.lower())
        for kind in ("prompt", "completion"):
            self.tokens.labels(kind)
        for reason in Fallback:
            self.fallbacks.labels(reason.value)

    def observe(self, answer: Answer, seconds: float) -> None:
        """Count one answer."""
        self.latency.labels(answer.method.name.lower()).observe(seconds, tracing.exemplar())
        self.used(answer.usage)
        self.dropped_citations.inc(answer.dropped_citations)
        if not answer.in_sources:
            self.not_in_sources.inc()
        elif answer.method is Method.LLM and not answer.supported:
            self.unsupported.inc()
        if answer.fallback is not None:
            self.fallbacks.labels(answer.fallback.value).inc()

    def used(self, usage: Usage) -> None:
        """Count what a model took."""
        self.tokens.labels("prompt").inc(usage.prompt_tokens)
        self.tokens.labels("completion").inc(usage.completion_tokens)
        self.cost.inc(usage.cost)


@cache
def process_metrics() -> ReasonerMetrics:
    """Return the metrics of this process."""
    return ReasonerMetrics()
