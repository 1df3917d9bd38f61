"""`sluice verify`: checks a version."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from sluice_cli.calls import DONE, NEEDS_A_LOOK, Connection, plain, print_json, stderr, stdout, table, words
from sluice_client import VersionCheck


async def verify(connection: Connection, collection: str, version: str, sample: int | None, *, as_json: bool) -> int:
    """Check a version, print the findings, and return the exit code."""
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
    """Show checks in words."""
    shown = table()
    for check in checks:
        mark = Text("ok", style="green") if check.passed else Text("FAILED", style="bold red")
        shown.add_row(mark, words(check.kind), plain(check.detail))
    return shown
