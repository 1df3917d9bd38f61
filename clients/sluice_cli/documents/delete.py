"""`sluice delete`."""

from __future__ import annotations

from typing import Annotated

import typer

from sluice_cli.calls import DONE, command, connection_of, print_json, stdout
from sluice_cli.options import AsJson, Collection

app = typer.Typer(rich_markup_mode=None)

IDS_A_CALL = 1000


@app.command()
@command
async def delete(
    context: typer.Context,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Documents to delete.")],
    collection: Collection = "",
    as_json: AsJson = False,
) -> int:
    """Delete documents by id; a missing id is no error.

    \b
    Examples:
      sluice delete guide/rollback.md
      sluice delete 4983 5836 --collection papers
    """
    wanted = list(dict.fromkeys(ids))
    deleted = 0
    async with connection_of(context).client() as client:
        for start in range(0, len(wanted), IDS_A_CALL):
            deleted += await client.delete(wanted[start : start + IDS_A_CALL], collection=collection)
    if as_json:
        print_json({"asked": len(wanted), "deleted": deleted})
    else:
        missing = len(wanted) - deleted
        stdout.print(f"{deleted:,} deleted" + (f", {missing:,} did not exist" if missing else ""))
    return DONE
