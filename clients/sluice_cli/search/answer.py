"""`sluice search`: ask, and show the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sluice_cli.calls import DONE, Connection, milliseconds, plain, print_json, say_warning, stderr, stdout, table
from sluice_cli.search.conditions import parse_conditions
from sluice_client import (
    FLAGS,
    Answer,
    Features,
    FlagValue,
    Outcome,
    Passage,
    Result,
    SearchOptions,
    StageReport,
    features,
    flag_values,
)

SNIPPET_CHARACTERS = 240
OUTCOME_STYLES = {Outcome.RAN: "green", Outcome.SKIPPED: "dim", Outcome.DEGRADED: "yellow", Outcome.FAILED: "red"}


async def search(
    connection: Connection,
    question: str,
    *,
    flags: Mapping[str, FlagValue],
    conditions: Sequence[str],
    page_token: str,
    explain: bool,
    as_json: bool,
    **options: Unpack[SearchOptions],
) -> int:
    """Ask, show the answer, and return the exit code."""
    options["filter"], options["features"] = parse_conditions(conditions), features(**flags)
    async with connection.client() as client:
        answer = await client.search(question, page_token=page_token, **options)
    if as_json:
        print_json(answer)
        return DONE
    stdout.print(answer_view(answer, explain=explain))
    if not explain:
        _warn_of_failures(answer)
    if answer.next_page_token:
        stderr.print(Text(f"more: repeat with --page-token {answer.next_page_token}", style="dim"), soft_wrap=True)
    return DONE


def answer_view(answer: Answer, *, explain: bool) -> RenderableType:
    """Show an answer in words."""
    blocks: list[RenderableType] = [_result_view(result) for result in answer.results] or [Text("Nothing was found.")]
    if explain:
        if answer.results:
            blocks.append(_scores_table(answer.results))
        blocks += [_stages_table(answer.stages), _origin(answer)]
    return Group(*blocks)


def name_of(passage: Passage) -> str:
    """Name a passage by its title, or else its id."""
    return plain(passage.title) or plain(passage.id)


def rank_change(before: int, now: int) -> Text:
    """Show the move of a result from one rank to another."""
    if before == now:
        return Text("=", style="dim")
    moved, style = ("▲", "green") if now < before else ("▼", "red")
    return Text(f"{moved}{abs(before - now)} from {before}", style=style)


def flags_words(given: Features) -> str:
    """List what is switched on, each with the flags that refine it: "dense, rerank (50)"."""
    values = flag_values(given)
    on = [name for name, value in values.items() if value is True]
    refined = {name: [str(values[flag.name]) for flag in FLAGS.values() if flag.refines == name] for name in on}
    return ", ".join(f"{name} ({', '.join(refined[name])})" if refined[name] else name for name in on)


def _result_view(result: Result) -> RenderableType:
    passage = result.passage
    about = [] if passage.title == passage.id else [plain(passage.id)]
    if part := passage.chunk:
        about.append(f"chunk {part.number} of {part.count}")
    about += [f"{plain(name)}={plain(str(value))}" for name, value in sorted(passage.metadata.items())]
    if result.duplicate_count:
        about.append(f"and {result.duplicate_count} near-duplicate{'s' if result.duplicate_count > 1 else ''}")
    lines = [Text.assemble((name_of(passage), "bold"), "  ", (f"{result.score:.3f}", "cyan"))]
    shown = ("  ".join(about), "dim"), (snippet(passage.text), "")
    lines += [Text(line, style=style) for line, style in shown if line]
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right", width=4)
    grid.add_column(overflow="fold")
    grid.add_row(f"{result.rank}.", Group(*lines))
    return Padding(grid, (0, 0, 1, 0), expand=False)


def snippet(text: str) -> str:
    """Shorten a text to a few lines."""
    whole = plain(text)
    return whole if len(whole) <= SNIPPET_CHARACTERS else whole[:SNIPPET_CHARACTERS].rsplit(" ", 1)[0] + " …"


def _scores_table(results: Sequence[Result]) -> Table:
    numbers = ("score", "first stage", "cross-encoder")
    shown = table("rank", "change", "title", *numbers, title="Scores", right=frozenset({"rank", *numbers}))
    for result in results:
        scores = result.scores
        shown.add_row(
            str(result.rank),
            rank_change(scores.retrieval_rank, result.rank),
            name_of(result.passage),
            f"{result.score:.4f}",
            f"{scores.retrieval:.4f}",
            "" if scores.rerank is None else f"{scores.rerank:.3f}",
        )
    return shown


def _stages_table(reports: Sequence[StageReport]) -> Table:
    shown = table(
        "stage", "outcome", "ms", "items", "model", "reason", title="\nStages", right=frozenset({"ms", "items"})
    )
    for report in reports:
        shown.add_row(
            report.stage,
            Text(report.outcome, style=OUTCOME_STYLES.get(report.outcome, "")),
            milliseconds(report.duration),
            str(report.item_count),
            plain(report.model),
            reason_of(report),
        )
    return shown


def reason_of(report: StageReport) -> str:
    """Give the reason of a report and its detail."""
    return plain(": ".join(part for part in (report.reason, report.detail) if part))


def _origin(answer: Answer) -> Text:
    origin = f"{answer.collection} ({answer.index_version})"
    on = flags_words(answer.features)
    return Text(f"\non: {on} · index: {origin} · request: {answer.request_id}", style="dim")


def _warn_of_failures(answer: Answer) -> None:
    for report in answer.stages:
        if report.outcome in (Outcome.DEGRADED, Outcome.FAILED):
            say_warning(f"{report.stage} {report.outcome}: {reason_of(report)}")
