"""Command lines of `sluice evaluate` and `sluice whatif`."""

# ruff: noqa: PLC0415  # imports inside the commands keep --help quick

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sluice_cli.options import AsJson, ByDocument

app = typer.Typer(rich_markup_mode=None)

CollectionToAsk = Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection to search.")]
Configurations = Annotated[
    list[str] | None,
    typer.Option(
        "--config",
        metavar="CONFIG",
        help="NAME=flag:value,flag:value, NAME=file.yaml, NAME=arm:EXPERIMENT/ARM, or NAME= for the gateway's own "
        "flags; a plan of an experiment gives all its arms. The others are compared with the first.",
    ),
]
Rollout = Annotated[
    str, typer.Option(metavar="ADDRESS", envvar="SLUICE_ROLLOUT", help="Rollout service, as host:port, for arm:.")
]
Show = Annotated[int, typer.Option(metavar="N", min=0, max=100, help="Questions that moved most, of either side.")]
Output = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the result, for `sluice experiment attach`.")]
Plot = Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it, as .png or .svg.")]
Relevant = Annotated[
    int, typer.Option(metavar="GRADE", min=1, help="Least grade that recall and reciprocal rank take for relevant.")
]
ROLLOUT = "127.0.0.1:50057"


@app.command()
def evaluate(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    collection: CollectionToAsk,
    judgments: Annotated[Path, typer.Option(metavar="FILE", help="Judgments: TREC's qrels, BEIR's table, JSON lines.")],
    configurations: Configurations = None,
    queries: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Texts of queries; queries.jsonl beside the judgments if not given."),
    ] = None,
    second: Annotated[
        Path | None,
        typer.Option("--second-judgments", metavar="FILE", help="Say whether this list orders configurations alike."),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Ask the first N queries only.")] = None,
    relevant: Relevant = 1,
    concurrency: Annotated[int, typer.Option(metavar="N", min=1, max=16, help="Questions at once.")] = 1,
    show: Show = 5,
    by_document: ByDocument = False,
    rollout: Rollout = ROLLOUT,
    output: Output = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Compare configurations by judgments: quality with intervals, wins and losses, time.

    Asks the running gateway every question with every configuration. nDCG@10, reciprocal rank and recall are
    trec_eval's; intervals are those of a paired bootstrap over questions. The exit code is 1 if a search failed.

    \b
    Examples:
      sluice evaluate papers --judgments scifact/qrels.tsv --config dense=lexical:false --config hybrid=
      sluice evaluate papers --judgments j.jsonl --config base= --config late=rerank:true,rerank_method:late --show 10
      sluice evaluate papers --judgments j.jsonl --config plan.yaml --output offline.json --plot offline.png
      sluice evaluate papers --judgments j.jsonl --config base= --config new=arm:ranking/late --json | jq .summary
    """
    from sluice_cli import calls
    from sluice_cli.evaluation import evaluate as command

    options = command.Options(
        collection=collection,
        judgments=judgments,
        queries=queries,
        second_judgments=second,
        configurations=configurations or [],
        rollout=rollout,
        limit=limit,
        relevant=relevant,
        concurrency=concurrency,
        show=show,
        by_document=by_document,
        output=output,
        plot=plot,
        as_json=as_json,
    )
    calls.run(context, command.evaluate, options)


@app.command()
def whatif(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    collection: CollectionToAsk,
    sample: Annotated[Path, typer.Option(metavar="FILE", help="Questions of `sluice feedback sample`, or BEIR's.")],
    configurations: Configurations = None,
    judgments: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Judgments, for the questions that have them.")
    ] = None,
    relevant: Relevant = 1,
    rate: Annotated[float, typer.Option(metavar="N", min=0.01, max=1000, help="Most requests a second.")] = 2.0,
    concurrency: Annotated[int, typer.Option(metavar="N", min=1, max=2, help="Questions at once.")] = 1,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Ask the first N questions only.")] = None,
    show: Show = 5,
    by_document: ByDocument = False,
    rollout: Rollout = ROLLOUT,
    output: Output = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Ask recorded questions again with other configurations: what would change, before a user sees it.

    Runs on spare capacity: never faster than --rate, half as fast whenever the gateway has no room or takes twice as
    long, and not at all where that is not enough. Ctrl-C ends it with the figures so far. It names no user, and counts
    for no rollout and no experiment.

    \b
    Examples:
      sluice feedback sample --limit 200 --output sample.jsonl
      sluice whatif papers --sample sample.jsonl --config base= --config late=rerank:true,rerank_method:late
      sluice whatif papers --sample sample.jsonl --config plan.yaml --rate 5 --output replay.json --plot replay.png
    """
    from sluice_cli import calls
    from sluice_cli.evaluation import whatif as command

    options = command.Options(
        collection=collection,
        sample=sample,
        configurations=configurations or [],
        judgments=judgments,
        relevant=relevant,
        rollout=rollout,
        rate=rate,
        concurrency=concurrency,
        limit=limit,
        show=show,
        by_document=by_document,
        output=output,
        plot=plot,
        as_json=as_json,
    )
    calls.run(context, command.whatif, options)
