"""`sluice search`: ask, and show the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sluice_cli.calls import (
    DONE,
    NEEDS_A_LOOK,
    WRONG_COMMAND_LINE,
    Problem,
    command,
    connection_of,
    milliseconds,
    plain,
    print_json,
    say_warning,
    stderr,
    stdout,
    table,
    words,
)
from sluice_cli.options import (
    AsJson,
    ByDocument,
    Collection,
    Conditions,
    ConditionTree,
    Diversity,
    FlagCommand,
    Limit,
    flags_of,
)
from sluice_cli.search.conditions import parse_filter
from sluice_client import (
    FLAGS,
    Answer,
    AsyncClient,
    Event,
    Features,
    Outcome,
    Passage,
    QueryVector,
    RelationKind,
    RelationStep,
    Result,
    SluiceError,
    StageReport,
    features,
    flag_values,
)

app = typer.Typer(rich_markup_mode=None)

PageToken = Annotated[str, typer.Option(metavar="TOKEN", help="Go on where the page before ended.")]
Explain = Annotated[
    bool, typer.Option("--explain", help="Show scores, reports of all stages, and experiments with their teams.")
]
SNIPPET_CHARACTERS = 240
OUTCOME_STYLES = {Outcome.RAN: "green", Outcome.SKIPPED: "dim", Outcome.DEGRADED: "yellow", Outcome.FAILED: "red"}


@app.command(cls=FlagCommand)
@command
async def search(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question; optional beside --vector.")] = "",
    limit: Limit = 10,
    collection: Collection = "",
    conditions: Conditions = None,
    tree: ConditionTree = "",
    collapse: Annotated[
        bool, typer.Option("--collapse", help="Let the best of several near-duplicates stand for them.")
    ] = False,
    by_document: ByDocument = False,
    diversity: Diversity = None,
    highlights: Annotated[bool, typer.Option("--highlights", help="Show the sentences that answer.")] = False,
    vector: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", exists=True, dir_okay=False, help="Vector of the question: float32 values, or .json."
        ),
    ] = None,
    vector_model: Annotated[
        str, typer.Option(metavar="NAME", help="Model that made the vector, by name or fingerprint.")
    ] = "",
    page_token: PageToken = "",
    user: Annotated[
        str, typer.Option("--user", metavar="ID", help="Ask as this user, who may be in a rollout or an experiment.")
    ] = "",
    click: Annotated[
        int, typer.Option(metavar="RANK", min=0, help="Record that this result was opened, to try feedback by hand.")
    ] = 0,
    explain: Explain = False,
    as_json: AsJson = False,
) -> int:
    """Ask a question; flags not given are left to the gateway.

    \b
    Examples:
      sluice search "parse command line options"
      sluice search "parse command line options" --rerank --explain
      sluice search "roll back" --expansion --expansion-strategy multi_query --limit 5
      sluice search "thread pool" --filter kind=class --filter 'year>=2020'
      sluice search "thread pool" --filter-json '{"any": ["kind=class", {"all": ["kind=method", "year>=2020"]}]}'
      sluice search "thread pool" --highlights --diversity 0.3
      sluice search --vector question.json --vector-model all-MiniLM-L6-v2
      sluice search "thread pool" --user ada --explain --click 2
      sluice search "thread pool" --json | jq -r '.results[].passage.id'

    \b
    Conditions:
      kind=class        equal          year>=2020, <=, >, <   within bounds
      lang=en,de        one of these   year=*                 has the field
      kind!=module      not equal      year!=*                lacks the field
    Values look like what they are: true and false, 2020, 0.5, text. Quotes make text of anything: 'zip="02139"'.

    \b
    Languages:
      The search by words serves every language and script (stems: `sluice collections create --language`), the
      search by vectors those of its model; the default models, also of reranking, know English alone.
    """
    if not question and vector is None:
        raise typer.BadParameter("is missing; a search without one needs --vector", param_hint="QUESTION")
    matching, asked = parse_filter(conditions, tree), features(**flags_of(context))
    async with connection_of(context).client() as client:
        answer = await client.search(
            question,
            limit=limit,
            collection=collection,
            filter=matching,
            features=asked,
            collapse_duplicates=collapse,
            group_by_document=by_document,
            diversity=diversity,
            highlights=highlights,
            vector=read_vector(vector, vector_model) if vector else None,
            page_token=page_token,
            user_id=user,
        )
        show(answer, explain=explain, as_json=as_json)
        return await _open(client, answer, click) if click else DONE


async def _open(client: AsyncClient, answer: Answer, rank: int) -> int:
    """Record that a result was opened. Raises Problem for one that the answer does not have."""
    found = next((result for result in answer.results if result.rank == rank), None)
    if found is None:
        raise Problem(f"the answer has no result {rank}", "give a rank that is shown", exit_code=WRONG_COMMAND_LINE)
    recorded = await client.record_events([Event.click(answer, found)])
    for refused in recorded.rejections:
        say_warning(f"the click is not recorded: {refused.detail or words(refused.reason)}")
        return NEEDS_A_LOOK
    stderr.print(Text(f"recorded: result {rank} was opened", style="dim"))
    return DONE


@app.command(cls=FlagCommand)
@command
async def similar(  # noqa: PLR0913, PLR0917  # as above
    context: typer.Context,
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="Collection of the document.")],
    document_id: Annotated[str, typer.Argument(metavar="ID", help="The document.")],
    question: Annotated[str, typer.Option("--query", metavar="TEXT", help="Ask this as well.")] = "",
    limit: Limit = 10,
    conditions: Conditions = None,
    tree: ConditionTree = "",
    by_document: ByDocument = False,
    diversity: Diversity = None,
    page_token: PageToken = "",
    explain: Explain = False,
    as_json: AsJson = False,
) -> int:
    """Find what is like a document, by its vectors and its words.

    Stages that read a question are left out without --query.

    \b
    Examples:
      sluice similar documents guide/rollback.md
      sluice similar papers 4983 --query "in mice" --by-document
    """
    async with connection_of(context).client() as client:
        answer = await client.search(
            question,
            like_document_id=document_id,
            collection=collection,
            limit=limit,
            filter=parse_filter(conditions, tree),
            features=features(**flags_of(context)),
            group_by_document=by_document,
            diversity=diversity,
            page_token=page_token,
        )
    show(answer, explain=explain, as_json=as_json)
    return DONE


def show(answer: Answer, *, explain: bool, as_json: bool) -> None:
    """Print an answer, and say what is missing from it."""
    if as_json:
        print_json(answer)
        return
    stdout.print(answer_view(answer, explain=explain))
    if not explain:
        _warn_of_failures(answer)
    if answer.next_page_token:
        stderr.print(Text(f"more: repeat with --page-token {answer.next_page_token}", style="dim"), soft_wrap=True)


def read_vector(file: Path, model: str) -> QueryVector:
    """Read a vector: little-endian float32, or a list of numbers as JSON. Raises Problem."""
    if not model:
        raise Problem("--vector lacks the name of its model", "add --vector-model NAME", exit_code=WRONG_COMMAND_LINE)
    try:
        if file.suffix != ".json":
            return QueryVector(file.read_bytes(), model)
        return QueryVector.of(json.loads(file.read_text(encoding="utf-8")), model)
    except (OSError, ValueError, TypeError, SluiceError):
        raise Problem(
            f"{plain(str(file))} cannot be read as a vector",
            "write a list of numbers as JSON into a file that ends with .json, or float32 values into another one",
            exit_code=WRONG_COMMAND_LINE,
        ) from None


def answer_view(answer: Answer, *, explain: bool) -> RenderableType:
    """Show an answer in words."""
    blocks: list[RenderableType] = [_result_view(result) for result in answer.results] or [Text("Nothing was found.")]
    if explain:
        if answer.results:
            blocks.append(_scores_table(answer.results))
            if any(result.path for result in answer.results):
                blocks.append(_paths_table(answer.results))
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
    """List the switches that are on, with their refinements: "dense, rerank (50)"."""
    values = flag_values(given)
    on = [name for name, value in values.items() if value is True]
    # A gateway of an earlier release leaves out the flags that it does not know.
    refined = {
        name: [str(values[flag.name]) for flag in FLAGS.values() if flag.refines == name and flag.name in values]
        for name in on
    }
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
    body = sentences_of(result) if result.highlights else Text(snippet(passage.text))
    lines += [line for line in (Text("  ".join(about), style="dim"), body) if line]
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right", width=4)
    grid.add_column(overflow="fold")
    grid.add_row(f"{result.rank}.", Group(*lines))
    return Padding(grid, (0, 0, 1, 0), expand=False)


def sentences_of(result: Result) -> Text:
    """Show the sentences that answer, marked, with an ellipsis for what is left out."""
    parts: list[tuple[str, str]] = []
    end = 0
    for place, sentence in zip(result.highlights, result.sentences, strict=True):
        if result.passage.text[end : place.start].strip():
            parts.append((" … " if parts else "… ", "dim"))
        elif parts:
            parts.append((" ", ""))
        parts.append((plain(sentence), "bold"))
        end = place.end
    if result.passage.text[end:].strip():
        parts.append((" …", "dim"))
    return Text.assemble(*parts)


def snippet(text: str) -> str:
    """Shorten a text to a few lines."""
    whole = plain(text)
    return whole if len(whole) <= SNIPPET_CHARACTERS else whole[:SNIPPET_CHARACTERS].rsplit(" ", 1)[0] + " …"


def _scores_table(results: Sequence[Result]) -> Table:
    closer: dict[str, list[float | None]] = {
        "late": [result.scores.late for result in results],
        "cross-encoder": [result.scores.rerank for result in results],
        "relevance": [result.scores.relevance for result in results],
    }
    looked = {name: scores for name, scores in closer.items() if any(score is not None for score in scores)}
    numbers = ("score", "first stage", *looked)
    teams = ["team"] if any(result.team for result in results) else []
    columns = ("rank", "change", "title", *teams, *numbers)
    shown = table(*columns, title="Scores", right=frozenset({"rank", *numbers}))
    for place, result in enumerate(results):
        scores = result.scores
        shown.add_row(
            str(result.rank),
            rank_change(scores.retrieval_rank, result.rank),
            name_of(result.passage),
            *([plain(result.team) or "-"] if teams else []),
            f"{result.score:.4f}",
            f"{scores.retrieval:.4f}",
            *("" if of_all[place] is None else f"{of_all[place]:.3f}" for of_all in looked.values()),
        )
    return shown


def _paths_table(results: Sequence[Result]) -> Table:
    """Show the ways by which relations brought results or moved them."""
    names = {result.passage.id: name_of(result.passage) for result in results}
    shown = table("rank", "title", "reached by", "weight", title="\nRelations", right=frozenset({"rank", "weight"}))
    for result in results:
        if result.path:
            ways = [_step_words(step, names) for step in result.path]
            shown.add_row(
                str(result.rank), name_of(result.passage), ", then ".join(ways), f"{result.path[-1].weight:.2f}"
            )
    return shown


def _step_words(step: RelationStep, names: Mapping[str, str]) -> str:
    bridge = names.get(step.passage_id) or plain(step.passage_id)
    key = plain(step.key)
    return {
        RelationKind.NAMED: f"the question names “{key}”",
        RelationKind.LINK: f"{bridge} mentions “{key}”",
        RelationKind.SHARED: f"{bridge} mentions “{key}”, as it does",
        RelationKind.REFERENCE: f"{bridge} links to it",
        RelationKind.NEIGHBOUR: f"it is next to {bridge}",
    }.get(step.kind, f"{bridge} “{key}”")


def _stages_table(reports: Sequence[StageReport]) -> Table:
    shown = table(
        "stage", "outcome", "ms", "items", "model", "reason", title="\nStages", right=frozenset({"ms", "items"})
    )
    for report in reports:
        shown.add_row(
            report.stage,
            Text(report.outcome, style=OUTCOME_STYLES.get(report.outcome, "")),
            milliseconds(report.duration),
            f"{report.item_count} ({report.truncated_count} cut)" if report.truncated_count else str(report.item_count),
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
    parts = [f"on: {on}", f"index: {origin}", f"request: {answer.request_id}"]
    if answer.experiments:
        named = (f"{one.experiment} ({one.arm or 'interleaved'})" for one in answer.experiments)
        parts.append(f"experiment: {', '.join(named)}")
    return Text("\n" + plain(" · ".join(parts)), style="dim")


def _warn_of_failures(answer: Answer) -> None:
    for report in answer.stages:
        if report.outcome in (Outcome.DEGRADED, Outcome.FAILED):
            say_warning(f"{report.stage} {report.outcome}: {reason_of(report)}")
