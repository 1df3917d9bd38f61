"""`sluice compare`: two answers to a question, side by side."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sluice_cli.calls import DONE, command, connection_of, milliseconds, print_json, stdout, table
from sluice_cli.options import AsJson, ByDocument, Collection, Conditions, ConditionTree, FlagCommand, Limit, flags_of
from sluice_cli.search.answer import OUTCOME_STYLES, name_of, rank_change, reason_of
from sluice_cli.search.conditions import parse_filter
from sluice_client import Answer, Comparison, Outcome, Result, StageReport, features

app = typer.Typer(rich_markup_mode=None)


@app.command(cls=FlagCommand)
@command
async def compare(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question.")],
    feature: Annotated[
        str, typer.Option(metavar="NAME", help="Use the flags of this feature of the rollout instead.")
    ] = "",
    limit: Limit = 10,
    collection: Collection = "",
    conditions: Conditions = None,
    tree: ConditionTree = "",
    by_document: ByDocument = False,
    persistence: Annotated[
        float | None, typer.Option(metavar="P", help="Of the rank-biased overlap, above 0 and below 1; else 0.9.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Show two answers side by side: standard, and with more switched on.

    Flags are those of the enhanced answer; without flags and --feature, it has expansion and reranking on. It counts
    for no rollout and changes nothing. The standard answer is made first; vectors that both need may then come from a
    cache.

    \b
    Examples:
      sluice compare "parse command line options"
      sluice compare "parse command line options" --rerank --limit 5
      sluice compare "roll back" --feature rerank-v1
      sluice compare "roll back" --json | jq .rank_biased_overlap
    """
    matching = parse_filter(conditions, tree)
    flags = flags_of(context)
    async with connection_of(context).client() as client:
        compared = await client.compare(
            question,
            enhanced=features(**flags) if flags else None,
            feature=feature,
            limit=limit,
            collection=collection,
            filter=matching,
            group_by_document=by_document,
            persistence=persistence,
        )
    if as_json:
        print_json(compared)
    else:
        stdout.print(comparison_view(compared))
    return DONE


def comparison_view(compared: Comparison) -> RenderableType:
    """Show a comparison in words."""
    if not compared.standard.results and not compared.enhanced.results:
        return Group(Text("Neither answer has a result.\n"), _stages(compared))
    return Group(_rankings(compared), _agreement(compared), _stages(compared))


def _rankings(compared: Comparison) -> Table:
    shown = table("rank", right=frozenset({"rank"}))
    shown.add_column("standard", overflow="fold", ratio=1)
    shown.add_column("enhanced", overflow="fold", ratio=1)
    shown.add_column("change")
    before = {result.passage.id: result.rank for result in compared.standard.results}
    after = {result.passage.id for result in compared.enhanced.results}
    for place in range(max(len(before), len(after))):
        standard = _at(compared.standard, place)
        enhanced = _at(compared.enhanced, place)
        change = Text()
        if enhanced is not None:
            known = before.get(enhanced.passage.id)
            change = Text("new", style="cyan") if known is None else rank_change(known, enhanced.rank)
        gone = standard is not None and standard.passage.id not in after
        shown.add_row(str(place + 1), Text(_name(standard), style="dim" if gone else ""), Text(_name(enhanced)), change)
    return shown


def _at(answer: Answer, place: int) -> Result | None:
    return answer.results[place] if place < len(answer.results) else None


def _name(result: Result | None) -> str:
    if result is None:
        return ""
    chunk = result.passage.chunk
    return name_of(result.passage) + (f", chunk {chunk.number}" if chunk else "")


def _agreement(compared: Comparison) -> Text:
    return Text(
        f"\noverlap of the first {compared.depth}: {compared.overlap:.0%} · rank-biased overlap: "
        f"{compared.rank_biased_overlap:.3f} (persistence {compared.persistence:g}; 1 is the same, 0 nothing in common)"
    )


def _stages(compared: Comparison) -> Table:
    numbers = ("standard, ms", "enhanced, ms")
    shown = table("stage", *numbers, "enhanced", title="\nTime", right=frozenset(numbers))
    enhanced = {report.stage: report for report in compared.enhanced.stages}
    for report in compared.standard.stages:
        other = enhanced.get(report.stage)
        reason = "" if other is None or other.outcome is Outcome.RAN else reason_of(other)
        shown.add_row(report.stage, _time(report), _time(other), reason)
    more = (compared.enhanced_duration - compared.standard_duration) / timedelta(seconds=1)
    durations = compared.standard_duration, compared.enhanced_duration
    shown.add_row("all", *map(milliseconds, durations), f"{more:+.3f} s", style="bold")
    return shown


def _time(report: StageReport | None) -> Text:
    if report is None or report.outcome is Outcome.SKIPPED:
        return Text("-", style="dim")
    return Text(milliseconds(report.duration), style=OUTCOME_STYLES.get(report.outcome, ""))
