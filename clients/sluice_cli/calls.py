"""What all commands share: how they reach the gateway, how they end, and how they speak of problems."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import grpc
import typer
from rich.console import Console
from rich.text import Text

from sluice_client import SluiceClient, SluiceError, Tls

P = ParamSpec("P")

DONE, NEEDS_A_LOOK, WRONG_COMMAND_LINE, NOT_DONE, INTERRUPTED = 0, 1, 2, 3, 130

PIPED_WIDTH = 160  # where nobody says how wide it is, as in a pipe: lines that can be searched

stdout = Console(highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH)
stderr = Console(stderr=True, highlight=False)


_REMEDIES = {
    grpc.StatusCode.INVALID_ARGUMENT: "correct what is named and try again; --help shows examples",
    grpc.StatusCode.NOT_FOUND: "check --collection; `sluice index` makes a collection with its first document",
    grpc.StatusCode.UNAVAILABLE: "`sluice doctor` says which stage is down, and what to do",
    grpc.StatusCode.FAILED_PRECONDITION: "`sluice doctor` compares the index with the model that serves",
    grpc.StatusCode.DEADLINE_EXCEEDED: "allow more time with --timeout; `sluice doctor` shows whether a stage is down",
}


_REMEDIES_BY_REASON = {
    "NOT_BUILDING": "the same command again goes on with what is built already",
    "BUILD_UNDER_WAY": "`sluice collections` shows it; `sluice collections --drop VERSION` gives it up",
    "VERSION_NOT_READY": "`sluice reindex` finishes it; `sluice collections` shows which versions are ready",
    "NO_PREVIOUS_VERSION": "`sluice collections` shows what there is; --to names a version",
    "VERSION_LIVE": "switch to another first: `sluice rollback`, or `sluice reindex`",
    "MODEL_NOT_SERVED": "`sluice collections` shows whose models are served, `sluice config` by whom",
    "SNAPSHOT_NOT_FOUND": "`sluice snapshot list` names those there are",
    "STORAGE_FULL": "free some space: `sluice collections --drop VERSION`, `sluice snapshot prune --keep N`",
}


class Problem(Exception):
    """Something that stands in the way, and what to do about it."""

    def __init__(self, message: str, remedy: str, *, exit_code: int = NOT_DONE) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Connection:
    """Which gateway, and how long a call may take; None leaves that to the client."""

    gateway: str
    timeout: float | None
    tls: tuple[Path, Path, Path] | None
    """Authority, certificate and key, as files; None without TLS."""

    def client(self) -> SluiceClient:
        """A client, to be opened."""
        tls = Tls(*self.tls) if self.tls else None
        if self.timeout is None:
            return SluiceClient(self.gateway, tls=tls)
        return SluiceClient(self.gateway, timeout=self.timeout, index_timeout=self.timeout, tls=tls)


def run(
    context: typer.Context,
    command: Callable[Concatenate[Connection, P], Coroutine[Any, Any, int]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> None:
    """Does the work of a command and ends with its exit code. Whatever goes wrong is told in words."""
    connection = Connection(*context.obj)
    try:
        code = asyncio.run(command(connection, *args, **kwargs))
    except SluiceError as error:
        say_problem(f"{error.message} [{error.code.name}]", remedy_of(error, connection.gateway))
        code = NOT_DONE
    except Problem as problem:
        say_problem(problem.message, problem.remedy)
        code = problem.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough; typer knows how to go quietly
        raise
    except Exception as fault:  # the last door: nobody wants a traceback from a command
        last = traceback.extract_tb(fault.__traceback__)[-1]
        say_problem(
            f"a fault of sluice itself: {type(fault).__name__}: {fault} ({last.filename}:{last.lineno})",
            "please report it with this line",
        )
        code = NOT_DONE
    raise typer.Exit(code)


def say_problem(message: str, remedy: str) -> None:
    """One line for what is wrong and one for what to do, on standard error."""
    stderr.print(Text.assemble(("error: ", "bold red"), plain(message)), soft_wrap=True)
    if remedy:
        stderr.print(Text.assemble(("remedy: ", "bold"), plain(remedy)), soft_wrap=True)


def say_warning(message: str) -> None:
    """Something that does not stop the work, on standard error."""
    stderr.print(Text.assemble(("warning: ", "bold yellow"), plain(message)), soft_wrap=True)


def print_json(value: Any) -> None:
    """A dataclass or plain value as JSON on standard output, in ASCII so that no terminal can spoil it."""
    typer.echo(json.dumps(value, indent=2, default=dataclasses.asdict))


def plain(text: str) -> str:
    """Text of others on one line, without what could steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in " ".join(text.split()))


def remedy_of(error: SluiceError, gateway: str) -> str:
    """What to do about a call that failed."""
    if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and error.retry_after is not None:
        return f"the gateway is busy; try again in {max(1, math.ceil(error.retry_after))} s"
    if error.reason == "STORAGE_FULL":
        return "free some space where Qdrant keeps its data, then give the same command again; searching goes on"
    if error.code is grpc.StatusCode.UNIMPLEMENTED:
        return f"{gateway} is no Sluice gateway, or one of an older release; name another with --gateway"
    if error.reason == "UNREACHABLE":
        return "start it here with `make up`, or name another with --gateway or SLUICE_GATEWAY"
    if error.reason in _REMEDIES_BY_REASON:
        return _REMEDIES_BY_REASON[error.reason]
    return _REMEDIES.get(error.code) or f"the gateway's log has it under request {error.request_id}"
