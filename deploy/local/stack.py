"""The stages as processes on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.local import processes
from deploy.local.paths import ROOT, data_folder, run_folder, shown
from deploy.local.processes import Process
from deploy.local.profiles import load_profile
from services.chassis.client import StageChannel
from services.chassis.errors import StartupError

STAGES = ("gateway", "embedder", "reranker", "expander", "retriever", "rollout")
"""The stages in the order of their well-known ports."""
SEARCHED = tuple(stage for stage in STAGES if stage != "rollout")
"""Those that a search goes through: the control plane is on no question's way."""

START_SECONDS = 600.0
"""Longest start. The first one on a machine fetches and converts models."""
GRACE_SECONDS = 20.0
"""Longest stop: the profiles let a stage drain for up to 5 s, and give calls in flight another 10."""

_ABANDONED_GRACE_SECONDS = 2.0
_HOST = "127.0.0.1"
_FIRST_GRPC_PORT = 50051
_FIRST_METRICS_PORT = 9103
# One place is left for a second embedder, with which an index is rebuilt.
_PLACES = {**{stage: place for place, stage in enumerate(STAGES)}, "rollout": len(STAGES)}
_HEALTH_SECONDS = 1.0
_POLL_SECONDS = 0.1
_TAIL_LINES = 12


@dataclass(frozen=True)
class Placement:
    """Where one stage is."""

    address: str
    """Of its gRPC server, as `host:port`."""
    metrics_url: str
    """Of its Prometheus endpoint."""
    log: Path
    """Its standard output and error."""


class LocalStack:
    """All stages on loopback, from a profile overlaid by this process's environment, overlaid by `environment`.

        async with LocalStack(name="test", environment={"EMBEDDING_MODEL": ""}, data=tmp_path) as stack:
            async with SluiceClient(stack.address("gateway")) as client: ...

    On entry every stage is SERVING; otherwise StartupError says which is not, why, and what to do. On leaving, the
    gateway stops first, then the others. The stages die with this process, however it dies, unless `detached`. Enter
    it in the main thread: the kernel takes the end of the thread that started a process for the end of its parent.
    """

    def __init__(
        self,
        *,
        name: str,
        profile: str = "development",
        environment: Mapping[str, str] | None = None,
        data: Path | None = None,
        well_known_ports: bool = False,
        detached: bool = False,
        on_serving: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self.profile = profile
        self.data = (data or data_folder(profile)).resolve()
        self._variables = {**load_profile(profile), **os.environ, **(environment or {})}
        self._well_known_ports = well_known_ports
        self._detached = detached
        self._on_serving = on_serving or (lambda _stage: None)
        self._placements: dict[str, Placement] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._processes: dict[str, Process] = {}
        self._ports = ExitStack()

    def address(self, stage: str) -> str:
        """`host:port` of a stage's gRPC server."""
        return self._placements[stage].address

    def metrics_url(self, stage: str) -> str:
        """URL of a stage's Prometheus endpoint."""
        return self._placements[stage].metrics_url

    def log(self, stage: str) -> Path:
        """File with a stage's standard output and error."""
        return self._placements[stage].log

    def pid(self, stage: str) -> int:
        """Number of a stage's process."""
        return self._children[stage].pid

    async def __aenter__(self) -> Self:
        try:
            self.spawn()
            await self.wait_until_serving()
        except BaseException:
            await self.abandon()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def spawn(self) -> None:
        """Starts the processes, and waits for none of them."""
        folder = run_folder(self.name)
        folder.mkdir(parents=True, exist_ok=True)
        self.data.mkdir(parents=True, exist_ok=True)
        ports = {stage: self._reserved_ports(stage) for stage in STAGES}
        for stage, (grpc_port, metrics_port) in ports.items():
            self._placements[stage] = Placement(
                f"{_HOST}:{grpc_port}", f"http://{_HOST}:{metrics_port}/metrics", folder / f"{stage}.log"
            )
        wiring = {
            "GRPC_HOST": _HOST,
            "QDRANT_PATH": str(self.data / "qdrant"),
            "QDRANT_SNAPSHOT_PATH": str(self.data / "snapshots"),
            "ROLLOUT_DATABASE_URL": f"sqlite:///{self.data / 'rollout.db'}",
            **{f"{stage.upper()}_ADDRESS": self.address(stage) for stage in STAGES[1:]},
        }
        for stage, (grpc_port, metrics_port) in ports.items():
            own = {"GRPC_PORT": str(grpc_port), "METRICS_PORT": str(metrics_port)}
            child = self._children[stage] = self._spawn(stage, {**self._variables, **wiring, **own})
            self._processes[stage] = Process.of(child.pid)

    async def wait_until_serving(self) -> None:
        """Returns when the health service of every stage says SERVING; raises StartupError when one never will."""
        try:
            async with asyncio.timeout(START_SECONDS), asyncio.TaskGroup() as waits:
                for stage in STAGES:
                    waits.create_task(self._serving(stage))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        except TimeoutError:
            raise StartupError(
                f"not every stage was serving after {START_SECONDS:.0f} s",
                remedy=f"Read the logs in {shown(run_folder(self.name))}.",
            ) from None

    async def abandon(self) -> None:
        """Stops the processes of a start that failed: nothing is in flight, so there is little to wait for."""
        await self.stop(_ABANDONED_GRACE_SECONDS)

    async def stop(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Stops the processes, the gateway first, so that no stage is missing while questions still come in."""
        try:
            await stop_stages(self._processes, grace_seconds)
        finally:
            for child in self._children.values():
                child.wait()
            self._ports.close()

    def processes(self) -> dict[str, Process]:
        """The process of every stage."""
        return dict(self._processes)

    def placements(self) -> dict[str, Placement]:
        """Where every stage is."""
        return dict(self._placements)

    def _reserved_ports(self, stage: str) -> tuple[int, int]:
        if self._well_known_ports:
            place = _PLACES[stage]
            return self._reserved(_FIRST_GRPC_PORT + place), self._reserved(_FIRST_METRICS_PORT + place)
        return self._reserved(0), self._reserved(0)

    def _reserved(self, port: int) -> int:
        """Holds a port without listening on it, so that nobody but our own stage, who is told of it, takes it."""
        holder = self._ports.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        # The stage's own socket has this option too, and may share the port until one of them listens.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind((_HOST, port))
        except OSError as error:
            raise StartupError(
                f"port {port} is taken",
                remedy="`make down` stops an earlier `make up`; anything else that holds the port "
                f"is named by `ss -ltnp 'sport = :{port}'`.",
            ) from error
        bound: int = holder.getsockname()[1]
        return bound

    def _spawn(self, stage: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        leash = [sys.executable, "-I", "-S", str(Path(__file__).with_name("leash.py")), str(os.getpid())]
        with self.log(stage).open("wb") as log:
            return subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*([] if self._detached else leash), sys.executable, "-m", f"services.{stage}"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C reaches us alone, and the stages stop in order
            )

    async def _serving(self, stage: str) -> None:
        async with StageChannel(self.address(stage)) as channel:
            while await channel.health("", deadline=time.monotonic() + _HEALTH_SECONDS) is not None:
                exit_status = self._children[stage].poll()
                if exit_status is not None:
                    raise self._failure(stage, exit_status)
                await asyncio.sleep(_POLL_SECONDS)
        self._on_serving(stage)

    def _failure(self, stage: str, exit_status: int) -> StartupError:
        log = shown(self.log(stage))
        lines = self.log(stage).read_text(encoding="utf-8", errors="replace").splitlines()
        for line in reversed(lines):
            if (said := _startup_error(line)) is not None:
                problem, remedy = said
                return StartupError(f"{stage}: {problem}", remedy=f"{remedy} The log is {log}.")
        tail = "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:]) or "  (nothing)"
        return StartupError(
            f"{stage}: ended with exit status {exit_status}. The end of its log:\n{tail}", remedy=f"Read {log}."
        )


async def stop_stages(stages: Mapping[str, Process], grace_seconds: float = GRACE_SECONDS) -> None:
    """Stops the processes of stages, the gateway's first."""
    gateway = [stages[name] for name in stages if name == "gateway"]
    behind = [stages[name] for name in stages if name != "gateway"]
    try:
        await processes.stop(gateway, grace_seconds=grace_seconds)
    finally:
        await processes.stop(behind, grace_seconds=grace_seconds)


def _startup_error(line: str) -> tuple[str, str] | None:
    """Problem and remedy, where a line of a log says why a stage cannot start (`services.chassis.server.run`)."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if not isinstance(event, dict) or event.get("event") != "cannot start":
        return None
    return str(event.get("problem")), str(event.get("remedy"))
