"""Stages as real processes that can be stopped, killed and started again where they were."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from deploy.local.paths import BUILD, ROOT
from services.chassis.client import StageChannel

LOGS = BUILD / "faults" / "logs"
PARENT_DEATH = ROOT / "deploy" / "local" / "parent_death.py"
START_SECONDS = 120.0
QUIET = {
    "METRICS_PORT": "0",
    "LOG_LEVEL": "WARNING",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "",
    "DRAIN_SECONDS": "0.5",
    "SHUTDOWN_GRACE_SECONDS": "5",
    "QDRANT_URL": "",
    # A cache would hide the work that a row is about.
    "CACHE_ENTRIES": "0",
}
# The stages in their lightest clothes: real servers, real clients, and models only where a row is about them.
LIGHT = {"EMBEDDING_MODEL": "", "EXPANSION_STRATEGY": "multi_query"}


class StageProcess:
    """One replica of a stage on an address of its own."""

    def __init__(self, stage: str, host: str, environment: Mapping[str, str], module: str = "") -> None:
        self.stage = stage
        self.host = host
        self._module = module or f"services.{stage}"
        self._environment = environment
        self._reservation = reserve(host)
        self.port = int(environment.get("GRPC_PORT", 0)) or self._reservation.getsockname()[1]
        self.child: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{self.host}:{self.port}"

    @property
    def log(self) -> Path:
        """Its log."""
        return LOGS / f"{self.stage}-{self.host}-{self.port}.log"

    def spawn(self) -> None:
        """Start it without waiting."""
        LOGS.mkdir(parents=True, exist_ok=True)
        variables = {**os.environ, **QUIET, **self._environment, "GRPC_HOST": self.host, "GRPC_PORT": str(self.port)}
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                [sys.executable, "-I", "-S", str(PARENT_DEATH), str(os.getpid()), sys.executable, "-m", self._module],
                cwd=ROOT,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def start(self) -> None:
        """Start it, and return when it serves."""
        self.spawn()
        await self.serving()

    async def serving(self, state: str | None = None) -> None:
        """Return when its health is so: None is SERVING."""
        assert self.child is not None
        async with asyncio.timeout(START_SECONDS), StageChannel(self.address) as channel:
            while await channel.health("", deadline=time.monotonic() + 1) != state:
                if self.child.poll() is not None:
                    raise RuntimeError(f"{self.stage} ended: {self.log.read_text(errors='replace')[-2000:]}")
                await asyncio.sleep(0.1)

    def terminate(self) -> None:
        """SIGTERM."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._signal(signal.SIGKILL)

    async def ended(self, within: float = 60.0) -> int:
        """Its exit status, once it has ended."""
        assert self.child is not None
        async with asyncio.timeout(within):
            while (status := self.child.poll()) is None:
                await asyncio.sleep(0.01)
        return status

    @property
    def alive(self) -> bool:
        """True if it runs."""
        return self.child is not None and self.child.poll() is None

    @property
    def processor_seconds(self) -> float:
        """Processor time that it has used."""
        assert self.child is not None
        return processor_seconds(self.child.pid)

    async def close(self) -> None:
        """End it, whatever state it is in."""
        if self.alive:
            self.kill()
            await self.ended()
        self._reservation.close()

    def _signal(self, number: signal.Signals) -> None:
        assert self.child is not None
        if self.child.poll() is None:
            os.kill(self.child.pid, number)


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    # proc(5), fields 14 and 15, in clock ticks; the second, the command's name, may contain blanks and brackets.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def running(
    stage: str, environment: Mapping[str, str] | None = None, *, host: str = "127.0.0.1", module: str = ""
) -> AsyncIterator[StageProcess]:
    """A stage that serves, and is killed in the end."""
    process = StageProcess(stage, host, environment or {}, module)
    try:
        await process.start()
        yield process
    finally:
        await process.close()


def reserve(host: str, port: int = 0) -> socket.socket:
    """Hold a free port without listening on it, so that only the process that is told of it takes it."""
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((host, port))
    return holder


async def metric(address: str, name: str, **labels: str) -> float:
    """The sum of a process's series of that name with these labels. `address` is that of its metrics."""

    def read() -> str:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as reply:
            return str(reply.read().decode())

    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    lines = (await asyncio.to_thread(read)).splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.partition("{")[0].partition(" ")[0] == name and all(label in line for label in wanted)
    )
