"""`sluice snapshot`: copies of versions."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from sluice_cli.calls import DONE, Connection, plain, print_json, stderr, stdout
from sluice_cli.rollback import tell_switch
from sluice_client import Snapshot


async def create(connection: Connection, collection: str, *, as_json: bool) -> int:
    """Makes one; the exit code."""
    async with connection.client() as client:
        with stderr.status("copying"):
            made = await client.create_snapshot(collection)
    if as_json:
        print_json(_json(made))
    else:
        stdout.print(f"{plain(made.name)}: {_size(made.size_bytes)} of {plain(made.version)}", markup=False)
    return DONE


async def show(connection: Connection, collection: str, *, as_json: bool) -> int:
    """Lists all of a collection; the exit code."""
    async with connection.client() as client:
        found = await client.snapshots(collection)
    if as_json:
        print_json([_json(snapshot) for snapshot in found])
    else:
        stdout.print(_view(found) if found else "no snapshots; `sluice snapshot create` makes one")
    return DONE


async def restore(connection: Connection, name: str, collection: str, *, as_json: bool) -> int:
    """Makes a version of one, and makes it live; the exit code."""
    async with connection.client() as client:
        with stderr.status("restoring into a new version"):
            switched = await client.restore_snapshot(name, collection=collection)
    tell_switch(switched, as_json=as_json)
    return DONE


async def prune(connection: Connection, keep: int, collection: str, *, as_json: bool) -> int:
    """Deletes all but the newest; the exit code."""
    async with connection.client() as client:
        old = (await client.snapshots(collection))[keep:]
        for snapshot in old:
            await client.delete_snapshot(snapshot.name, collection=collection)
    if as_json:
        print_json({"deleted": [snapshot.name for snapshot in old]})
    else:
        stdout.print(f"{len(old):,} snapshots deleted, the newest {keep:,} kept", markup=False)
    return DONE


def _json(snapshot: Snapshot) -> dict[str, object]:
    return {
        "name": snapshot.name,
        "version": snapshot.version,
        "created": snapshot.created.isoformat(),
        "size_bytes": snapshot.size_bytes,
    }


def _view(snapshots: Sequence[Snapshot]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("snapshot", "version", "size", "created"):
        table.add_column(name, overflow="fold", justify="right" if name == "size" else "left")
    for snapshot in snapshots:
        created = f"{snapshot.created.astimezone():%Y-%m-%d %H:%M:%S}"
        table.add_row(plain(snapshot.name), plain(snapshot.version), _size(snapshot.size_bytes), created)
    return table


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.1f} MiB"
