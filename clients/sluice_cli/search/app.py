"""Command lines of `sluice search` and `sluice compare`."""

# ruff: noqa: PLC0415  # imports inside the commands keep --help quick

from __future__ import annotations

from typing import Annotated

import typer

from sluice_cli.options import AsJson, ByDocument, Collection, Conditions, FlagCommand, Limit, flags_of

app = typer.Typer(rich_markup_mode=None)


@app.command(cls=FlagCommand)
def search(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question.")],
    limit: Limit = 10,
    collection: Collection = "",
    conditions: Conditions = None,
    collapse: Annotated[
        bool, typer.Option("--collapse", help="Let the best of several near-duplicates stand for them.")
    ] = False,
    by_document: ByDocument = False,
    page_token: Annotated[str, typer.Option(metavar="TOKEN", help="Go on where the page before ended.")] = "",
    explain: Annotated[bool, typer.Option("--explain", help="Show scores and reports of all stages.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a question. A flag that is not given is left to the gateway.

    \b
    Examples:
      sluice search "parse command line options"
      sluice search "parse command line options" --rerank --explain
      sluice search "roll back" --expansion --expansion-strategy multi_query --limit 5
      sluice search "thread pool" --filter kind=class --filter 'year>=2020'
      sluice search "thread pool" --json | jq -r '.results[].passage.id'

    \b
    Conditions:
      kind=class        equal          year>=2020, <=, >, <   within bounds
      lang=en,de        one of these   year=*                 has the field
      kind!=module      not equal      year!=*                lacks the field
    Values look like what they are: true and false, 2020, 0.5, text. Quotes make text of anything: 'zip="02139"'.
    """
    from sluice_cli import calls
    from sluice_cli.search import answer

    calls.run(
        context,
        answer.search,
        question,
        flags=flags_of(context),
        conditions=conditions or [],
        page_token=page_token,
        explain=explain,
        as_json=as_json,
        limit=limit,
        collection=collection,
        collapse_duplicates=collapse,
        group_by_document=by_document,
    )


@app.command(cls=FlagCommand)
def compare(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question.")],
    feature: Annotated[
        str, typer.Option(metavar="NAME", help="Use the flags of this feature of the rollout instead.")
    ] = "",
    limit: Limit = 10,
    collection: Collection = "",
    conditions: Conditions = None,
    by_document: ByDocument = False,
    persistence: Annotated[
        float | None, typer.Option(metavar="P", help="Of the rank-biased overlap, above 0 and below 1; else 0.9.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show two answers to a question side by side: as now (standard), and with more switched on (enhanced).

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
    from sluice_cli import calls
    from sluice_cli.search import compare as command

    calls.run(
        context,
        command.compare,
        question,
        flags=flags_of(context),
        feature=feature,
        limit=limit,
        collection=collection,
        conditions=conditions or [],
        by_document=by_document,
        persistence=persistence,
        as_json=as_json,
    )
