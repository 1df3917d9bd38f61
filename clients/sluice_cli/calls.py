"""What all commands share: how they reach the gateway, how they end, and how they speak of problems."""

from __future__ import annotations

import asyncio
import dataclasses
import getpass
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import grpc
import typer
from rich.console import Console
from rich.text import Text

from sluice_client import RolloutClient, SluiceClient, SluiceError, Tls

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
    "STORAGE_FULL": "free some space where Qdrant keeps its data (`sluice collections --drop VERSION`, "
    "`sluice snapshot prune --keep N`), then give the same command again; searching goes on",
}

_ROLLOUT_REMEDIES = {
    grpc.StatusCode.INVALID_ARGUMENT: "correct what is named and try again; --help shows examples",
    grpc.StatusCode.NOT_FOUND: "`sluice rollout list` names the features there are",
    grpc.StatusCode.ALREADY_EXISTS: "`sluice rollout list` shows it; a new feature needs a new name",
    grpc.StatusCode.FAILED_PRECONDITION: "`sluice rollout show NAME` tells where it is and why",
    grpc.StatusCode.DEADLINE_EXCEEDED: "look with `sluice rollout list` whether it was done; giving it again is safe",
}
_ROLLOUT_REMEDIES_BY_REASON = {
    "UNREACHABLE": "name another with `sluice rollout --service` or SLUICE_ROLLOUT. Gateways go on without it: ramps "
    "fall back to standard when their lease ends; to kill a feature at once, write ROLLOUT_KILL=NAME into each "
    "gateway's ROLLOUT_OVERRIDES_PATH",
    "FEATURE_NOT_FOUND": "`sluice rollout list` names those there are",
    "FEATURE_EXISTS": "`sluice rollout show NAME` tells what it switches; a new feature needs a new name",
    "NEEDS_REARM": "find out why with `sluice rollout report NAME`, then `sluice rollout rearm NAME`",
    "KILLED": "find out why with `sluice rollout history NAME`, then `sluice rollout rearm NAME`",
    "ALREADY_RAMPING": "`sluice rollout status NAME` shows how far it is; `rollback` it before another plan",
    "NOT_RAMPING": "`sluice rollout start PLAN` puts it on its way; `sluice rollout show NAME` tells where it is",
    "NOT_SHOWN": "wait for more evidence: `sluice rollout status NAME`; `set` changes the share whatever is shown",
    "LAST_STEP": "it reaches everybody it will; `sluice rollout show NAME`",
    "COMPLETE": "it reaches everybody already; `rollback` takes it back",
    "NOT_ROLLED_BACK": "only what was rolled back or killed is armed again; `sluice rollout show NAME` tells more",
    "STANDBY": "name all replicas, and the active one answers: `sluice rollout --service ipv4:HOST:PORT,HOST:PORT`",
    "DATABASE_DOWN": "bring the service's database back; until then a feature is killed by ROLLOUT_KILL=NAME in each "
    "gateway's ROLLOUT_OVERRIDES_PATH",
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
    """Which gateway, and how long a call may take; None leaves that to the client.

    `rollout` is the rollout service, for the commands that talk to it, and empty for the others.
    """

    gateway: str
    timeout: float | None
    tls: tuple[Path, Path, Path] | None = None
    """Authority, certificate and key, as files; None without TLS."""
    rollout: str = ""

    def client(self) -> SluiceClient:
        """A client, to be opened."""
        if self.timeout is None:
            return SluiceClient(self.gateway, tls=self._tls)
        return SluiceClient(self.gateway, timeout=self.timeout, index_timeout=self.timeout, tls=self._tls)

    @property
    def _tls(self) -> Tls | None:
        return Tls(*self.tls) if self.tls else None

    def rollout_client(self, actor: str = "") -> RolloutClient:
        """A client of the rollout service, to be opened. Only commands need an actor; looking is free."""
        if self.timeout is None:
            return RolloutClient(self.rollout, actor=actor, tls=self._tls)
        return RolloutClient(self.rollout, actor=actor, timeout=self.timeout, tls=self._tls)


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
        service = connection.rollout
        remedy = rollout_remedy_of(error, service) if service else remedy_of(error, connection.gateway)
        say_problem(f"{error.message} [{error.code.name}]", remedy)
        code = NOT_DONE
    except Problem as problem:
        say_problem(problem.message, problem.remedy)
        code = problem.exit_code
    except (KeyboardInterrupt, typer.Abort):
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
    typer.echo(json.dumps(value, indent=2, default=_plain_value))


def _plain_value(value: Any) -> Any:
    """What JSON has no notion of: moments as ISO 8601, lengths of time in seconds, dataclasses as objects."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return dataclasses.asdict(value)


def who() -> str:
    """Who gives this command, as far as this machine knows; empty where it does not."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without names
        return ""


def plain(text: str) -> str:
    """Text of others on one line, without what could steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in " ".join(text.split()))


def remedy_of(error: SluiceError, gateway: str) -> str:
    """What to do about a call of the gateway that failed."""
    if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and error.retryable:
        return f"the gateway is busy; try again in {max(1, math.ceil(error.retry_after or 0))} s"
    if error.code is grpc.StatusCode.UNIMPLEMENTED:
        return f"{gateway} is no Sluice gateway, or one of an older release; name another with --gateway"
    if error.reason == "UNREACHABLE":
        return "start it here with `make up`, or name another with --gateway or SLUICE_GATEWAY"
    if error.reason in _REMEDIES_BY_REASON:
        return _REMEDIES_BY_REASON[error.reason]
    return _REMEDIES.get(error.code) or f"the gateway's log has it under request {error.request_id}"


def rollout_remedy_of(error: SluiceError, service: str) -> str:
    """What to do about a call of the rollout service that failed."""
    if error.code is grpc.StatusCode.UNIMPLEMENTED:
        return f"{service} is no rollout service, or one of an older release; name another with --service"
    return (
        _ROLLOUT_REMEDIES_BY_REASON.get(error.reason)
        or _ROLLOUT_REMEDIES.get(error.code)
        or f"the service's log has it under request {error.request_id}"
    )
