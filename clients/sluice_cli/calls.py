"""Running of commands: connections, exit codes, problems in words, and output."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import functools
import getpass
import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, NoReturn, ParamSpec

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from sluice_cli.remedies import remedy_of
from sluice_client import (
    AsyncClient,
    AsyncExperimentClient,
    AsyncRolloutClient,
    Credentials,
    Features,
    SluiceError,
    Tls,
    flag_values,
)

P = ParamSpec("P")

DONE, NEEDS_A_LOOK, WRONG_COMMAND_LINE, NOT_DONE, INTERRUPTED = 0, 1, 2, 3, 130

JSON_VERSION = 1
"""Version of the form of `--json`, see docs/json.md."""

PIPED_WIDTH = 160  # of a pipe, which has no width of its own: lines that can be searched


class Screen(Console):
    """A console that takes text as text: no marks of style, no names of pictures, nothing that steers a terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, emoji=False, **options)

    def render_str(self, text: str, *, style: Any = "", **options: Any) -> Text:
        """Make text of a string, whatever asks for it."""
        return Text(text, style=style, justify=options.get("justify"), overflow=options.get("overflow"))

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render, with a blank for each character that cannot be shown."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control or shown(text) == text else Segment(shown(text), style)


def shown(text: str) -> str:
    """Replace what cannot be shown, but for ends of lines, by blanks."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else " " for one in text)


def bear_any_text() -> None:
    """Have characters that the terminal's encoding lacks replaced, where they would end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


bear_any_text()
stdout = Screen(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH)
stderr = Screen(stderr=True)


class Problem(Exception):
    """An obstacle, and the remedy."""

    def __init__(self, message: str, remedy: str, *, exit_code: int = NOT_DONE) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Connection:
    """The servers to call, and the deadline of a call, if given.

    `rollout` is the rollout service, for the commands that talk to it, and empty for the others.
    """

    gateway: str
    timeout: float | None
    files: tuple[Path | None, Path | None, Path | None] = (None, None, None)
    """Authority, certificate and key of TLS; plain without any of them."""
    token_file: Path | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    rollout: str = ""

    def client(self, *, waits: bool = True) -> AsyncClient:
        """Make a client, to be opened; it waits for a busy gateway, or not."""
        if self.timeout is None:
            return AsyncClient(self.gateway, waits=waits, **self.credentials)
        return AsyncClient(
            self.gateway, timeout=self.timeout, index_timeout=self.timeout, waits=waits, **self.credentials
        )

    @property
    def credentials(self) -> Credentials:
        """The options of a client by which a server knows it."""
        # No option of the command line, which others on this machine can see.
        token = partial(_token_of, self.token_file) if self.token_file else os.environ.get("SLUICE_TOKEN") or None
        tls = Tls(*self.files) if any(self.files) else None
        return {"tls": tls, "token": token, "metadata": dict(self.metadata)}

    def rollout_client(self, actor: str = "") -> AsyncRolloutClient:
        """Make a client of the rollout service; only changes need an actor."""
        if self.timeout is None:
            return AsyncRolloutClient(self.rollout, actor=actor, **self.credentials)
        return AsyncRolloutClient(self.rollout, actor=actor, timeout=self.timeout, **self.credentials)

    def experiment_client(self, actor: str = "") -> AsyncExperimentClient:
        """Make a client of the rollout service's experiments; only changes need an actor."""
        if self.timeout is None:
            return AsyncExperimentClient(self.rollout, actor=actor, **self.credentials)
        return AsyncExperimentClient(self.rollout, actor=actor, timeout=self.timeout, **self.credentials)


def _token_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{file} cannot be read: {error}", "name a file with a token in SLUICE_TOKEN_FILE") from None


def connection_of(context: typer.Context) -> Connection:
    """Read the connection options of the command line."""
    return Connection(*context.obj)


def command(function: Callable[P, Coroutine[Any, Any, int]]) -> Callable[P, None]:
    """Make a command of a coroutine function with a parameter `context`."""

    @functools.wraps(function)
    def running(*args: P.args, **kwargs: P.kwargs) -> None:
        context: Any = kwargs["context"]
        _end(function(*args, **kwargs), connection_of(context), as_json=bool(kwargs.get("as_json")))

    return running


def run(
    context: typer.Context,
    work: Callable[Concatenate[Connection, P], Coroutine[Any, Any, int]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> None:
    """Run a coroutine function, and end with its exit code."""
    connection = connection_of(context)
    _end(work(connection, *args, **kwargs), connection)


def _end(work: Coroutine[Any, Any, int], connection: Connection, *, as_json: bool = False) -> NoReturn:
    """Run a command, and end with its exit code or an error."""
    try:
        code = asyncio.run(work)
    except SluiceError as error:
        code = NOT_DONE
        remedy = remedy_of(error, rollout=bool(connection.rollout))
        say_problem(f"{error.message} [{error.code.name}]", remedy)
        if as_json:
            about = {"code": error.code.name, "reason": error.reason, "field": error.field}
            print_json({"error": {"message": error.message, "remedy": remedy, "exit_code": code, **about}})
    except Problem as problem:
        code = problem.exit_code
        say_problem(problem.message, problem.remedy)
        if as_json:
            print_json({"error": {"message": problem.message, "remedy": problem.remedy, "exit_code": code}})
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except (BrokenPipeError, typer.BadParameter):  # typer ends quietly, or shows the usage
        raise
    except Exception as fault:  # a command shows no traceback
        last = traceback.extract_tb(fault.__traceback__)[-1]
        say_problem(
            f"a fault of sluice itself: {type(fault).__name__}: {fault} ({last.filename}:{last.lineno})",
            "please report it with this line",
        )
        code = NOT_DONE
    raise typer.Exit(code)


def confirm(what: str, sure: bool, *, name: str = "") -> None:
    """Ask for a yes, or for a name, unless `sure`. Raises Problem."""
    if sure:
        return
    if not has_terminal():
        raise Problem(f"{what}: that needs a yes", "give --yes without a terminal", exit_code=WRONG_COMMAND_LINE)
    if not name:
        typer.confirm(f"{what}. Do it?", abort=True, err=True)
    elif typer.prompt(f"{what}. Type {name} to confirm", default="", show_default=False, err=True) != name:
        raise Problem("another name was typed; nothing was changed", f"type {name}", exit_code=WRONG_COMMAND_LINE)


def has_terminal() -> bool:
    """True if a person can be asked."""
    return sys.stdin.isatty()


def say_problem(message: str, remedy: str) -> None:
    """Print a problem and its remedy on standard error."""
    stderr.print(Text.assemble(("error: ", "bold red"), plain(message)), soft_wrap=True)
    if remedy:
        stderr.print(Text.assemble(("remedy: ", "bold"), plain(remedy)), soft_wrap=True)


def say_warning(message: str) -> None:
    """Print a warning on standard error."""
    stderr.print(Text.assemble(("warning: ", "bold yellow"), plain(message)), soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a dataclass or plain value as JSON, in ASCII; each object of the answer has the version of its form.

    JSON has no infinity and no nan: they are null.
    """
    plain_form = json.loads(json.dumps(value, default=_plain_value), parse_constant=lambda _: None)
    for one in plain_form if isinstance(plain_form, list) else [plain_form]:
        if isinstance(one, dict):
            one["json_version"] = JSON_VERSION
    typer.echo(json.dumps(plain_form, indent=2))


def _plain_value(value: Any) -> Any:
    """Convert moments to ISO 8601, durations to seconds, bytes to Base64, dataclasses to objects."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Features):
        return flag_values(value)
    return dataclasses.asdict(value)


def user_name() -> str:
    """Name of the user on this machine; empty if it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without names
        return ""


def plain(text: str) -> str:
    """Put foreign text on one line, without characters that steer a terminal."""
    return " ".join(shown(text).split())


def words(name: str) -> str:
    """Write a name of a proto in words: "rolled back"."""
    return name.replace("_", " ")


class Rows(Table):
    """A table of which each text is one line."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row; see `plain` for what becomes of texts."""
        super().add_row(*(plain(cell) if isinstance(cell, str) else cell for cell in cells), **options)


def table(*columns: str, title: str = "", right: frozenset[str] = frozenset()) -> Table:
    """Make a table without lines; a table without columns has no header."""
    made = Rows(
        title=title or None,
        title_justify="left",
        box=None,
        show_header=bool(columns),
        header_style="dim",
        padding=(0, 2, 0, 0),
    )
    for column in columns:
        made.add_column(column, overflow="fold", justify="right" if column in right else "left")
    return made


def milliseconds(duration: timedelta) -> str:
    """Write a duration in milliseconds, without unit."""
    return f"{duration / timedelta(milliseconds=1):.1f}"
