"""`sluice snapshot`: keeps and restores copies of versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table

from sluice_cli.calls import DONE, command, confirm, connection_of, plain, print_json, stderr, stdout, table
from sluice_cli.collections.versions import print_switch
from sluice_cli.options import AsJson, Collection, CollectionArgument, Sure, one_of
from sluice_client import Snapshot

app = typer.Typer(rich_markup_mode=None)
snapshot = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Keep copies of versions, and restore them.")
app.add_typer(snapshot, name="snapshot")


@snapshot.command("create")
@command
async def create(
    context: typer.Context, name: CollectionArgument = "", collection: Collection = "", as_json: AsJson = False
) -> int:
    """Keep a consistent copy of the live version.

    \b
    Examples:
      sluice snapshot create
      sluice snapshot create papers
      sluice snapshot create papers-v2      a version that is not live
    """
    collection = one_of(name, collection)
    async with connection_of(context).client() as client:
        with stderr.status("copying"):
            made = await client.create_snapshot(collection)
    if as_json:
        print_json(made)
    else:
        stdout.print(f"{plain(made.name)}: {_size(made.size_bytes)} of {plain(made.version)}")
    return DONE


@snapshot.command("list")
@command
async def show(
    context: typer.Context, name: CollectionArgument = "", collection: Collection = "", as_json: AsJson = False
) -> int:
    """List the copies of all versions of a collection, newest first.

    \b
    Examples:
      sluice snapshot list
      sluice snapshot list papers
      sluice snapshot list --json | jq -r '.[0].name'
    """
    collection = one_of(name, collection)
    async with connection_of(context).client() as client:
        found = [copy async for copy in client.list_snapshots(collection)]
    if as_json:
        print_json(found)
    else:
        stdout.print(_view(found) if found else "no snapshots; `sluice snapshot create` makes one")
    return DONE


@snapshot.command("restore")
@command
async def restore(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="A name from `sluice snapshot list`.")],
    collection: Collection = "",
    as_json: AsJson = False,
) -> int:
    """Make a new version of a copy, and make it live.

    The version before stays for `sluice rollback`.

    \b
    Examples:
      sluice snapshot restore documents-v1-2026-11-21-09-30-00-000000
    """
    async with connection_of(context).client() as client:
        with stderr.status("restoring into a new version"):
            switched = await client.restore_snapshot(name, collection=collection)
    print_switch(switched, as_json=as_json)
    return DONE


@snapshot.command("prune")
@command
async def prune(
    context: typer.Context,
    keep: Annotated[int, typer.Option(metavar="N", min=0, help="Number of the newest to keep.")],
    name: CollectionArgument = "",
    collection: Collection = "",
    sure: Sure = False,
    as_json: AsJson = False,
) -> int:
    """Delete all copies of a collection but the newest.

    Keeping none asks first; without a terminal it needs --yes.

    \b
    Examples:
      sluice snapshot prune --keep 3
      sluice snapshot prune papers --keep 3
    """
    collection = one_of(name, collection)
    async with connection_of(context).client() as client:
        old = [copy async for copy in client.list_snapshots(collection)][keep:]
        if old and not keep:
            confirm(f"all {len(old):,} snapshots are deleted for good", sure)
        for copy in old:
            await client.delete_snapshot(copy.name, collection=collection)
    if as_json:
        print_json({"deleted": [copy.name for copy in old]})
    else:
        stdout.print(f"{len(old):,} snapshots deleted, the newest {keep:,} kept")
    return DONE


def _view(snapshots: Sequence[Snapshot]) -> Table:
    shown = table("snapshot", "version", "size", "created", right=frozenset({"size"}))
    for snapshot in snapshots:
        created = f"{snapshot.create_time.astimezone():%Y-%m-%d %H:%M:%S}"
        shown.add_row(plain(snapshot.name), plain(snapshot.version), _size(snapshot.size_bytes), created)
    return shown


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.1f} MiB"
