"""`sluice compare`: the same question twice, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sluice_cli.calls import DONE, Connection, plain, print_json, stdout
from sluice_cli.conditions import parse_conditions
from sluice_cli.search import OUTCOME_STYLES, rank_change
from sluice_client import Answer, Comparison, Features, Outcome, Result, StageReport, Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line; None is what it does not say."""

    question: str
    rerank: bool | None
    expand: bool | None
    strategy: str | None
    feature: str
    limit: int
    collection: str
    conditions: Sequence[str]
    by_document: bool
    persistence: float | None
    as_json: bool


async def compare(connection: Connection, options: Options) -> int:
    """Asks and shows; the exit code."""
    conditions = parse_conditions(options.conditions)
    async with connection.client() as client:
        compared = await client.compare(
            options.question,
            enhanced=Features(
                expansion=options.expand,
                expansion_strategy=None if options.strategy is None else Strategy(options.strategy),
                rerank=options.rerank,
            ),
            feature=options.feature,
            limit=options.limit,
            collection=options.collection,
            filter=conditions,
            group_by_document=options.by_document,
            persistence=options.persistence,
        )
    if options.as_json:
        print_json(compared)
    else:
        stdout.print(comparison_view(compared))
    return DONE


def comparison_view(compared: Comparison) -> RenderableType:
    """A comparison for people."""
    if not compared.standard.results and not compared.enhanced.results:
        return Group(Text("Neither answer has a result.\n"), _stages(compared))
    return Group(_rankings(compared), _agreement(compared), _stages(compared))


def _rankings(compared: Comparison) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("rank", justify="right")
    table.add_column("standard", overflow="fold", ratio=1)
    table.add_column("enhanced", overflow="fold", ratio=1)
    table.add_column("change")
    before = {result.id: result.rank for result in compared.standard.results}
    after = {result.id for result in compared.enhanced.results}
    for place in range(max(len(before), len(after))):
        standard = _at(compared.standard, place)
        enhanced = _at(compared.enhanced, place)
        change = Text()
        if enhanced is not None:
            known = before.get(enhanced.id)
            change = Text("new", style="cyan") if known is None else rank_change(known, enhanced.rank)
        gone = standard is not None and standard.id not in after
        table.add_row(str(place + 1), Text(_name(standard), style="dim" if gone else ""), Text(_name(enhanced)), change)
    return table


def _at(answer: Answer, place: int) -> Result | None:
    return answer.results[place] if place < len(answer.results) else None


def _name(result: Result | None) -> str:
    return "" if result is None else plain(result.title) or plain(result.id)


def _agreement(compared: Comparison) -> Text:
    return Text(
        f"\noverlap of the first {compared.depth}: {compared.overlap:.0%} · rank-biased overlap: "
        f"{compared.rank_biased_overlap:.3f} (persistence {compared.persistence:g}; 1 is the same, 0 nothing in common)"
    )


def _stages(compared: Comparison) -> Table:
    table = Table(title="\nTime", title_justify="left", box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("stage")
    for name in ("standard, ms", "enhanced, ms"):
        table.add_column(name, justify="right")
    table.add_column("enhanced", overflow="fold")
    enhanced = {report.stage: report for report in compared.enhanced.stages}
    for report in compared.standard.stages:
        other = enhanced.get(report.stage)
        table.add_row(report.stage, _time(report), _time(other), _why(other))
    seconds = compared.standard_seconds, compared.enhanced_seconds
    table.add_row(
        "all", *(f"{taken * 1000:.1f}" for taken in seconds), f"{seconds[1] - seconds[0]:+.3f} s", style="bold"
    )
    return table


def _time(report: StageReport | None) -> Text:
    if report is None or report.outcome is Outcome.SKIPPED:
        return Text("-", style="dim")
    return Text(f"{report.seconds * 1000:.1f}", style=OUTCOME_STYLES.get(report.outcome, ""))


def _why(report: StageReport | None) -> str:
    if report is None or report.outcome is Outcome.RAN:
        return ""
    return plain(": ".join(part for part in (report.reason, report.detail) if part))
