"""`sluice delete`."""

from __future__ import annotations

from collections.abc import Sequence

from sluice_cli.calls import DONE, Connection, print_json, stdout

IDS_A_CALL = 1000


async def delete(connection: Connection, ids: Sequence[str], collection: str, *, as_json: bool) -> int:
    """Delete documents, print how many there were, and return the exit code."""
    wanted = list(dict.fromkeys(ids))
    deleted = 0
    async with connection.client() as client:
        for start in range(0, len(wanted), IDS_A_CALL):
            deleted += await client.delete(wanted[start : start + IDS_A_CALL], collection=collection)
    if as_json:
        print_json({"asked": len(wanted), "deleted": deleted})
    else:
        missing = len(wanted) - deleted
        stdout.print(f"{deleted:,} deleted" + (f", {missing:,} did not exist" if missing else ""))
    return DONE
