"""`sluice verify`: is a version what it should be?"""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from sluice_cli.calls import DONE, NEEDS_A_LOOK, Connection, plain, print_json, stderr, stdout
from sluice_client import VersionCheck


async def verify(connection: Connection, collection: str, version: str, sample: int | None, *, as_json: bool) -> int:
    """Checks and tells; the exit code."""
    async with connection.client() as client:
        with stderr.status("sampling, computing again, asking"):
            found = await client.verify(version, collection=collection, sample_size=sample)
    if as_json:
        print_json({"version": found.version, "passed": found.passed, "checks": found.checks})
    else:
        stdout.print(f"{plain(found.version)}: {'as it should be' if found.passed else 'NOT as it should be'}")
        stdout.print(checks_view(found.checks))
    return DONE if found.passed else NEEDS_A_LOOK


def checks_view(checks: Sequence[VersionCheck]) -> Table:
    """Checks for people."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for check in checks:
        mark = Text("ok", style="green") if check.passed else Text("FAILED", style="bold red")
        table.add_row(mark, check.name.lower().replace("_", " "), plain(check.detail))
    return table
