"""`sluice feedback export`: what people did with answers, in the format of User Behavior Insights."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from sluice_cli.calls import (
    DONE,
    WRONG_COMMAND_LINE,
    Problem,
    command,
    connection_of,
    plain,
    print_json,
    stderr,
    stdout,
)
from sluice_cli.feedback.files import EVENTS, QUERIES, Bulk, Export, JsonLines, Parquet
from sluice_cli.feedback.ubi import events_of, query_of
from sluice_cli.options import AsJson
from sluice_cli.rollout.app import SERVICE, Service

app = typer.Typer(rich_markup_mode=None)
feedback = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(feedback, name="feedback")

_TOLD_EVERY = 1000


@feedback.callback()
def connection(context: typer.Context, service: Service = SERVICE) -> None:
    """Read back what people did with answers: clicks, citations, ratings and labels.

    They are recorded by callers (docs/experiments.md), and kept by the rollout service for a while.

    \b
    Examples:
      sluice feedback export ubi/                            two files of JSON lines
      sluice feedback export ubi/ --parquet --from 2026-11-01
      sluice feedback sample --output sample.jsonl           questions for `sluice whatif`
    """
    context.obj = (*context.obj, service)


@feedback.command()
@command
async def export(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Folder to write to; - for standard output, in bulk format.")
    ],
    since: Annotated[str, typer.Option("--from", metavar="DAY", help="From this day on (UTC), as in 2026-11-01.")] = "",
    until: Annotated[str, typer.Option("--to", metavar="DAY", help="Up to this day, without it.")] = "",
    experiment: Annotated[str, typer.Option(metavar="NAME", help="Only answers of this experiment.")] = "",
    collection: Annotated[str, typer.Option(metavar="NAME", help="Only answers from this collection.")] = "",
    parquet: Annotated[bool, typer.Option("--parquet", help="Write Parquet in place of JSON lines.")] = False,
    impressions: Annotated[
        bool, typer.Option("--impressions", help="Write an event for each result that was shown, too.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Write answers and events as documents of User Behavior Insights 1.3.

    ubi_queries has one document an answer, ubi_events one an event, as in OpenSearch's indexes of these names. Ids of
    users, clients and visits are keyed hashes; texts of queries are there only where the gateways keep them. Standard
    output is OpenSearch's bulk format; loading it twice does no harm.

    \b
    Examples:
      sluice feedback export ubi/ --from 2026-11-01 --to 2026-12-01
      sluice feedback export ubi/ --parquet --experiment closer-look
      sluice feedback export - --impressions > ubi.bulk
    """
    start, end = _day(since, "--from"), _day(until, "--to")
    answers = events = 0
    with stderr.status("0 answers") as told, _export(folder, parquet=parquet) as out:
        async with connection_of(context).experiment_client() as client:
            found = client.feedback(start_time=start, end_time=end, experiment=experiment, collection=collection)
            async for answer in found:
                query = query_of(answer)
                # Pages whose caller gave them the same id are documents of their own.
                page = answer.served.impression.first_position
                out.add(QUERIES, f"{query['query_id']}.{page}", query)
                answers += 1
                for event in events_of(answer, impressions=impressions):
                    out.add(EVENTS, event["event_attributes"]["event_id"], event)
                    events += 1
                if answers % _TOLD_EVERY == 0:
                    told.update(f"{answers:,} answers, {events:,} events")
    paths = [str(path) for path in getattr(out, "paths", {}).values()]
    if folder == "-":
        stderr.print(f"{answers:,} answers, {events:,} events")
    elif as_json:
        print_json({"answers": answers, "events": events, "files": paths})
    else:
        stdout.print(f"{answers:,} answers, {events:,} events written to {' and '.join(map(plain, paths))}")
    return DONE


def _export(folder: str, *, parquet: bool) -> Export:
    if folder == "-":
        if parquet:
            raise typer.BadParameter("Parquet goes to a folder, not to standard output", param_hint="--parquet")
        return Bulk(sys.stdout)
    try:
        return Parquet(Path(folder)) if parquet else JsonLines(Path(folder))
    except ModuleNotFoundError as missing:
        problem = f"Parquet needs {missing.name}, which is not installed"
        raise Problem(problem, "pip install 'sluice-retrieval[parquet]', or leave out --parquet") from None
    except OSError as error:
        what = f"{plain(folder)} cannot be written to: {error.strerror or error}"
        raise Problem(what, "name another folder", exit_code=WRONG_COMMAND_LINE) from None


def _day(given: str, option: str) -> datetime | None:
    if not given:
        return None
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise typer.BadParameter(f"is a day, as 2026-11-01, not {given[:40]!r}", param_hint=option) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
