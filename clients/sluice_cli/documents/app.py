"""Command lines of `sluice documents` and `sluice delete`."""

# ruff: noqa: PLC0415  # imports inside the commands keep --help quick

from __future__ import annotations

from typing import Annotated

import typer

from sluice_cli.options import AsJson, Collection, Conditions

app = typer.Typer(rich_markup_mode=None)
documents = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Read stored documents back.")
app.add_typer(documents, name="documents")


@documents.command("get")
def get(
    context: typer.Context,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Documents to read.")],
    collection: Collection = "",
    as_json: AsJson = False,
) -> None:
    """Show documents by id, with their chunks. The exit code is 1 if one does not exist.

    \b
    Examples:
      sluice documents get guide/rollback.md
      sluice documents get 4983 5836 --collection papers --json
    """
    from sluice_cli import calls
    from sluice_cli.documents import reading

    calls.run(context, reading.get, ids, collection, as_json=as_json)


@documents.command("list")
def list_(
    context: typer.Context,
    collection: Collection = "",
    conditions: Conditions = None,
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="Most documents; 0 lists all.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List documents, or those that match, in an order of the store's own. Conditions are those of `sluice search`.

    \b
    Examples:
      sluice documents list
      sluice documents list --filter kind=class --filter 'year>=2020' --limit 100
      sluice documents list --limit 0 --json | jq -r '.[].document.id'
    """
    from sluice_cli import calls
    from sluice_cli.documents import reading

    calls.run(context, reading.show, collection, conditions or [], limit=limit, as_json=as_json)


@app.command()
def delete(
    context: typer.Context,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Documents to delete.")],
    collection: Collection = "",
    as_json: AsJson = False,
) -> None:
    """Delete documents by id. An id that does not exist is no error.

    \b
    Examples:
      sluice delete guide/rollback.md
      sluice delete 4983 5836 --collection papers
    """
    from sluice_cli import calls
    from sluice_cli.documents import delete as command

    calls.run(context, command.delete, ids, collection, as_json=as_json)
