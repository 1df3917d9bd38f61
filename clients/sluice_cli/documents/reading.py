"""`sluice documents`: stored documents, shown or listed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from sluice_cli.calls import DONE, NEEDS_A_LOOK, Connection, plain, print_json, say_warning, stderr, stdout
from sluice_cli.search.answer import snippet
from sluice_cli.search.conditions import parse_conditions
from sluice_client import StoredDocument

IDS_A_CALL = 100


async def get(connection: Connection, ids: Sequence[str], collection: str, *, as_json: bool) -> int:
    """Show documents by id, and return the exit code."""
    wanted = list(dict.fromkeys(ids))
    documents: list[StoredDocument] = []
    missing: list[str] = []
    async with connection.client() as client:
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


async def show(connection: Connection, collection: str, conditions: Sequence[str], *, limit: int, as_json: bool) -> int:
    """List documents, and return the exit code."""
    matching = parse_conditions(conditions)
    documents: list[StoredDocument] = []
    more = False
    async with connection.client() as client:
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
