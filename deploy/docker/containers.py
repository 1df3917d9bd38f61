"""Containers of images, started as in a cluster: not root, nothing writable but /tmp."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.docker.images import Image, Tool, container, output
from services.chassis.client import StageChannel
from services.chassis.errors import StartupError

START_SECONDS = 300.0
_STOP_SECONDS = 30.0
_HEALTH_SECONDS = 2.0
_POLL_SECONDS = 0.2
_HOST = "127.0.0.1"
# Tools that a built image must not have.
_BUILD_TOOLS = ("gcc", "cc", "c++", "make", "ld", "pip", "pip3", "git")
# World-writable in every Debian and read-only with the root, or the machine's.
_OPEN = ("/tmp", "/data", "/var/tmp", "/run", "/proc", "/sys", "/dev")  # noqa: S108
_ELSEWHERE = " ".join(f"-path {path} -prune -o" for path in _OPEN)
USER = "65532"
CONTENTS = "/opt/sluice/sbom.json"
"""Contents of an image, as CycloneDX."""


@dataclass(frozen=True, slots=True)
class Checked:
    """Result of checking an image."""

    image: str
    size_mib: float
    health: str
    """SERVING, or the problem; for the client, its release."""
    start_seconds: float
    """Seconds from the start of the container to the first SERVING."""
    user: str
    """Number of the user that it runs as."""
    problems: tuple[str, ...]
    """Problems found: build tools, root, a writable root file system."""


def free_port() -> int:
    """Return a free port of loopback."""
    with socket.socket() as free:
        free.bind((_HOST, 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def runner(tool: Tool, image: Image) -> Iterator[list[str]]:
    """Yield the words before `VARIABLE=value ... command` that run it in a container on the host's network."""
    if tool == "buildah":
        with container(image) as name:
            yield ["buildah", "run", "--isolation", "chroot", "--user", f"{USER}:{USER}", name, "--", "/usr/bin/env"]
    else:
        yield [
            tool, "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--network", "host", "--cap-drop", "ALL",  # noqa: S108
            "--security-opt", "no-new-privileges", "--entrypoint", "/usr/bin/env", image.tag,
        ]  # fmt: skip


@asynccontextmanager
async def serving(tool: Tool, image: Image, environment: Mapping[str, str], log: Path) -> AsyncIterator[float]:
    """Run a stage and yield the seconds until it was SERVING. Raises StartupError if it never is."""
    port = free_port()
    variables = {**environment, "GRPC_HOST": _HOST, "GRPC_PORT": str(port), "METRICS_PORT": "0"}
    with ExitStack() as stack:
        words = stack.enter_context(runner(tool, image))
        stream = stack.enter_context(log.open("wb"))
        started = time.monotonic()
        child = subprocess.Popen(  # noqa: S603, ASYNC220  our own words; starting takes no time
            [*words, *(f"{name}={value}" for name, value in variables.items()), "/opt/sluice/bin/stage"],
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            async with StageChannel(f"{_HOST}:{port}") as channel:
                while (problem := await channel.health("", deadline=time.monotonic() + _HEALTH_SECONDS)) is not None:
                    if child.poll() is not None or time.monotonic() - started > START_SECONDS:
                        raise StartupError(f"{image.tag} does not serve: {problem}", remedy=f"Read {log}.")
                    await asyncio.sleep(_POLL_SECONDS)
            yield time.monotonic() - started
        finally:
            _stop(child)


def problems(tool: Tool, image: Image) -> tuple[str, tuple[str, ...]]:
    """Return the user of the image, and its problems."""
    found: list[str] = []
    with runner(tool, image) as words:
        user = _said(words, "id", "-u")
        if user != USER:
            found.append(f"runs as user {user}")
        tools = _said(words, "sh", "-c", f"command -v {' '.join(_BUILD_TOOLS)}; true").split()
        found += [f"has {path}" for path in tools]
        torch = _said(words, "/opt/sluice/bin/python", "-c", "import importlib.util as u; print(u.find_spec('torch'))")
        if image.engine != "torch" and torch != "None":
            found.append("has torch")
        listed = {part["name"].lower() for part in json.loads(_said(words, "cat", CONTENTS))["components"]}
        names = "import importlib.metadata as m; print(*(found.name for found in m.distributions()))"
        installed = _said(words, "/opt/sluice/bin/python", "-c", names).lower().split()
        found += [f"holds {name}, which {CONTENTS} does not list" for name in sorted(set(installed) - listed)]
        find = f"find / -xdev {_ELSEWHERE} -writable ! -type l -print 2>/dev/null | head -n 3; true"
        found += [f"can write {path}" for path in _said(words, "sh", "-c", find).splitlines()]
    return user, tuple(found)


def release(tool: Tool, image: Image) -> str:
    """Return the release that the client's image reports."""
    with runner(tool, image) as words:
        return _said(words, "/opt/sluice/bin/stage", "--version")


def contents(tool: Tool, image: Image) -> str:
    """Return the list of what the image holds."""
    with runner(tool, image) as words:
        return _said(words, "cat", CONTENTS)


def _said(words: Sequence[str], *command: str) -> str:
    return output(*words, *command)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Stop the container: first SIGTERM, then SIGKILL. The stage is the last of a line of children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
