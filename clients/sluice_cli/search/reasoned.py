"""`sluice answer`: an answer in words, with its sources as footnotes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from sluice_cli.calls import (
    DONE,
    WRONG_COMMAND_LINE,
    Problem,
    command,
    connection_of,
    milliseconds,
    plain,
    print_json,
    say_warning,
    shown,
    stdout,
    table,
)
from sluice_cli.options import AsJson, Collection, Conditions, ConditionTree, FlagCommand, Limit, flags_of
from sluice_cli.search.answer import OUTCOME_STYLES, name_of, reason_of, snippet
from sluice_cli.search.conditions import parse_filter
from sluice_client import (
    FLAGS,
    AnswerOptions,
    AnswerReply,
    AsyncClient,
    Bounds,
    Citation,
    Outcome,
    WrittenAnswer,
    features,
)

app = typer.Typer(rich_markup_mode=None)


@app.command(cls=FlagCommand)
@command
async def answer(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question.")],
    passages: Annotated[int, typer.Option(metavar="N", help="Results that are read, 1 to 20.")] = 6,
    limit: Limit = 10,
    collection: Collection = "",
    conditions: Conditions = None,
    tree: ConditionTree = "",
    schema: Annotated[
        Path | None,
        typer.Option(metavar="FILE", exists=True, dir_okay=False, help="JSON schema of the answer, for extraction."),
    ] = None,
    seconds: Annotated[float | None, typer.Option(metavar="SECONDS", help="Most time of the model.")] = None,
    tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Most tokens that the model reads and writes.")
    ] = None,
    cost: Annotated[float | None, typer.Option(metavar="COST", help="Highest cost, as the reasoner counts it.")] = None,
    sub_questions: Annotated[
        int, typer.Option(metavar="N", help="Questions of the model that are searched as well, 0 to 2.")
    ] = 0,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", help="Show two answers: one with a flag off, one with it on.")
    ] = False,
    with_: Annotated[
        str, typer.Option("--with", metavar="FLAG", help="The flag of --side-by-side, as multi_hop.")
    ] = "reasoning",
    explain: Annotated[bool, typer.Option("--explain", help="Show reports of all stages, times and tokens.")] = False,
    as_json: AsJson = False,
) -> int:
    """Answer a question in words, with sources.

    With --reasoning a language model writes the answer, where one is configured; otherwise it is made of sentences of
    the best passages. Quotes are checked: each stands in its source. On a terminal, text appears as it is written.

    \b
    Examples:
      sluice answer "how is a feature rolled back?"
      sluice answer "how is a feature rolled back?" --reasoning --seconds 20
      sluice answer "who may kill a feature?" --multi-hop --passages 10 --explain
      sluice answer "which ports are used?" --reasoning --schema ports.json --json | jq -r .answer.text
      sluice answer "how is a feature rolled back?" --side-by-side
      sluice answer "who may kill a feature?" --side-by-side --with multi_hop
    """
    options: AnswerOptions = {
        "passage_count": passages,
        "limit": limit,
        "collection": collection,
        "filter": parse_filter(conditions, tree),
        "answer_schema": _schema(schema),
        "bounds": Bounds(timedelta(seconds=seconds) if seconds is not None else None, tokens, cost),
        "sub_question_count": sub_questions,
    }
    flags = flags_of(context)
    connection = connection_of(context)
    async with connection.client() as client:
        if side_by_side:
            return await _compare(client, question, options, flags, with_, connection.timeout, as_json=as_json)
        options["features"] = features(**flags)
        streamed = ""
        if as_json or not stdout.is_terminal:
            reply = await client.answer(question, timeout=connection.timeout, **options)
        else:
            reply, streamed = await _streamed(client, question, options, connection.timeout)
    if as_json:
        print_json(reply)
        return DONE
    if streamed.strip() != reply.answer.text.strip():
        if streamed:
            stdout.print(Text("What was written so far is not the answer; it is:\n", style="yellow"))
        stdout.print(_text(reply))
    stdout.print(_sources(reply))
    if explain:
        stdout.print(_course(reply))
    _warn(reply, explain=explain)
    return DONE


async def _streamed(
    client: AsyncClient, question: str, options: AnswerOptions, timeout: float | None
) -> tuple[AnswerReply, str]:
    """Print the text as it is written; return the reply and what was printed."""
    written = ""
    events: Any = client.stream_answer(question, timeout=timeout, **options)
    async with aclosing(events):
        async for event in events:
            if isinstance(event, AnswerReply):
                if written:
                    stdout.print()
                return event, written
            if isinstance(event, str):
                written += event
                stdout.print(Text(shown(event)), end="", soft_wrap=True)
    raise Problem("the gateway ended the answer in the middle", "ask again")


async def _compare(
    client: AsyncClient,
    question: str,
    options: AnswerOptions,
    flags: Mapping[str, Any],
    name: str,
    timeout: float | None,
    *,
    as_json: bool,
) -> int:
    name = name.replace("-", "_")
    if name not in FLAGS or FLAGS[name].kind is not bool:
        switches = ", ".join(flag.name for flag in FLAGS.values() if flag.kind is bool)
        raise Problem(f"{name!r} is no switch", f"use one of {switches}", exit_code=WRONG_COMMAND_LINE)
    replies = []
    for value in (False, True):  # one after the other, so that neither slows the other down
        options["features"] = features(**{**flags, name: value})
        replies.append(await client.answer(question, timeout=timeout, **options))
    without, with_it = replies
    if as_json:
        print_json({"flag": name, "without": without, "with": with_it})
    else:
        stdout.print(comparison_view(name, without, with_it))
    return DONE


def comparison_view(name: str, without: AnswerReply, with_it: AnswerReply) -> RenderableType:
    """Show two answers next to each other."""
    view = table("")
    view.add_column(f"without {name}", overflow="fold", ratio=1)
    view.add_column(f"with {name}", overflow="fold", ratio=1)
    both = without, with_it
    view.add_row(Text("answer", style="dim"), *(_text(reply) for reply in both))
    view.add_row(Text("sources", style="dim"), *(_sources(reply) for reply in both))
    view.add_row(Text("made by", style="dim"), *(Text(_origin(reply.answer)) for reply in both))
    view.add_row(Text("confidence", style="dim"), *(Text(f"{reply.answer.confidence:.2f}") for reply in both))
    view.add_row(
        Text("ms", style="dim"),
        *(Text(f"{milliseconds(one.retrieval_time)} + {milliseconds(one.generation_time)}") for one in both),
    )
    return view


def answer_view(reply: AnswerReply) -> RenderableType:
    """Show an answer and its sources."""
    return Group(_text(reply), _sources(reply))


def _text(reply: AnswerReply) -> Text:
    written = reply.answer
    if written.text:
        return Text(shown(written.text))
    if written.method is None and reply.search.results:
        return Text("There is no answer.", style="yellow")
    return Text("The sources do not answer this.", style="yellow")


def _sources(reply: AnswerReply) -> Text:
    lines = [
        Text(f"\n[{number}] ", style="cyan") + _source(reply, one)
        for number, one in enumerate(reply.answer.citations, 1)
    ]
    return Text("\n").join(lines) if lines else Text()


def _source(reply: AnswerReply, citation: Citation) -> Text:
    found = next((one for one in reply.search.results if one.passage.id == citation.passage_id), None)
    name = name_of(found.passage) if found else plain(citation.passage_id)
    about = f" ({plain(citation.passage_id)}, result {citation.result_rank})"
    return Text.assemble((name, "bold"), (about, "dim"), f": “{snippet(citation.quote)}”")


def _origin(written: WrittenAnswer) -> str:
    if written.method is None:
        return "nothing"
    parts = [written.method.value, plain(written.model)]
    used = written.prompt_token_count + written.completion_token_count
    if used:
        parts.append(f"{written.prompt_token_count} + {written.completion_token_count} tokens")
    if written.cost:
        parts.append(f"cost {written.cost:.4g}")
    return ", ".join(part for part in parts if part)


def _course(reply: AnswerReply) -> RenderableType:
    stages = table("stage", "outcome", "ms", "reason", title="\nStages", right=frozenset({"ms"}))
    for report in reply.search.stages:
        outcome = Text(report.outcome, style=OUTCOME_STYLES.get(report.outcome, ""))
        stages.add_row(report.stage, outcome, milliseconds(report.duration), reason_of(report))
    written = reply.answer
    times = [
        f"{name} {milliseconds(taken)} ms"
        for name, taken in (
            ("retrieval", reply.retrieval_time),
            ("generation", reply.generation_time),
            ("total", reply.total_time),
        )
    ]
    about = [f"made by {_origin(written)}", f"confidence {written.confidence:.2f}", *times]
    if written.sub_questions:
        about.append("also searched: " + "; ".join(map(plain, written.sub_questions)))
    about.append(f"request {plain(reply.search.request_id)}")
    return Group(stages, Text("\n" + " · ".join(about), style="dim"))


def _warn(reply: AnswerReply, *, explain: bool) -> None:
    written = reply.answer
    if written.text and written.in_sources and not written.supported:
        say_warning("the answer is unsupported: no quote of it stands in a source")
    if written.dropped_citation_count:
        say_warning(f"{written.dropped_citation_count} citation(s) dropped: the words do not stand in the source")
    if not explain:
        for report in reply.search.stages:
            if report.outcome in (Outcome.DEGRADED, Outcome.FAILED):
                say_warning(f"{report.stage} {report.outcome}: {reason_of(report)}")


def _schema(file: Path | None) -> Mapping[str, Any] | None:
    if file is None:
        return None
    try:
        schema = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        schema = None
    if not isinstance(schema, dict):
        raise Problem(
            f"{plain(str(file))} cannot be read as a JSON schema",
            'write one as {"type": "object", "properties": {...}}',
            exit_code=WRONG_COMMAND_LINE,
        )
    return schema
