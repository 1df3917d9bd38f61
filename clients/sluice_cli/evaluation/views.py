"""Tables of evaluations and replays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from sluice_cli.calls import plain, table
from sluice_cli.evaluation.asking import Side
from sluice_cli.evaluation.evidence import interval_words
from sluice_cli.evaluation.measures import NAMES
from sluice_cli.evaluation.quality import Quality
from sluice_statistics.intervals import Estimate

_LONGEST_QUESTION = 70


def quality_view(quality: Quality, sides: Sequence[Side], texts: Mapping[str, str]) -> RenderableType:
    """Show measures, differences from the first configuration, and the questions that moved most."""
    measures = table("", *NAMES, "unjudged", "P50", "P95", right=frozenset({*NAMES, "unjudged", "P50", "P95"}))
    for graded, side in zip(quality.configurations, sides, strict=True):
        means = (_number(graded.measures.get(name)) for name in NAMES)
        measures.add_row(graded.configuration, *means, _share(graded.unjudged), _ms(side.p50_ms), _ms(side.p95_ms))
    blocks: list[RenderableType] = [measures]
    if quality.differences:
        blocks += [Text(), differences_view(quality, sides[0].name)]
    if quality.moved:
        moved = table("ndcg@10", "", "question", title="\nQuestions that moved most", right=frozenset({"ndcg@10"}))
        for one in quality.moved:
            change = f"{one.before:.2f} to {one.after:.2f}"
            name = Text(one.configuration, style="green" if one.after > one.before else "red")
            moved.add_row(change, name, shortened(texts.get(one.query_id, one.query_id)))
        blocks.append(moved)
    return Group(*blocks, Text())


def differences_view(quality: Quality, first: str) -> RenderableType:
    """Show differences with their intervals."""
    columns = ("difference (95 %)", "better", "worse", "same")
    shown = table("", "measure", *columns, title=f"Against {plain(first)}", right=frozenset(columns))
    for one in quality.differences:
        sure = one.difference.low > 0 or one.difference.high < 0
        style = ("green" if one.difference.value > 0 else "red") if sure else ""
        interval = Text(interval_words(one.difference, signed=True), style=style)
        shown.add_row(one.configuration, one.measure, interval, *(f"{n:,}" for n in (one.wins, one.losses, one.ties)))
    return shown


def work_view(sides: Sequence[Side]) -> RenderableType:
    """Show time and work of every configuration."""
    stages = list(dict.fromkeys(stage for side in sides for stage in side.items))
    columns = ("questions", "failed", "degraded", "empty", "P50", "P95", "tokens", *stages)
    shown = table("", *columns, right=frozenset(columns))
    for side in sides:
        counts = (side.questions, side.failed, side.degraded, side.empty)
        items = (f"{side.items.get(stage, 0):.1f}" for stage in stages)
        numbers = (*(f"{count:,}" for count in counts), _ms(side.p50_ms), _ms(side.p95_ms), f"{side.tokens:,.1f}")
        shown.add_row(side.name, *numbers, *items)
    return shown


def shortened(text: str) -> str:
    """Cut a question to a line."""
    text = plain(text)
    return text if len(text) <= _LONGEST_QUESTION else f"{text[:_LONGEST_QUESTION]}…"


def _number(found: Estimate | None) -> str:
    return "-" if found is None else f"{found.value:.3f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}".replace("%", " %")


def _ms(value: Any) -> str:
    return "-" if value is None else f"{value:,.0f} ms"
