"""Command lines of `sluice config` and `sluice doctor`."""

# ruff: noqa: PLC0415  # imports inside the commands keep --help quick

from __future__ import annotations

import typer

from sluice_cli.options import AsJson, Collection

app = typer.Typer(rich_markup_mode=None)


@app.command()
def config(context: typer.Context, collection: Collection = "", as_json: AsJson = False) -> None:
    """Show the default flags, the state of every stage with its model, and the index that serves.

    \b
    Examples:
      sluice config
      sluice config --collection papers --json
    """
    from sluice_cli import calls
    from sluice_cli.operations import config as command

    calls.run(context, command.config, collection, as_json=as_json)


@app.command()
def doctor(context: typer.Context, collection: Collection = "", as_json: AsJson = False) -> None:
    """Check the gateway, the stages behind it, and this machine. Every problem comes with a remedy.

    Works without anything running. The exit code is 1 if a check failed; a warning does not count.

    \b
    Examples:
      sluice doctor
      sluice --gateway search.internal:50051 doctor --collection papers
    """
    from sluice_cli import calls
    from sluice_cli.operations import doctor as command

    calls.run(context, command.doctor, collection, as_json=as_json)
