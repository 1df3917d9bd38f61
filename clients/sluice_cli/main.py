"""The command `sluice`: its connection options, and the commands of all rooms."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

ROOMS = {
    "search": ("sluice_cli.search.answer", "Ask a question; flags not given are left to the gateway."),
    "answer": ("sluice_cli.search.reasoned", "Answer a question in words, with sources."),
    "similar": ("sluice_cli.search.answer", "Find what is like a document, by its vectors and its words."),
    "facets": ("sluice_cli.search.facets", "Count passages by the values of fields."),
    "compare": ("sluice_cli.search.compare", "Show two answers side by side: standard, and with more switched on."),
    "index": ("sluice_cli.indexing.index", "Store documents, or replace those with the same id."),
    "delete": ("sluice_cli.documents", "Delete documents by id; a missing id is no error."),
    "documents": ("sluice_cli.documents", "Read stored documents back."),
    "collections": (
        "sluice_cli.collections.versions",
        "Show all versions of all collections, or create or delete a collection.",
    ),
    "tune": ("sluice_cli.collections.layout", "Show how a collection is kept and searched, or change it."),
    "reindex": (
        "sluice_cli.collections.reindex",
        "Build a version by another model, or with token vectors; switch to it.",
    ),
    "enrich": ("sluice_cli.collections.enrich", "Give passages the keys of their relations, which hops need."),
    "rollback": ("sluice_cli.collections.versions", "Make the version live again that was live before."),
    "verify": ("sluice_cli.collections.versions", "Check a version: counts, vectors, and results."),
    "copy": (
        "sluice_cli.collections.copy",
        "Copy a collection to another Sluice, with its vectors, and make it live there.",
    ),
    "snapshot": ("sluice_cli.collections.snapshot", "Keep copies of versions, and restore them."),
    "config": ("sluice_cli.operations.config", "Show the default flags, the stages with their models, and the index."),
    "doctor": ("sluice_cli.operations.doctor", "Check the gateway, the stages behind it, and this machine."),
    "access": ("sluice_cli.operations.access", "Make keys, and ask who may do what."),
    "audit": ("sluice_cli.operations.audit", "Read the audit logs of stages."),
    "models": ("sluice_cli.operations.models", "Say which files models consist of, check them, bring them."),
    "rollout": ("sluice_cli.rollout", "Bring features to users in steps, and take them back in seconds."),
    "evaluate": (
        "sluice_cli.evaluation.commands",
        "Compare configurations by judgments: quality with intervals, wins and losses, time.",
    ),
    "judgments": (
        "sluice_cli.evaluation.judgments",
        "Read, write, make and compare lists of judgments: how well documents answer queries.",
    ),
    "whatif": (
        "sluice_cli.evaluation.commands",
        "Ask recorded questions again with other configurations: what would change, before a user sees it.",
    ),
    "experiment": ("sluice_cli.experiment", "Ask which of several configurations people prefer."),
    "feedback": (
        "sluice_cli.feedback",
        "Read back what people did with answers: clicks, citations, ratings and labels.",
    ),
    "loadtest": (
        "sluice_cli.capacity",
        "Send the searches of many users at once: failures, percentiles, arms of rollouts.",
    ),
    "plan": (
        "sluice_cli.capacity",
        "Plan the replicas of each stage for a load, the targets of autoscalers, and the cost of each feature.",
    ),
}
"""Commands: the module with the `app` that has it, imported when the command is called, and a line of help."""


class Rooms(TyperGroup):
    """The commands of all rooms, each imported when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """List all commands."""
        return [*ROOMS, *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Find a command, and import its room."""
        if cmd_name not in ROOMS:
            return super().get_command(ctx, cmd_name)
        room = importlib.import_module(ROOMS[cmd_name][0])
        return typer.main.get_group(room.app).get_command(ctx, cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands without importing any room."""
        own = [(name, command.get_short_help_str()) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl([*((name, words) for name, (_, words) in ROOMS.items()), *own])


app = typer.Typer(
    cls=Rooms,
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


def _checked(files: tuple[Path | None, Path | None, Path | None]) -> tuple[Path | None, Path | None, Path | None]:
    for file in filter(None, files):
        if not file.is_file():
            raise typer.BadParameter(f"{file} is not a file that can be read")
    _, certificate, key = files
    if (certificate is None) != (key is None):
        raise typer.BadParameter("--tls-certificate and --tls-key go together")
    return files


def _pairs(given: list[str]) -> tuple[tuple[str, str], ...]:
    found = [pair.partition("=") for pair in given]
    for name, separator, value in found:
        if not separator or not name or not (name + value).isascii() or not (name + value).isprintable():
            raise typer.BadParameter("is NAME=VALUE, in ASCII", param_hint="--metadata")
    return tuple((name.lower(), value) for name, _, value in found)


@app.callback()
def connection(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
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
        typer.Option(
            metavar="FILE", envvar="SLUICE_TLS_AUTHORITY", help="CA certificate (PEM) of the gateway; switches TLS on."
        ),
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", envvar="SLUICE_TLS_CERTIFICATE", help="Certificate (PEM) of this client."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", envvar="SLUICE_TLS_KEY", help="Key (PEM) of that certificate.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="SLUICE_TOKEN_FILE",
            help="File with a key or a token, read at each call; SLUICE_TOKEN in the environment holds one itself.",
        ),
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="More metadata of each call; may be repeated.")
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
    files = (tls_authority, tls_certificate, tls_key)
    context.obj = (gateway, timeout, _checked(files), token_file, _pairs(metadata or []))


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
