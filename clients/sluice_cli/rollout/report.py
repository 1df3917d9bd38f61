"""Writing of reviews of rollouts as Markdown and HTML."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from importlib import resources
from pathlib import Path

from sluice_cli.reviews.pages import Pages
from sluice_cli.rollout.plots import plots
from sluice_cli.rollout.review import TAKEN_BACK, review
from sluice_client import RolloutReport

_TEMPLATES = resources.files("sluice_cli.rollout") / "templates"
_GLOSSARY = (
    (
        "Evidence",
        "The logarithm of an e-value: how strongly the bad events say that treatment is worse than control. An e-value "
        "is valid however often one looks at it (Lindon and Malek 2022, arXiv 2011.03567), so there was no "
        "planned end to wait for. At its threshold the feature is taken back; a feature that is not worse gets there "
        "in one ramp of twenty at most, over all guardrails.",
    ),
    (
        "Users hit",
        "Users with at least one bad event. Only the first of each user is evidence, so that a few heavy users cannot "
        "decide for all.",
    ),
    (
        "Intervals",
        "95 %. Rates by Wilson's score interval, their difference by Newcombe's method 10 (1998), percentiles and "
        "their increase by a bootstrap of 2,000 draws from the histogram of latencies, whose buckets are a tenth wide.",
    ),
    (
        "Met, missed, open",
        "Met: the whole interval is within what the plan allows. Missed: the whole interval is beyond it. Open: there "
        "were too few requests to tell.",
    ),
    (
        "On all gateways",
        "Time from the decision until every live gateway had said that it serves it.",
    ),
)


def write(found: RolloutReport, *, html: Path | None = None, markdown: Path | None = None) -> list[Path]:
    """Write a review to files, and return them. Raises Problem."""
    return _pages(found).write(partial(plots, found), html=html, markdown=markdown)


def markdown_of(found: RolloutReport) -> str:
    """Write a review in Markdown, without plots."""
    return _pages(found).markdown()


def _pages(found: RolloutReport) -> Pages:
    values = {"review": review(found, datetime.now(UTC)), "glossary": _GLOSSARY, "taken_back": TAKEN_BACK}
    return Pages(_TEMPLATES, "review", values)
