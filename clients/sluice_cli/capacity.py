"""Command lines of `sluice plan`, `sluice plan calibrate` and `sluice loadtest`."""

# ruff: noqa: PLC0415  # imports inside the commands keep --help quick

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

app = typer.Typer(rich_markup_mode=None)

Collection = Annotated[str, typer.Option(metavar="NAME", help="Collection; the gateway's default if not given.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


@app.command()
def loadtest(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    requests: Annotated[int, typer.Option(metavar="N", min=1, max=10_000_000, help="Requests in all.")] = 1000,
    concurrency: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Requests at once.")] = 100,
    users: Annotated[int, typer.Option(metavar="N", min=1, max=1_000_000, help="Users who ask.")] = 1000,
    skew: Annotated[
        float, typer.Option(metavar="S", min=0, max=3, help="Of users and questions: the r-th is r^S times rarer.")
    ] = 1.0,
    questions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A question a line, or a BEIR queries.jsonl.")
    ] = None,
    collection: Collection = "",
    rerank: Annotated[bool | None, typer.Option("--rerank/--no-rerank", help="For all requests.")] = None,
    expansion: Annotated[bool | None, typer.Option("--expansion/--no-expansion", help="For all requests.")] = None,
    multi_hop: Annotated[bool | None, typer.Option("--multi-hop/--no-multi-hop", help="For all requests.")] = None,
    max_error_rate: Annotated[
        str | None, typer.Option(metavar="PERCENT", help="Exit code 1 if more fail, as in 2%.")
    ] = None,
    max_p95_ms: Annotated[float | None, typer.Option(metavar="MS", help="Exit code 1 if P95 is above.")] = None,
    max_p99_ms: Annotated[float | None, typer.Option(metavar="MS", help="Exit code 1 if P99 is above.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed asks the same in the same order.")] = 0,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it, as .png or .svg.")] = None,
    as_json: AsJson = False,
) -> None:
    """Send the searches of many users at once: failures, percentiles, arms of rollouts.

    The acceptance load before and during a rollout. Some users and questions come much more often than others, by
    Zipf's law. Several gateways are asked in turn: --gateway ipv4:10.0.0.1:50051,10.0.0.2:50051.

    \b
    Examples:
      sluice loadtest
      sluice loadtest --max-error-rate 2% --max-p95-ms 3500 --max-p99-ms 5000
      sluice loadtest --requests 10000 --concurrency 50 --questions queries.jsonl --plot load.png
      sluice loadtest --json | jq '.arms.rerank.treatment.requests'
    """
    from sluice_cli import calls
    from sluice_cli import loadtest as command
    from sluice_client import Features

    options = command.Options(
        requests=requests,
        concurrency=concurrency,
        users=users,
        skew=skew,
        questions=questions,
        collection=collection,
        features=Features(rerank=rerank, expansion=expansion, multi_hop=multi_hop),
        seed=seed,
        plot=plot,
        max_error_rate=max_error_rate,
        max_p95_ms=max_p95_ms,
        max_p99_ms=max_p99_ms,
        as_json=as_json,
    )
    calls.run(context, command.loadtest, options)


planning = typer.Typer(no_args_is_help=True, invoke_without_command=True, rich_markup_mode=None)
app.add_typer(planning, name="plan")


@planning.callback()
def plan(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    qps: Annotated[float | None, typer.Option(metavar="N", min=0.001, help="Searches a second.")] = None,
    p99_ms: Annotated[
        float | None, typer.Option(metavar="MS", min=1, help="Time within which 99 of 100 searches are to be answered.")
    ] = None,
    features: Annotated[
        str,
        typer.Option(metavar="LIST", help="Features that are on: rerank and expansion, separated by commas, or none."),
    ] = "rerank,expansion",
    candidates: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=1000, help="Candidates to rerank; as measured if not given.")
    ] = None,
    max_use: Annotated[
        float, typer.Option(metavar="SHARE", min=0.05, max=0.95, help="Most of a stage's capacity to plan with.")
    ] = 0.75,
    shared_cores: Annotated[
        float | None,
        typer.Option(metavar="N", min=1, help="Predict one of each stage on one machine with N processors."),
    ] = None,
    measurements: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measurements of `sluice plan calibrate`; a sample if not given."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Plan the replicas of each stage for a load, the targets of autoscalers, and the cost of each feature.

    Searches are simulated from measured times, which `sluice plan calibrate` takes from a running stack;
    docs/capacity.md tells how, and how far it was right. The exit code is 1 if the target cannot be held.

    \b
    Examples:
      sluice plan --qps 2000 --p99-ms 150 --features rerank,expansion
      sluice plan --qps 200 --p99-ms 300 --candidates 20
      sluice plan --qps 500 --p99-ms 100 --features none --json | jq .cores
      sluice plan --qps 5 --shared-cores 2 --measurements mine.json
      sluice plan calibrate --output mine.json
    """
    if context.invoked_subcommand is not None:
        return
    from sluice_cli import calls

    if qps is None:
        raise typer.BadParameter("say how many searches a second there are, as --qps 2000", param_hint="--qps")
    try:
        from sluice_cli import plan as command
    except ModuleNotFoundError as error:
        _say_what_planning_needs(error)
    calls.run(
        context,
        command.plan,
        qps=qps,
        p99_ms=p99_ms,
        features=features,
        candidates=candidates,
        max_use=max_use,
        shared_cores=shared_cores,
        measurements=measurements,
        as_json=as_json,
    )


@planning.command()
def calibrate(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    output: Annotated[Path, typer.Option(metavar="FILE", help="File for the measurements.")] = Path(
        "measurements.json"
    ),
    metrics: Annotated[
        list[str] | None,
        typer.Option(metavar="STAGE=URL", help="Metrics of a stage, if not where `make up` serves them."),
    ] = None,
    collection: Collection = "",
    queries: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Questions, one a line; made of what is stored if not given.")
    ] = None,
    candidates: Annotated[int, typer.Option(metavar="N", min=2, max=500, help="Candidates to rerank.")] = 20,
    searches: Annotated[int, typer.Option(metavar="N", min=8, help="Searches with each set of features.")] = 200,
    batch_tokens: Annotated[
        int, typer.Option(metavar="N", min=0, help="BATCH_TOKENS of the model stages; 0 is their default.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure a running stack: one search at a time, with and without each feature, by the stages' own counters.

    Takes a few minutes. There has to be one replica of each stage, no one else asking, and documents like those to be
    served. The exit code is 1 if the machine was busy with other things.

    \b
    Examples:
      make up && sluice index docs/ && sluice plan calibrate --output mine.json
      sluice plan calibrate --queries asked.txt --candidates 50
      sluice --gateway localhost:50051 plan calibrate --metrics reranker=http://localhost:19105/metrics
    """
    from sluice_cli import calls

    try:
        from sluice_cli import plan as command
        from sluice_cli.calibrate import Wanted
        from sluice_cli.loadtest import read_questions
    except ModuleNotFoundError as error:
        _say_what_planning_needs(error)
    asked = read_questions(queries) if queries else []
    wanted = Wanted(collection, asked, candidates, searches, batch_tokens)
    calls.run(context, command.measure, output=output, metrics=metrics or [], wanted=wanted, as_json=as_json)


def _say_what_planning_needs(error: ModuleNotFoundError) -> NoReturn:
    from sluice_cli import calls

    calls.say_problem(f"planning needs {error.name}, which is not installed", "pip install 'sluice-retrieval[plan]'")
    raise typer.Exit(calls.NOT_DONE)
