"""Panels on enrichment: how many searches follow relations, what these lead to, and how good the answers look."""

from __future__ import annotations

from deploy.grafana.panels import Limits, Panel, Query, lines
from deploy.grafana.promql import HERE, quantile, rate


def panels() -> list[Panel]:
    """Build the row of enrichment."""
    return [
        lines(
            "Use of enrichment",
            "Share of answered searches that followed relations between passages (enrichment_usage_rate).",
            Query(f"sluice:enrichment_usage:ratio15m{{{HERE}}}", "of all searches"),
            unit="percentunit",
        ),
        lines(
            "Enrichment score",
            "Estimated probability that the first five results hold all that an answer needs, in the mean "
            "(avg_enrichment_score).",
            Query(f"sluice:enrichment_score:mean15m{{{HERE}}}", "mean"),
            unit="short",
            limits=Limits(0.5, 0.3, below=True),
            alert="SluiceEnrichmentScoreLow",
        ),
        lines(
            "Relations of an answer",
            "Relations by which the results of a search were reached, in the mean (avg_relationships_per_query).",
            Query(f"sluice:search_relations:mean15m{{{HERE}}}", "mean"),
            unit="short",
        ),
        lines(
            "Following relations",
            "P95 of the stage.",
            Query(quantile(0.95, "sluice_stage_latency_seconds", 'stage="hop"'), "P95"),
            unit="s",
        ),
        lines(
            "Outcomes of hops",
            "skipped: the feature is off, the collection has no keys, or there was no time. The answer stands without.",
            Query(rate("sluice_stage_outcomes_total", 'stage="hop"', by="outcome"), "{{outcome}}"),
            unit="reqps",
        ),
    ]
