"""A stage as a real process, with its settings and a port of its own."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.local.paths import BUILD, ROOT
from deploy.local.processes import Process, stop
from services.chassis.client import StageChannel
from services.chassis.errors import StartupError

LOGS = BUILD / "bench" / "logs"
HOST = "127.0.0.1"
_START_SECONDS = 600.0
_GRACE_SECONDS = 10.0
_HEALTH_SECONDS = 1.0
_POLL_SECONDS = 0.1
_PARENT_DEATH = ROOT / "deploy" / "local" / "parent_death.py"


@dataclass(frozen=True, slots=True)
class Server:
    """A server that takes calls."""

    address: str
    """`host:port`."""
    process: Process


@contextmanager
def serving(stage: str, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run a stage, quiet and without traces; raises StartupError where it does not start."""
    with reserved_port() as port:
        variables = {
            "GRPC_HOST": HOST,
            "GRPC_PORT": str(port),
            "METRICS_PORT": "0",
            "LOG_LEVEL": "WARNING",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "",
            "DRAIN_SECONDS": "0",
            **(environment or {}),
        }
        name = f"{stage}-{port}"
        with spawned(name, [sys.executable, "-m", f"services.{stage}"], variables) as child:
            address = f"{HOST}:{port}"
            asyncio.run(_until_serving(name, address, child))
            yield Server(address, Process.of(child.pid))


@contextmanager
def reserved_port() -> Iterator[int]:
    """Hold a free port without listening on it, so that only the process that is told of it takes it."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((HOST, 0))
        yield holder.getsockname()[1]


@contextmanager
def spawned(name: str, command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the context, or with this process; it writes to build/bench/logs/<name>.log."""
    LOGS.mkdir(parents=True, exist_ok=True)
    dying_with_us = [sys.executable, "-I", "-S", str(_PARENT_DEATH), str(os.getpid())]
    with log_of(name).open("wb") as log:
        child = subprocess.Popen(
            [*dying_with_us, *command],
            cwd=ROOT,
            env=own_environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        asyncio.run(stop([Process.of(child.pid)], grace_seconds=_GRACE_SECONDS))
        child.wait()


def own_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with these variables, and without the packages that only this process was given."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | dict(environment)


def log_of(name: str) -> Path:
    """Log of a process."""
    return LOGS / f"{name}.log"


def failure(name: str, exit_status: int) -> StartupError:
    """A process ended before it served."""
    tail = log_of(name).read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
    return StartupError(
        f"{name} ended with exit status {exit_status}:\n" + "\n".join(tail), remedy=f"Read {log_of(name)}."
    )


async def _until_serving(name: str, address: str, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    async with StageChannel(address) as channel:
        while await channel.health("", deadline=time.monotonic() + _HEALTH_SECONDS) is not None:
            if (exit_status := child.poll()) is not None:
                raise failure(name, exit_status)
            if time.monotonic() > deadline:
                raise StartupError(
                    f"{name} was not serving after {_START_SECONDS:.0f} s", remedy=f"Read {log_of(name)}."
                )
            await asyncio.sleep(_POLL_SECONDS)
