"""`sluice snapshot`: keeps and restores copies of versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.table import Table

from sluice_cli.calls import DONE, Problem, command, confirm, connection_of, plain, print_json, stdout, table
from sluice_cli.collections.versions import print_switch
from sluice_cli.options import AsJson, Collection, CollectionArgument, Sure, one_of
from sluice_cli.progress import counted
from sluice_client import AsyncClient, Snapshot, SnapshotPhase, SnapshotProgress

app = typer.Typer(rich_markup_mode=None)
snapshot = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Keep copies of versions, and restore them.")
app.add_typer(snapshot, name="snapshot")

AllCollections = Annotated[bool, typer.Option("--all", help="Do so for every collection.")]

_PHASES = {
    SnapshotPhase.COPY: "copying",
    SnapshotPhase.CHECK: "checking",
    SnapshotPhase.WRITE: "writing",
    SnapshotPhase.DONE: "done",
    SnapshotPhase.UNKNOWN: "working",
}


@snapshot.command("create")
@command
async def create(
    context: typer.Context,
    name: CollectionArgument = "",
    collection: Collection = "",
    every: AllCollections = False,
    as_json: AsJson = False,
) -> int:
    """Keep a consistent copy of the live version, in QDRANT_SNAPSHOT_PATH.

    Meanwhile questions are answered, and documents stored and deleted: the copy catches up with them.

    \b
    Examples:
      sluice snapshot create
      sluice snapshot create papers
      sluice snapshot create papers-v2      a version that is not live
      sluice snapshot create --all          of every collection
    """
    collection = one_of(name, collection)
    async with connection_of(context).client() as client:
        made = []
        for wanted in await _collections(client) if every else [collection]:
            with _bar() as on_progress:
                made.append(await client.create_snapshot(wanted, on_progress=on_progress))
    if as_json:
        print_json(made if every else made[0])
    else:
        for one in made:
            stdout.print(f"{plain(one.name)}: {_size(one.size_bytes)} of {plain(one.version)}")
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
    name: Annotated[str, typer.Argument(metavar="[SNAPSHOT]", help="A name from `sluice snapshot list`.")] = "",
    newest: Annotated[bool, typer.Option("--newest", help="The newest of the collection.")] = False,
    collection: Collection = "",
    shards: Annotated[
        int, typer.Option(metavar="N", min=0, max=1024, help="Shards in a cluster; as many as it had if not given.")
    ] = 0,
    as_json: AsJson = False,
) -> int:
    """Make a new version of a copy, and make it live.

    Every file of the copy is checked first. The version before stays for `sluice rollback`. A copy fits every engine:
    one of a cluster can be restored on a laptop, and back.

    \b
    Examples:
      sluice snapshot restore documents-v1-2026-11-21-09-30-00-000000
      sluice snapshot restore documents-v1-2026-11-21-09-30-00-000000 --shards 6
      sluice snapshot restore --newest --collection papers
    """
    if bool(name) == newest:
        raise typer.BadParameter("name a snapshot, or give --newest", param_hint="SNAPSHOT")
    async with connection_of(context).client() as client:
        if newest:
            name = await _newest(client, collection)
        with _bar() as on_progress:
            switched = await client.restore_snapshot(
                name, collection=collection, shards=shards, on_progress=on_progress
            )
    print_switch(switched, as_json=as_json)
    return DONE


@snapshot.command("prune")
@command
async def prune(
    context: typer.Context,
    keep: Annotated[int, typer.Option(metavar="N", min=0, help="Number of the newest to keep.")],
    name: CollectionArgument = "",
    collection: Collection = "",
    every: AllCollections = False,
    sure: Sure = False,
    as_json: AsJson = False,
) -> int:
    """Delete all copies of a collection but the newest.

    Keeping none asks first; without a terminal it needs --yes.

    \b
    Examples:
      sluice snapshot prune --keep 3
      sluice snapshot prune papers --keep 3
      sluice snapshot prune --all --keep 7
    """
    collection = one_of(name, collection)
    async with connection_of(context).client() as client:
        old = [
            (wanted, copy.name)
            for wanted in (await _collections(client) if every else [collection])
            for copy in [copy async for copy in client.list_snapshots(wanted)][keep:]
        ]
        if old and not keep:
            confirm(f"all {len(old):,} snapshots are deleted for good", sure)
        for wanted, copy in old:
            await client.delete_snapshot(copy, collection=wanted)
    if as_json:
        print_json({"deleted": [copy for _, copy in old]})
    else:
        stdout.print(f"{len(old):,} snapshots deleted, the newest {keep:,} kept")
    return DONE


async def _newest(client: AsyncClient, collection: str) -> str:
    """Return the name of the newest copy of a collection."""
    async for copy in client.list_snapshots(collection):
        return copy.name
    raise Problem("there is no snapshot of the collection", "`sluice snapshot create` makes one")


async def _collections(client: AsyncClient) -> list[str]:
    """Return the names of all collections that have a live version."""
    return [listed.version.collection async for listed in client.list_collections() if listed.version.live]


@contextmanager
def _bar() -> Iterator[Callable[[SnapshotProgress], None]]:
    """Show progress on a terminal while the block runs."""
    with counted() as progress:
        bar = progress.add_task("beginning", total=0)

        def show(step: SnapshotProgress) -> None:
            progress.update(bar, description=_PHASES[step.phase], total=step.total_count, completed=step.done_count)

        yield show


def _view(snapshots: Sequence[Snapshot]) -> Table:
    shown = table("snapshot", "version", "size", "created", right=frozenset({"size"}))
    for snapshot in snapshots:
        created = f"{snapshot.create_time.astimezone():%Y-%m-%d %H:%M:%S}"
        shown.add_row(plain(snapshot.name), plain(snapshot.version), _size(snapshot.size_bytes), created)
    return shown


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.1f} MiB"
