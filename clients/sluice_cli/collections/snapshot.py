"""`sluice snapshot`: keeps and restores copies of versions."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from sluice_cli.calls import DONE, Connection, plain, print_json, stderr, stdout, table
from sluice_cli.collections.rollback import print_switch
from sluice_client import Snapshot


async def create(connection: Connection, collection: str, *, as_json: bool) -> int:
    """Make a copy, and return the exit code."""
    async with connection.client() as client:
        with stderr.status("copying"):
            made = await client.create_snapshot(collection)
    if as_json:
        print_json(made)
    else:
        stdout.print(f"{plain(made.name)}: {_size(made.size_bytes)} of {plain(made.version)}", markup=False)
    return DONE


async def show(connection: Connection, collection: str, *, as_json: bool) -> int:
    """List the copies of a collection, and return the exit code."""
    async with connection.client() as client:
        found = [snapshot async for snapshot in client.list_snapshots(collection)]
    if as_json:
        print_json(found)
    else:
        stdout.print(_view(found) if found else "no snapshots; `sluice snapshot create` makes one")
    return DONE


async def restore(connection: Connection, name: str, collection: str, *, as_json: bool) -> int:
    """Make a version of a copy, make it live, and return the exit code."""
    async with connection.client() as client:
        with stderr.status("restoring into a new version"):
            switched = await client.restore_snapshot(name, collection=collection)
    print_switch(switched, as_json=as_json)
    return DONE


async def prune(connection: Connection, keep: int, collection: str, *, as_json: bool) -> int:
    """Delete all copies but the newest, and return the exit code."""
    async with connection.client() as client:
        old = [snapshot async for snapshot in client.list_snapshots(collection)][keep:]
        for snapshot in old:
            await client.delete_snapshot(snapshot.name, collection=collection)
    if as_json:
        print_json({"deleted": [snapshot.name for snapshot in old]})
    else:
        stdout.print(f"{len(old):,} snapshots deleted, the newest {keep:,} kept", markup=False)
    return DONE


def _view(snapshots: Sequence[Snapshot]) -> Table:
    shown = table("snapshot", "version", "size", "created", right=frozenset({"size"}))
    for snapshot in snapshots:
        created = f"{snapshot.create_time.astimezone():%Y-%m-%d %H:%M:%S}"
        shown.add_row(plain(snapshot.name), plain(snapshot.version), _size(snapshot.size_bytes), created)
    return shown


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.1f} MiB"
