"""`sluice search`: ask, and show the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sluice_cli.calls import DONE, Connection, plain, print_json, say_warning, stderr, stdout
from sluice_cli.conditions import parse_conditions
from sluice_client import Answer, Features, Outcome, Result, StageReport, Strategy

SNIPPET_CHARACTERS = 240
OUTCOME_STYLES = {Outcome.RAN: "green", Outcome.SKIPPED: "dim", Outcome.DEGRADED: "yellow", Outcome.FAILED: "red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line; None is what it does not say."""

    question: str
    limit: int
    collection: str
    conditions: Sequence[str]
    by_document: bool
    page_token: str
    explain: bool
    as_json: bool
    dense: bool | None
    lexical: bool | None
    expand: bool | None
    strategy: str | None
    rerank: bool | None
    collapse: bool


async def search(connection: Connection, options: Options) -> int:
    """Asks and shows; the exit code."""
    conditions = parse_conditions(options.conditions)
    async with connection.client() as client:
        answer = await client.search(
            options.question,
            limit=options.limit,
            collection=options.collection,
            filter=conditions,
            features=Features(
                dense=options.dense,
                lexical=options.lexical,
                expansion=options.expand,
                expansion_strategy=None if options.strategy is None else Strategy(options.strategy),
                rerank=options.rerank,
            ),
            collapse_duplicates=options.collapse,
            group_by_document=options.by_document,
            page_token=options.page_token,
        )
    if options.as_json:
        print_json(answer)
        return DONE
    stdout.print(answer_view(answer, explain=options.explain))
    if not options.explain:
        _say_what_went_wrong(answer)
    if answer.next_page_token:
        stderr.print(Text(f"more: repeat with --page-token {answer.next_page_token}", style="dim"), soft_wrap=True)
    return DONE


def answer_view(answer: Answer, *, explain: bool) -> RenderableType:
    """An answer for people."""
    blocks: list[RenderableType] = [_result_view(result) for result in answer.results] or [Text("Nothing was found.")]
    if explain:
        if answer.results:
            blocks.append(scores_table(answer.results))
        blocks += [stages_table(answer.stages), _origin(answer)]
    return Group(*blocks)


def _result_view(result: Result) -> RenderableType:
    title = plain(result.title) or plain(result.id)
    about = [] if title == result.id else [plain(result.id)]
    if part := result.chunk:
        about.append(f"chunk {part.number} of {part.count}")
    about += [f"{plain(name)}={plain(str(value))}" for name, value in sorted(result.metadata.items())]
    if result.duplicate_count:
        about.append(f"and {result.duplicate_count} near-duplicate{'s' if result.duplicate_count > 1 else ''}")
    text = plain(result.text)
    snippet = text if len(text) <= SNIPPET_CHARACTERS else text[:SNIPPET_CHARACTERS].rsplit(" ", 1)[0] + " …"
    lines = [Text.assemble((title, "bold"), "  ", (f"{result.score:.3f}", "cyan"))]
    lines += [Text(line, style=style) for line, style in (("  ".join(about), "dim"), (snippet, "")) if line]
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", width=4)
    table.add_column(overflow="fold")
    table.add_row(f"{result.rank}.", Group(*lines))
    return Padding(table, (0, 0, 1, 0), expand=False)


def scores_table(results: Sequence[Result]) -> Table:
    """What each stage thought of each result."""
    table = Table(title="Scores", title_justify="left", box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("rank", justify="right")
    table.add_column("change")
    table.add_column("title", overflow="fold")
    for name in ("score", "first stage", "cross-encoder"):
        table.add_column(name, justify="right")
    for result in results:
        scores = result.scores
        table.add_row(
            str(result.rank),
            rank_change(scores.retrieval_rank, result.rank),
            plain(result.title) or plain(result.id),
            f"{result.score:.4f}",
            f"{scores.retrieval:.4f}",
            "" if scores.rerank is None else f"{scores.rerank:.3f}",
        )
    return table


def rank_change(before: int, now: int) -> Text:
    """How far a result moved from the first stage's order to the final one."""
    if before == now:
        return Text("=", style="dim")
    moved, style = ("▲", "green") if now < before else ("▼", "red")
    return Text(f"{moved}{abs(before - now)} from {before}", style=style)


def stages_table(reports: Sequence[StageReport]) -> Table:
    """What each stage did."""
    table = Table(title="\nStages", title_justify="left", box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("stage", "outcome"):
        table.add_column(name)
    for name in ("ms", "items"):
        table.add_column(name, justify="right")
    for name in ("model", "reason"):
        table.add_column(name, overflow="fold")
    for report in reports:
        table.add_row(
            report.stage,
            Text(report.outcome, style=OUTCOME_STYLES.get(report.outcome, "")),
            f"{report.seconds * 1000:.1f}",
            str(report.item_count),
            plain(report.model),
            plain(_why(report)),
        )
    return table


def _why(report: StageReport) -> str:
    return ": ".join(part for part in (report.reason, report.detail) if part)


def _origin(answer: Answer) -> Text:
    features = answer.features
    on = [
        *(["dense"] if features.dense else []),
        *(["lexical"] if features.lexical else []),
        *([f"expansion by {features.expansion_strategy}"] if features.expansion else []),
        *([f"rerank of {features.rerank_candidate_count}"] if features.rerank else []),
    ]
    origin = f"{answer.collection} ({answer.index_version})"
    return Text(f"\non: {', '.join(on)} · index: {origin} · request: {answer.request_id}", style="dim")


def _say_what_went_wrong(answer: Answer) -> None:
    for report in answer.stages:
        if report.outcome in (Outcome.DEGRADED, Outcome.FAILED):
            say_warning(f"{report.stage} {report.outcome}: {_why(report)}")
