"""The stages that are driven: gateway, rollout service and its database; real processes, two of which are killed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from deploy.local.paths import BUILD
from drills.feedback.traffic import KEY
from drills.parts.processes import StageProcess, processor_seconds
from tests.postgres_server import PostgresServer

DATABASES = ("postgresql", "sqlite")
UNLIMITED = {"CONCURRENCY_LOWEST": "200", "CONCURRENCY_INITIAL": "200"}
SERVICE = {"DRAIN_SECONDS": "0"}
GATEWAY = {**UNLIMITED, "FEEDBACK_KEYS": KEY, "BREAKER_RESET_SECONDS": "0.2", "DRAIN_SECONDS": "0"}


@dataclass
class World:
    """All of it."""

    url: str
    gateway: StageProcess
    rollout: StageProcess
    kills: Counter[str] = field(default_factory=Counter)

    @property
    def on_postgres(self) -> bool:
        """True if the database is PostgreSQL."""
        return self.url.startswith("postgresql")

    async def kill_one(self, chance: random.Random) -> None:
        """SIGKILL the service, or a process of PostgreSQL that serves it; return when the service serves again."""
        if self.on_postgres and chance.random() < 0.5:
            await asyncio.to_thread(self._kill_backend, chance)
            self.kills["postgresql"] += 1
        else:
            self.rollout.kill()
            await self.rollout.ended()
            self.kills["rollout"] += 1
            self.rollout.spawn()
        await self.rollout.serving()

    def _kill_backend(self, chance: random.Random) -> None:
        found = self.query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'")
        with suppress(ProcessLookupError):  # the one that asks has gone
            os.kill(chance.choice(found)[0], signal.SIGKILL)

    def query(self, statement: str) -> list[tuple[int, ...]]:
        """Rows of a statement; PostgreSQL is asked again while it recovers."""
        if not self.on_postgres:
            with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as file:
                return file.execute(statement).fetchall()
        while True:
            with suppress(psycopg.OperationalError), psycopg.connect(self.url) as connection:
                return connection.execute(statement.encode()).fetchall()

    def processor_seconds(self) -> dict[str, float]:
        """Processor time that the gateway, the service and the processes of PostgreSQL have used."""
        used = {"gateway": self.gateway.processor_seconds, "rollout": self.rollout.processor_seconds}
        if not self.on_postgres:
            return used
        processes = self.query("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        return used | {"postgresql": sum(processor_seconds(pid) for (pid,) in processes)}


@asynccontextmanager
async def world(database: str) -> AsyncIterator[World]:
    """All of them, serving."""
    BUILD.mkdir(exist_ok=True)
    async with AsyncExitStack() as stack:
        if database == "postgresql":
            url = stack.enter_context(PostgresServer(durable=True)).database()
        else:
            folder = Path(stack.enter_context(TemporaryDirectory(dir=BUILD, prefix="feedback-")))
            url = f"sqlite:///{folder / 'rollout.db'}"
        rollout = StageProcess("rollout", "127.0.0.1", SERVICE | {"ROLLOUT_DATABASE_URL": url})
        stack.push_async_callback(rollout.close)
        await rollout.start()
        gateway = StageProcess("gateway", "127.0.0.1", GATEWAY | {"ROLLOUT_ADDRESS": rollout.address})
        stack.push_async_callback(gateway.close)
        gateway.spawn()
        await _listening(gateway)
        yield World(url, gateway, rollout)


async def _listening(gateway: StageProcess) -> None:
    """Return when a gateway takes calls: its health is that of searches, and here nobody searches."""
    async with asyncio.timeout(60):
        while True:
            with suppress(OSError):
                _reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
                writer.close()
                return
            await asyncio.sleep(0.1)
