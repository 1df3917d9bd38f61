"""The command `sluice`: its connection options, and the commands of all rooms.

The command lines lie in each room's `app.py`; the work lies next to them and is imported when a command is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from sluice_cli.capacity import app as capacity
from sluice_cli.collections.app import app as collections
from sluice_cli.documents.app import app as documents
from sluice_cli.indexing.app import app as indexing
from sluice_cli.operations.app import app as operations
from sluice_cli.rollout.app import app as rollout
from sluice_cli.search.app import app as search

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done; 1 done, but something needs a look (a rejected record, a check that failed); "
    "2 the command line is wrong; 3 it could not be done; 130 interrupted.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from sluice_client import __version__  # noqa: PLC0415  # keeps --help quick

        typer.echo(__version__)
        raise typer.Exit


def _tls(authority: Path | None, certificate: Path | None, key: Path | None) -> tuple[Path, Path, Path] | None:
    if authority and certificate and key:
        for file in (authority, certificate, key):
            if not file.is_file():
                raise typer.BadParameter(f"{file} is not a file that can be read")
        return authority, certificate, key
    if authority or certificate or key:
        raise typer.BadParameter("TLS needs all three: --tls-authority, --tls-certificate and --tls-key")
    return None


@app.callback()
def connection(
    context: typer.Context,
    gateway: Annotated[
        str, typer.Option(metavar="ADDRESS", envvar="SLUICE_GATEWAY", help="Gateway to talk to, as host:port.")
    ] = "127.0.0.1:50051",
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.1, help="Deadline of each call; 10, or 120 for storing, if not given."),
    ] = None,
    tls_authority: Annotated[
        Path | None,
        typer.Option(metavar="FILE", envvar="SLUICE_TLS_AUTHORITY", help="CA certificate (PEM) of the gateway."),
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", envvar="SLUICE_TLS_CERTIFICATE", help="Certificate (PEM) of this client."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", envvar="SLUICE_TLS_KEY", help="Key (PEM) of that certificate.")
    ] = None,
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the release and exit.")
    ] = False,
) -> None:
    """Search documents, and look after them.

    \b
    Examples:
      sluice doctor                              check that everything works
      sluice index docs/                         store a folder of text, Markdown and HTML
      sluice search "how do I roll back?"        ask
      sluice --gateway search.internal:50051 config
    """
    context.obj = (gateway, timeout, _tls(tls_authority, tls_certificate, tls_key))


for room in (search, indexing, documents, collections, operations):
    app.add_typer(room)
app.add_typer(rollout, name="rollout")
app.add_typer(capacity)


@app.command("help")
def help_(
    context: typer.Context,
    command: Annotated[list[str] | None, typer.Argument(metavar="[COMMAND]...", help="A command, or none.")] = None,
) -> None:
    """Show the help of a command.

    \b
    Examples:
      sluice help
      sluice help rollout start
    """
    shown = context.find_root()
    for name in command or []:
        group = shown.command
        found = group.get_command(shown, name) if isinstance(group, TyperGroup) else None
        if found is None:
            raise typer.BadParameter(f"{shown.command_path} has no command {name!r}")
        shown = type(context)(found, info_name=name, parent=shown)
    typer.echo(shown.get_help())


if __name__ == "__main__":
    app()
