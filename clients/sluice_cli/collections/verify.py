"""`sluice verify`: checks a version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from sluice_cli.calls import DONE, NEEDS_A_LOOK, command, connection_of, plain, print_json, stderr, stdout, table, words
from sluice_cli.options import AsJson, Collection
from sluice_client import VersionCheck

app = typer.Typer(rich_markup_mode=None)


@app.command()
@command
async def verify(
    context: typer.Context,
    version: Annotated[str, typer.Argument(metavar="[VERSION]", help="A version; the live one if not given.")] = "",
    collection: Collection = "",
    sample: Annotated[int | None, typer.Option(metavar="N", min=1, max=500, help="Passages to sample.")] = None,
    as_json: AsJson = False,
) -> int:
    """Check a version: counts, vectors, and results.

    The exit code is 1 if a check failed.

    \b
    Examples:
      sluice verify
      sluice verify documents-v2 --sample 200
    """
    async with connection_of(context).client() as client:
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
