"""`sluice judgments`: lists of judgments, from people, from clicks and from a language model."""

# ruff: noqa: PLC0415  # imports inside the commands keep --help quick

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sluice_cli.evaluation.commands import ROLLOUT, Configurations, Rollout
from sluice_cli.options import AsJson, ByDocument

app = typer.Typer(rich_markup_mode=None)
judgments = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(judgments, name="judgments")

Lists = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Lists: TREC's qrels, BEIR's table, JSON lines.")]
Output = Annotated[Path, typer.Option(metavar="FILE", help="File to write.")]
Queries = Annotated[Path | None, typer.Option(metavar="FILE", help="Texts of queries, as BEIR's queries.jsonl.")]


@judgments.callback()
def group() -> None:
    """Read, write, make and compare lists of judgments: how well documents answer queries.

    \b
    Examples:
      sluice judgments import qrels.txt --queries queries.jsonl --output judgments.jsonl
      sluice judgments from-clicks ubi/ --output clicked.jsonl
      sluice judgments ask-llm papers --judgments qrels.tsv --llm-url http://localhost:8090 --model m --output llm.jsonl
      sluice judgments agreement qrels.tsv llm.jsonl
    """


@judgments.command("import")
def import_(
    context: typer.Context,
    lists: Lists,
    output: Output,
    queries: Queries = None,
    merge: Annotated[
        Literal["first", "highest", "mean"],
        typer.Option(help="Grade of a document that several lists judge; first: that of the list named first."),
    ] = "first",
    as_json: AsJson = False,
) -> None:
    """Read lists in any form, and write them as one, as JSON lines.

    \b
    Examples:
      sluice judgments import scifact/qrels.tsv --output judgments.jsonl
      sluice judgments import people.jsonl llm.jsonl --merge first --output all.jsonl
    """
    from sluice_cli import calls
    from sluice_cli.evaluation import lists as command

    calls.run(context, command.import_lists, lists, output=output, queries=queries, merge=merge, as_json=as_json)


@judgments.command()
def export(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A list in any form.")],
    output: Output,
    form: Annotated[
        Literal["trec", "beir", "jsonl"], typer.Option("--format", help="TREC's qrels, BEIR's table, or JSON lines.")
    ] = "trec",
) -> None:
    """Write a list in a form that other programs read.

    \b
    Examples:
      sluice judgments export judgments.jsonl --output qrels.txt
      sluice judgments export judgments.jsonl --format beir --output qrels.tsv
    """
    from sluice_cli import calls
    from sluice_cli.evaluation import lists as command

    calls.run(context, command.export_list, source, output=output, form=form)


@judgments.command("from-clicks")
def from_clicks(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    output: Output,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE...]", help="Files of `sluice feedback export`, or its folder; else asks the service."
        ),
    ] = None,
    model: Annotated[
        Literal["pbm", "coec"],
        typer.Option(help="pbm: position-based click model; coec: clicks over expected clicks."),
    ] = "pbm",
    least_impressions: Annotated[
        int, typer.Option("--min-impressions", metavar="N", min=1, help="Leave out what was shown less often.")
    ] = 10,
    collection: Annotated[str, typer.Option(metavar="NAME", help="Only answers from this collection.")] = "",
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Count answers to nobody; evaluations and replays are such, too.")
    ] = False,
    rollout: Rollout = ROLLOUT,
    as_json: AsJson = False,
) -> None:
    """Make judgments of clicks. A grade is the probability of a click in the first place, in percent.

    Needs the texts of queries, or their hashes: FEEDBACK_QUERIES=clear or hashed at the gateway; only with clear they
    can be asked again. Both models correct for positions, as far as documents were shown at several of them.

    \b
    Examples:
      sluice judgments from-clicks --collection papers --output clicked.jsonl
      sluice judgments from-clicks ubi/ --model coec --min-impressions 50 --output clicked.jsonl
    """
    from sluice_cli import calls
    from sluice_cli.evaluation import lists as command

    calls.run(
        context,
        command.from_clicks,
        command.Source(files or [], collection, anonymous),
        rollout=rollout,
        output=output,
        model=model,
        least_impressions=least_impressions,
        as_json=as_json,
    )


@judgments.command("ask-llm")
def ask_llm(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection that has the passages.")],
    output: Output,
    model: Annotated[str, typer.Option(metavar="NAME", help="The model's name at the server.")],
    llm_url: Annotated[
        str, typer.Option(metavar="URL", help="OpenAI-compatible server; SLUICE_JUDGE_KEY has its key.")
    ],
    judgments: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Judge these documents again, and say how far it agrees.")
    ] = None,
    queries: Queries = None,
    configurations: Configurations = None,
    depth: Annotated[int, typer.Option(metavar="N", min=1, max=10, help="Results of each configuration.")] = 10,
    method: Annotated[
        Literal["pointwise", "pairwise"],
        typer.Option(help="Grades of 0 to 3, or which of two passages is better, asked in both orders."),
    ] = "pointwise",
    sample: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Judge so many passages, or pairs, drawn at random.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed draws the same.")] = 0,
    most_tokens: Annotated[
        int, typer.Option("--max-tokens", metavar="N", min=1, help="Stop before more tokens are read and written.")
    ] = 1_000_000,
    passage_tokens: Annotated[
        int, typer.Option(metavar="N", min=16, help="Most tokens of a passage that are shown.")
    ] = 400,
    concurrency: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="Questions to the model at once.")] = 1,
    by_document: ByDocument = False,
    rollout: Rollout = ROLLOUT,
    as_json: AsJson = False,
) -> None:
    """Let a language model judge, within a budget, and compare it with people where they judged.

    With --queries, the first results of each --config are judged; with --judgments, the documents of that list.
    Verdicts are kept beside the output, in FILE.verdicts: the same command goes on where it stopped. The exit code is 1
    if the budget was spent, or replies were no verdicts.

    \b
    Examples:
      sluice judgments ask-llm papers --queries queries.jsonl --config base= --config late=rerank:true \\
        --llm-url http://localhost:8090 --model smollm2-135m --output llm.jsonl
      sluice judgments ask-llm papers --judgments qrels.tsv --method pairwise --sample 100 --max-tokens 200000 \\
        --llm-url http://localhost:8090 --model smollm2-135m --output llm.jsonl
    """
    from sluice_cli import calls
    from sluice_cli.evaluation import ask_llm as command

    if (judgments is None) == (queries is None):
        raise typer.BadParameter("give one of --queries and --judgments", param_hint="--queries")
    options = command.Options(
        collection=collection,
        output=output,
        model=model,
        url=llm_url,
        judgments=judgments,
        queries=queries,
        configurations=configurations or ["standard="],
        depth=depth,
        method=method,
        sample=sample,
        seed=seed,
        most_tokens=most_tokens,
        passage_tokens=passage_tokens,
        concurrency=concurrency,
        by_document=by_document,
        rollout=rollout,
        as_json=as_json,
    )
    calls.run(context, command.ask_llm, options)


@judgments.command()
def agreement(
    context: typer.Context,
    one: Annotated[Path, typer.Argument(metavar="FILE", help="A list, as that of people.")],
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="The list to compare with it.")],
    relevant: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="GRADE GRADE", help="Compare as relevant or not, from these grades on in either list."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say how far two lists agree: equal grades, Cohen's kappa, and pairs of documents in the same order.

    \b
    Examples:
      sluice judgments agreement people.jsonl llm.jsonl
      sluice judgments agreement qrels.tsv llm.jsonl --relevant 1 2
    """
    from sluice_cli import calls
    from sluice_cli.evaluation import lists as command

    calls.run(context, command.compare_lists, one, other, relevant=relevant, as_json=as_json)
