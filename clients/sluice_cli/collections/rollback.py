"""`sluice rollback`: makes an earlier version live again."""

from __future__ import annotations

from sluice_cli.calls import DONE, Connection, plain, print_json, stdout
from sluice_client import Switched


async def rollback(connection: Connection, collection: str, to: str, *, as_json: bool) -> int:
    """Switch, and return the exit code."""
    async with connection.client() as client:
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
