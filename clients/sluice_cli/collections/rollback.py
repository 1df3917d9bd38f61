"""`sluice rollback`: makes an earlier version live again."""

from __future__ import annotations

from typing import Annotated

import typer

from sluice_cli.calls import DONE, command, connection_of, plain, print_json, stdout
from sluice_cli.options import AsJson, Collection
from sluice_client import Switched

app = typer.Typer(rich_markup_mode=None)


@app.command()
@command
async def rollback(
    context: typer.Context,
    collection: Collection = "",
    to: Annotated[str, typer.Option(metavar="VERSION", help="A ready version; the one before if not given.")] = "",
    as_json: AsJson = False,
) -> int:
    """Make the version live again that was live before.

    Documents that were stored or deleted since the switch are so only in the version left.

    \b
    Examples:
      sluice rollback
      sluice rollback --collection papers --to papers-v3
    """
    async with connection_of(context).client() as client:
        switched = await client.rollback(to, collection=collection)
    print_switch(switched, as_json=as_json)
    return DONE


def print_switch(switched: Switched, *, as_json: bool) -> None:
    """Print the version that is live now, and the way back."""
    live, before = switched.live, switched.previous_version
    if as_json:
        print_json(
            {"collection": live.collection, "live": live.version, "previous": before, "passages": live.passage_count}
        )
        return
    stdout.print(
        f"{plain(live.collection)} is {plain(live.version)} now: {live.passage_count:,} passages by "
        f"{plain(live.model.name)}; it was {plain(before) or 'nothing'}",
        markup=False,
    )
    if before:
        stdout.print("documents stored since the switch are in the version left; `sluice rollback` returns to it")
