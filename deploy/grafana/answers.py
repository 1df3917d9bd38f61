"""Panels on answers in words: what makes them, how long it takes, what it costs, and what is wrong with them."""

from __future__ import annotations

from deploy.grafana.panels import Limits, Panel, Query, lines
from deploy.grafana.promql import quantile, rate, ratio


def panels() -> list[Panel]:
    """Build the row of answers."""
    by_model = rate("reasoner_latency_seconds_count", 'method="llm"')
    return [
        lines(
            "Answers",
            "Answers in words by what made them, and how they ended. degraded: something is missing, as the model.",
            Query(rate("sluice_answers_total", by="method, outcome"), "{{method}} {{outcome}}"),
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Time of an answer",
            "P95 of the searches, of the reasoner, and of all together.",
            Query(quantile(0.95, "sluice_answer_latency_seconds", by="part"), "{{part}}"),
            unit="s",
        ),
        lines(
            "Sentences in place of a model",
            "Answers that the model should have written and did not, by reason.",
            Query(rate("reasoner_fallbacks_total", by="reason"), "{{reason}}"),
            unit="reqps",
            alert="SluiceReasonerFallsBack",
        ),
        lines(
            "Unsupported answers",
            "Share of the model's answers without a quote that stands in its passage; and dropped quotes an answer.",
            Query(ratio(rate("reasoner_unsupported_answers_total"), by_model), "unsupported"),
            Query(ratio(rate("reasoner_dropped_citations_total"), by_model), "dropped quotes an answer"),
            unit="short",
            limits=Limits(0.5, 0.8),
            alert="SluiceAnswersUnsupported",
        ),
        lines(
            "Tokens",
            "Tokens a second that the model reads and writes.",
            Query(rate("reasoner_tokens_total", by="kind"), "{{kind}}"),
            unit="short",
        ),
        lines(
            "Cost",
            "Price of these tokens an hour, in the currency of the reasoner's settings.",
            Query(f"3600 * {rate('reasoner_cost_total')}", "cost an hour"),
            unit="short",
        ),
    ]
