"""`sluice rollback`: the version before, live again."""

from __future__ import annotations

from sluice_cli.calls import DONE, Connection, plain, print_json, stdout
from sluice_client import Switched


async def rollback(connection: Connection, collection: str, to: str, *, as_json: bool) -> int:
    """Switches and tells; the exit code."""
    async with connection.client() as client:
        switched = await client.rollback(to, collection=collection)
    tell_switch(switched, as_json=as_json)
    return DONE


def tell_switch(switched: Switched, *, as_json: bool) -> None:
    """Says what is live now, and how to go back."""
    live, before = switched.live, switched.previous_version
    if as_json:
        print_json(
            {"collection": live.collection, "live": live.version, "previous": before, "documents": live.document_count}
        )
        return
    stdout.print(
        f"{plain(live.collection)} is {plain(live.version)} now: {live.document_count:,} documents by "
        f"{plain(live.model)}; it was {plain(before) or 'nothing'}",
        markup=False,
    )
    if before:
        stdout.print("what was stored since the switch is in the version left; `sluice rollback` returns there")
