"""`sluice enrich`: gives the passages of a collection the keys of their relations."""

from __future__ import annotations

from typing import Annotated

import typer

from sluice_cli.calls import DONE, command, connection_of, plain, print_json, stdout, table
from sluice_cli.options import AsJson, Collection, CollectionArgument, one_of
from sluice_cli.progress import counted
from sluice_client import Enriched, EnrichmentProgress, EnrichmentReport, KeyConcern

app = typer.Typer(rich_markup_mode=None)

_CONCERNS = {
    KeyConcern.COMMON: "very many passages mention it",
    KeyConcern.LONG: "very long",
    KeyConcern.TITLE: "title of too many documents",
}


@app.command("enrich")
@command
async def enrich(
    context: typer.Context,
    name: CollectionArgument = "",
    collection: Collection = "",
    report: Annotated[bool, typer.Option("--report", help="Tell what the keys are like; reads all passages.")] = False,
    as_json: AsJson = False,
) -> int:
    """Give passages the keys of their relations, which hops need.

    New collections have keys from the beginning (RELATIONS). One of an earlier release is given them in place, while it
    is searched and written. What is broken off goes on where it was.

    \b
    Examples:
      sluice enrich
      sluice enrich papers
      sluice enrich papers --report     and tell which relations there are
      sluice enrich papers-v2           a version that is not live
    """
    collection = one_of(name, collection)
    async with connection_of(context).client() as client:
        with counted() as progress:
            bar = progress.add_task("enriching", total=0)

            def show(step: EnrichmentProgress) -> None:
                progress.update(bar, total=step.total_count, completed=step.done_count)

            done = await client.enrich(collection, report=report, on_progress=show)
    if as_json:
        print_json(done)
    else:
        _show(done)
    return DONE


def _show(done: Enriched) -> None:
    changed = done.progress.changed_count
    given = f"{changed:,} passages were given keys" if changed else "all passages had their keys"
    stdout.print(f"{plain(done.version)}: {given}, of {done.progress.total_count:,}")
    if done.report is not None:
        _show_report(done.report)


def _show_report(report: EnrichmentReport) -> None:
    facts = table()
    facts.add_row("keys of a passage", f"{report.keys_per_passage:.1f} in the mean")
    facts.add_row("without a name", f"{report.nameless_count:,} of {report.passage_count:,} passages")
    facts.add_row("with too many names", f"{report.capped_count:,} passages")
    facts.add_row("mentions that lead to a title", f"{report.leading_share:.0%}")
    facts.add_row(
        "names too frequent to lead on",
        f"{report.frequent_key_count:,}, each of more than {report.most_holders} passages; "
        f"{report.frequent_share:.0%} of the mentions",
    )
    stdout.print(facts)
    if report.frequent_keys:
        frequent = table("most frequent", "passages", "titles", right=frozenset({"passages", "titles"}))
        for one in report.frequent_keys[:10]:
            frequent.add_row(one.key, f"{one.mention_count:,}", f"{one.title_count:,}")
        stdout.print(frequent)
    if report.suspicious_keys:
        suspicious = table("suspicious", "passages", "titles", "reason", right=frozenset({"passages", "titles"}))
        for one in report.suspicious_keys:
            reason = _CONCERNS.get(one.concern, "") if one.concern else ""
            suspicious.add_row(one.key, f"{one.mention_count:,}", f"{one.title_count:,}", reason)
        stdout.print(suspicious)
