"""The reasoner's series."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client import CollectorRegistry

from services.reasoner.answers import Answer, Citation, Fallback, Method, Usage
from services.reasoner.metrics import ReasonerMetrics

ANSWER = Answer(
    "Two.", [Citation("a", "two", 0, 3)], 0.9, True, Method.LLM, dropped_citations=2, usage=Usage(100, 20, 0.5)
)


def test_an_answer_is_counted_with_what_it_took_and_what_is_wrong_with_it() -> None:
    registry = CollectorRegistry()
    metrics = ReasonerMetrics(registry)
    metrics.observe(ANSWER, 1.5)
    metrics.observe(replace(ANSWER, citations=[], dropped_citations=0), 1.5)
    metrics.observe(replace(ANSWER, in_sources=False, citations=[], dropped_citations=0), 1.5)
    metrics.observe(replace(ANSWER, method=Method.EXTRACTIVE, citations=[], fallback=Fallback.BUSY), 0.5)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert value("reasoner_latency_seconds_sum", method="llm") == 4.5
    assert value("reasoner_latency_seconds_count", method="extractive") == 1
    assert (value("reasoner_tokens_total", kind="prompt"), value("reasoner_tokens_total", kind="completion")) == (
        400,
        80,
    )
    assert value("reasoner_cost_total") == 2.0
    assert value("reasoner_dropped_citations_total") == 4
    assert value("reasoner_unsupported_answers_total") == 1
    assert value("reasoner_not_in_sources_total") == 1
    assert value("reasoner_fallbacks_total", reason="LLM_BUSY") == 1
    assert value("reasoner_fallbacks_total", reason="LLM_TOO_SLOW") == 0
