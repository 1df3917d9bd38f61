"""`sluice enrich`: gives the passages of a collection the keys of their relations."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer

from sluice_cli.calls import (
    DONE,
    NEEDS_A_LOOK,
    command,
    connection_of,
    plain,
    print_json,
    say_warning,
    stdout,
    table,
)
from sluice_cli.collections.extraction import Extraction, extract
from sluice_cli.indexing.extractors import open_extractor
from sluice_cli.options import (
    AsJson,
    Collection,
    CollectionArgument,
    ExtractorBudget,
    ExtractorName,
    ExtractorPrices,
    ExtractorUrl,
    one_of,
)
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
async def enrich(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    name: CollectionArgument = "",
    collection: Collection = "",
    report: Annotated[bool, typer.Option("--report", help="Tell what the keys are like; reads all passages.")] = False,
    extractor: ExtractorName = "",
    extractor_url: ExtractorUrl = "",
    extractor_budget: ExtractorBudget = None,
    extractor_prices: ExtractorPrices = "",
    after: Annotated[str, typer.Option(metavar="ID", help="Go on with an extractor after this document.")] = "",
    as_json: AsJson = False,
) -> int:
    """Give passages the keys of their relations, which hops need.

    New collections have keys from the beginning (RELATIONS). One of an earlier release is given them in place, while it
    is searched and written. What is broken off goes on where it was.

    With an extractor, the names that it finds are added to what documents say of their relations; nothing is embedded.
    When its budget is spent it stops, and says after which document to go on.

    \b
    Examples:
      sluice enrich
      sluice enrich papers
      sluice enrich papers --report     and tell which relations there are
      sluice enrich papers-v2           a version that is not live
      sluice enrich papers --extractor spacy:en_core_web_sm
      sluice enrich --extractor llm:llama3 --extractor-url http://127.0.0.1:11434 --extractor-budget 200000
    """
    collection = one_of(name, collection)
    opening = partial(open_extractor, extractor, url=extractor_url, budget=extractor_budget, prices=extractor_prices)
    finder = await asyncio.to_thread(opening) if extractor else None
    extracted = None
    async with connection_of(context).client() as client:
        if finder is not None:
            extracted = await extract(client, finder, collection, after)
        with counted() as progress:
            bar = progress.add_task("enriching", total=0)

            def show(step: EnrichmentProgress) -> None:
                progress.update(bar, total=step.total_count, completed=step.done_count)

            done = await client.enrich(collection, report=report, on_progress=show)
    if as_json:
        print_json({**asdict(done), "extracted": extracted and asdict(extracted)})
    else:
        _show(done, extracted)
    return NEEDS_A_LOOK if extracted and extracted.stopped_after else DONE


def _show(done: Enriched, extracted: Extraction | None) -> None:
    if extracted is not None:
        stdout.print(f"{extracted.documents:,} documents read, {extracted.related:,} of them with new names")
        if extracted.said:
            stdout.print(plain(extracted.said))
        if extracted.stopped_after:
            say_warning(f"{extracted.reason}; the same command goes on with --after {extracted.stopped_after}")
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
