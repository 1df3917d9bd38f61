"""`sluice facets`: passages, counted by the values of fields."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from sluice_cli.calls import DONE, command, connection_of, plain, print_json, stdout, table
from sluice_cli.options import AsJson, Conditions, ConditionTree
from sluice_cli.search.conditions import parse_filter
from sluice_client import Counts, FieldCounts

app = typer.Typer(rich_markup_mode=None)


@app.command()
@command
async def facets(
    context: typer.Context,
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="Collection to count.")],
    fields: Annotated[
        list[str], typer.Argument(metavar="FIELD...", help="Fields of keywords, whole numbers or booleans.")
    ],
    conditions: Conditions = None,
    tree: ConditionTree = "",
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="Most values of each field.")] = 10,
    as_json: AsJson = False,
) -> int:
    """Count passages by the values of fields.

    With conditions, as for `sluice search`, those that match are counted. Each chunk of a document is a passage.

    \b
    Examples:
      sluice facets documents kind
      sluice facets papers year lang --filter 'year>=2020' --limit 100
      sluice facets documents kind --json | jq -r '.fields[0].values[].value'
    """
    async with connection_of(context).client() as client:
        counts = await client.count_by_field(
            *fields, collection=collection, filter=parse_filter(conditions, tree), limit=limit
        )
    if as_json:
        print_json(counts)
    else:
        stdout.print(counts_view(counts))
    return DONE


def counts_view(counts: Counts) -> RenderableType:
    """Show counts, a table for each field."""
    noun = "passage" if counts.passage_count == 1 else "passages"
    about = f"{counts.passage_count:,} {noun} in {counts.collection} ({counts.index_version})"
    tables = [_table(one, counts.passage_count) for one in counts.fields]
    return Group(*tables, Text(plain(about), style="dim"))


def _table(one: FieldCounts, whole: int) -> RenderableType:
    if not one.values:
        return Text.assemble((plain(one.field), "bold"), "  no value\n")
    shown = table(plain(one.field), "passages", "share", right=frozenset({"passages", "share"}))
    for found in one.values:
        share = found.passage_count / whole if whole else 0.0
        shown.add_row(plain(_written(found.value)), f"{found.passage_count:,}", f"{share:.1%}")
    return Group(shown, Text())


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
