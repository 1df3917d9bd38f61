"""All stages as processes on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
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

from deploy import stages
from deploy.local import processes
from deploy.local import secured as secured_profile
from deploy.local.paths import ROOT, data_folder, run_folder, shown
from deploy.local.processes import Process
from deploy.local.profiles import load_profile
from deploy.local.secured import Secured
from services.chassis.client import StageChannel
from services.chassis.errors import StartupError

STAGES = tuple(spec.name for spec in stages.STAGES)
"""Names of the stages, in the order of their well-known ports."""
SEARCHED = tuple(spec.name for spec in stages.STAGES if spec.searched)
"""Names of the stages that a search goes through."""

START_SECONDS = 600.0
"""Longest start: the first one on a machine fetches and converts models."""
GRACE_SECONDS = 20.0
"""Longest stop: up to 5 s to drain and 10 s for calls in flight, by the profiles."""

_ABANDONED_GRACE_SECONDS = 2.0
_HOST = "127.0.0.1"
WELL_KNOWN_PORTS = {spec.name: (spec.grpc_port, spec.metrics_port) for spec in stages.STAGES}
"""gRPC and metrics ports of each stage under `make up`."""
_HEALTH_SECONDS = 1.0
_POLL_SECONDS = 0.1
_TAIL_LINES = 12


@dataclass(frozen=True)
class Placement:
    """Place of one running stage."""

    address: str
    """`host:port` of its gRPC server."""
    metrics_url: str
    """URL of its Prometheus endpoint."""
    log: Path
    """File with its standard output and error."""


class LocalStack:
    """All stages on loopback, configured by a profile, over it the environment, and over that `environment`.

        async with LocalStack(name="test", environment={"EMBEDDING_MODEL": ""}, data=tmp_path) as stack:
            async with AsyncClient(stack.address("gateway")) as client: ...

    On entry every stage is SERVING, or StartupError names the one that is not, the cause and a remedy. On exit the
    gateway stops first, then the others. The stages die with this process unless `detached`. Enter it in the main
    thread: to the kernel, the end of the thread that started a process is the end of its parent. The profile `secured`,
    or `secured`, has its stages ask for credentials.
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
        secured: Secured | None = None,
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
        self._mutual: dict[str, int] = {}
        self._secured = secured or (Secured.prepared(STAGES) if profile == secured_profile.PROFILE else None)

    def address(self, stage: str) -> str:
        """Return `host:port` of a stage's gRPC server."""
        return self._placements[stage].address

    def mutual_address(self, stage: str) -> str:
        """Return `host:port` of a stage for callers with a certificate; the same address where there are none."""
        return f"{_HOST}:{self._mutual[stage]}"

    def metrics_url(self, stage: str) -> str:
        """Return the URL of a stage's Prometheus endpoint."""
        return self._placements[stage].metrics_url

    def log(self, stage: str) -> Path:
        """Return the file with a stage's standard output and error."""
        return self._placements[stage].log

    def pid(self, stage: str) -> int:
        """Return the process id of a stage."""
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
        """Start the processes without waiting for them."""
        folder = run_folder(self.name)
        folder.mkdir(parents=True, exist_ok=True)
        self.data.mkdir(parents=True, exist_ok=True)
        ports = {stage: self._reserved_ports(stage) for stage in STAGES}
        # Callers with keys use the well-known ports; stages, which show certificates, others.
        mutual = self._mutual = {
            stage: self._reserved(0) if self._secured else grpc_port for stage, (grpc_port, _) in ports.items()
        }
        for stage, (grpc_port, metrics_port) in ports.items():
            self._placements[stage] = Placement(
                f"{_HOST}:{grpc_port}", f"http://{_HOST}:{metrics_port}/metrics", folder / f"{stage}.log"
            )
        wiring = {
            "GRPC_HOST": _HOST,
            "QDRANT_PATH": str(self.data / "qdrant"),
            "QDRANT_SNAPSHOT_PATH": str(self.data / "snapshots"),
            "ROLLOUT_DATABASE_URL": f"sqlite:///{self.data / 'rollout.db'}",
            "ROLLOUT_SNAPSHOT_PATH": str(self.data / "rollout.json"),
            **{f"{stage.upper()}_ADDRESS": f"{_HOST}:{mutual[stage]}" for stage in STAGES if stage != "gateway"},
        }
        for stage, (grpc_port, metrics_port) in ports.items():
            own = {"GRPC_PORT": str(mutual[stage]), "METRICS_PORT": str(metrics_port)}
            if stage == "gateway":
                own["FEEDBACK_KEYS"] = self._variables.get("FEEDBACK_KEYS") or feedback_key(self.data)
            if self._secured:
                own |= {"GRPC_TOKEN_PORT": str(grpc_port), **self._secured.environment(stage)}
            child = self._children[stage] = self._spawn(stage, {**self._variables, **wiring, **own})
            self._processes[stage] = Process.of(child.pid)

    async def wait_until_serving(self) -> None:
        """Wait until every stage is SERVING. Raises StartupError if one never will be."""
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
        """Stop the processes of a failed start: no call is in flight, so the grace is short."""
        await self.stop(_ABANDONED_GRACE_SECONDS)

    async def stop(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Stop the processes, the gateway first, so that no search misses a stage."""
        try:
            await stop_stages(self._processes, grace_seconds)
        finally:
            for child in self._children.values():
                child.wait()
            self._ports.close()

    def processes(self) -> dict[str, Process]:
        """Return the process of every stage."""
        return dict(self._processes)

    def placements(self) -> dict[str, Placement]:
        """Return the placement of every stage."""
        return dict(self._placements)

    def _reserved_ports(self, stage: str) -> tuple[int, int]:
        grpc_port, metrics_port = WELL_KNOWN_PORTS[stage] if self._well_known_ports else (0, 0)
        return self._reserved(grpc_port), self._reserved(metrics_port)

    def _reserved(self, port: int) -> int:
        """Hold a port without listening on it, so that only our own stage takes it."""
        holder = self._ports.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        # The stage's own socket has this option, too: both may hold the port until one of them listens.
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
        dying_with_us = [sys.executable, "-I", "-S", str(Path(__file__).with_name("parent_death.py")), str(os.getpid())]
        with self.log(stage).open("wb") as log:
            return subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*([] if self._detached else dying_with_us), sys.executable, "-m", f"services.{stage}"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only us, and the stages stop in order
            )

    async def _serving(self, stage: str) -> None:
        credentials = self._secured.credentials() if self._secured else None
        async with StageChannel(self.address(stage), credentials=credentials) as channel:
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


def feedback_key(data: Path) -> str:
    """The key of impression tokens of a stack, made at the first start with these data."""
    file = data / "feedback.key"
    if not file.exists():
        new = file.with_name(f".{file.name}.new")
        new.touch(mode=0o600)
        new.write_text(secrets.token_hex(32) + "\n", encoding="utf-8")
        new.replace(file)
    return file.read_text(encoding="utf-8").strip()


async def stop_stages(stages: Mapping[str, Process], grace_seconds: float = GRACE_SECONDS) -> None:
    """Stop the processes of stages, the gateway's first."""
    gateway = [stages[name] for name in stages if name == "gateway"]
    behind = [stages[name] for name in stages if name != "gateway"]
    try:
        await processes.stop(gateway, grace_seconds=grace_seconds)
    finally:
        await processes.stop(behind, grace_seconds=grace_seconds)


def _startup_error(line: str) -> tuple[str, str] | None:
    """Return problem and remedy if a line of a log reports a failed start (`services.chassis.server.run`)."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if not isinstance(event, dict) or event.get("event") != "cannot start":
        return None
    return str(event.get("problem")), str(event.get("remedy"))
