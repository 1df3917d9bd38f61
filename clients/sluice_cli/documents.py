"""`sluice documents` and `sluice delete`: stored documents, shown, listed or deleted."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from sluice_cli.calls import DONE, NEEDS_A_LOOK, command, connection_of, plain, print_json, say_warning, stderr, stdout
from sluice_cli.options import AsJson, Collection, Conditions, ConditionTree
from sluice_cli.search.answer import snippet
from sluice_cli.search.conditions import parse_filter
from sluice_client import StoredDocument

app = typer.Typer(rich_markup_mode=None)
documents = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Read stored documents back.")
app.add_typer(documents, name="documents")

IDS_A_CALL = 100
IDS_A_DELETION = 1000


@documents.command("get")
@command
async def get(
    context: typer.Context,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Documents to read.")],
    collection: Collection = "",
    as_json: AsJson = False,
) -> int:
    """Show documents by id; the exit code is 1 without one.

    \b
    Examples:
      sluice documents get guide/rollback.md
      sluice documents get 4983 5836 --collection papers --json
    """
    wanted = list(dict.fromkeys(ids))
    documents: list[StoredDocument] = []
    missing: list[str] = []
    async with connection_of(context).client() as client:
        for start in range(0, len(wanted), IDS_A_CALL):
            found = await client.get_documents(wanted[start : start + IDS_A_CALL], collection=collection)
            documents += found.documents
            missing += found.missing_ids
    if as_json:
        print_json({"documents": documents, "missing_ids": missing})
    else:
        for stored in documents:
            stdout.print(_view(stored, stored.document.text))
    for identity in missing:
        say_warning(f"{identity} does not exist")
    return NEEDS_A_LOOK if missing else DONE


@documents.command("list")
@command
async def list_(
    context: typer.Context,
    collection: Collection = "",
    conditions: Conditions = None,
    tree: ConditionTree = "",
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="Most documents; 0 lists all.")] = 20,
    as_json: AsJson = False,
) -> int:
    """List documents, or those that match, as for `sluice search`.

    \b
    Examples:
      sluice documents list
      sluice documents list --filter kind=class --filter 'year>=2020' --limit 100
      sluice documents list --limit 0 --json | jq -r '.[].document.id'
    """
    matching = parse_filter(conditions, tree)
    documents: list[StoredDocument] = []
    more = False
    async with connection_of(context).client() as client:
        async for stored in client.list_documents(collection=collection, filter=matching):
            if limit and len(documents) == limit:
                more = True
                break
            documents.append(stored)
            if not as_json:
                stdout.print(_view(stored, snippet(stored.document.text)))
    if as_json:
        print_json(documents)
    elif not documents:
        stdout.print("no documents")
    if more:
        stderr.print(Text(f"there are more than {limit:,}; --limit 0 lists all", style="dim"))
    return DONE


def _view(stored: StoredDocument, text: str) -> Text:
    document = stored.document
    about = [f"{plain(name)}={plain(str(value))}" for name, value in sorted(document.metadata.items())]
    if stored.chunks:
        about.append(f"{len(stored.chunks)} chunks")
    head = Text.assemble((plain(document.id), "bold"), "  ", plain(document.title))
    lines = [
        head,
        Text("  ".join(about), style="dim"),
        Text("\n".join(map(plain, text.splitlines()))),
    ]
    return Text("\n").join([*(line for line in lines if line), Text()])


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
        for start in range(0, len(wanted), IDS_A_DELETION):
            deleted += await client.delete(wanted[start : start + IDS_A_DELETION], collection=collection)
    if as_json:
        print_json({"asked": len(wanted), "deleted": deleted})
    else:
        missing = len(wanted) - deleted
        stdout.print(f"{deleted:,} deleted" + (f", {missing:,} did not exist" if missing else ""))
    return DONE
