"""The parent's side of the child process: calls to it, and its life."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from services.chassis import logs
from services.chassis.errors import DeadlineExceeded, SluiceError, StartupError, Unavailable
from services.retriever.engines.calls import observed, time_limit
from services.retriever.engines.edge.catalogue import free_bytes, storage_full
from services.retriever.engines.edge.wire import (
    BROKEN_STATUS,
    HEALTH,
    HELLO,
    LENGTH,
    LOG,
    Answer,
    Health,
    Request,
    frame,
    message_of,
    unpack_error,
)
from services.retriever.metrics import RetrieverMetrics
from services.retriever.store import Deadline

_MODULE = "services.retriever.engines.edge.child"
_BUFFER_BYTES = 4 * 2**20
_WAIT_SECONDS = 10.0  # that a call waits for the child's next life, where its deadline leaves more
_RETRY_SECONDS, _ROOM_SECONDS = 1.0, 0.5  # between lives that fail to begin, and looks for room
_END_SECONDS, _HANG_SECONDS = 60.0, 5.0  # that the child has for its last flush, and to end when it has hung up
_LOST = (
    "Put the file back from a backup of the folder. Without one, move the folder away, start again and restore "
    "snapshots, or index again."
)
_TAKEN = (
    "One process owns a data folder at a time: stop the other one (`make down`), choose another QDRANT_PATH, or run a "
    "Qdrant server and set QDRANT_URL."
)

_log = logs.get_logger("retriever")


class ChildDied(Exception):
    """The child process ended during a call."""


class ChildProcess:
    """Calls to the child process, which is started again when it dies."""

    def __init__(self, folder: Path, reserve: int, metrics: RetrieverMetrics) -> None:
        """Use `start`."""
        self._folder = folder
        self._reserve = reserve
        self._metrics = metrics
        self._calls: dict[int, asyncio.Future[Answer]] = {}
        self._number = HELLO
        self._alive = asyncio.Event()
        self._closing = False
        self._full = False
        self._health = Health()
        self._life: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def pid(self) -> int | None:
        """Id of the child; None while there is none."""
        return self._process.pid if self._process is not None and self._alive.is_set() else None

    @property
    def problem(self) -> SluiceError | None:
        """Return the reason why the child cannot be called."""
        if self._alive.is_set():
            return None
        if self._full:
            return storage_full()
        return Unavailable("the embedded Qdrant has died and is being started again", reason="ENGINE_RESTARTS")

    async def start(self) -> None:
        """Start the child for the first time; StartupError if the folder cannot be had."""
        try:
            await self._begin()
        except OSError as error:
            raise _refused(self._folder, type(error).__name__, str(error)) from error
        self._metrics.pool_size.set(1)
        self._life = asyncio.create_task(self._live())

    async def call(
        self, name: str, method: str, deadline: Deadline, arguments: Sequence[Any], *, again: bool = True
    ) -> Any:
        """Have the child do something; `again` repeats it once if the child dies meanwhile. `name` is for its span."""
        end = math.inf if deadline is None else deadline
        with observed(self._metrics, name):
            try:
                async with time_limit(end):
                    try:
                        return await self._ask(method, end, arguments)
                    except ChildDied:
                        if again and not self._full:
                            return await self._ask(method, end, arguments)
                        raise
            except TimeoutError as error:
                raise DeadlineExceeded("the embedded Qdrant did not answer in time") from error
            except ChildDied as error:
                raise self.problem or Unavailable("the embedded Qdrant died", reason="ENGINE_RESTARTS") from error

    async def close(self) -> None:
        """Have the child flush and end."""
        self._closing = True
        if self._writer is not None:
            self._writer.close()
        if self._process is not None:
            await self._ended(_END_SECONDS)
        if self._life is not None:
            self._life.cancel()
            with suppress(asyncio.CancelledError):
                await self._life
        self._fail_calls()

    async def _ask(self, method: str, end: float, arguments: Sequence[Any]) -> Any:
        if not self._alive.is_set():
            await self._next_life()
        writer = self._writer
        assert writer is not None  # noqa: S101  it is alive
        self._number += 1
        number = self._number
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._calls[number] = answered
        self._count_calls()
        try:
            try:
                writer.write(frame(Request(number, method, end, tuple(arguments))))
                await writer.drain()
            except OSError as error:
                if writer is self._writer:
                    self._alive.clear()  # which its reader will find, too
                raise ChildDied from error
            answer = await answered
        finally:
            del self._calls[number]
            self._count_calls()
        self._metrics.pool_wait_seconds.observe(answer.waited)
        if answer.error is not None:
            raise unpack_error(answer.error)
        return answer.result

    async def _next_life(self) -> None:
        """Wait until the child is alive; raise the problem if that takes too long, or takes somebody's help."""
        if not self._full and not self._closing:
            with suppress(TimeoutError):
                async with asyncio.timeout(_WAIT_SECONDS):
                    await self._alive.wait()
        if (problem := self.problem) is not None:
            raise problem

    async def _ended(self, seconds: float) -> int:
        """Return the status of the child, which ends now; after some seconds, make it end."""
        assert self._process is not None  # noqa: S101  there was one
        try:
            async with asyncio.timeout(seconds):
                return await self._process.wait()
        except TimeoutError:
            # Not before: asking for its state, as this does, takes the status away from those who wait for it.
            with suppress(ProcessLookupError):
                self._process.kill()
            return await self._process.wait()

    def _count_calls(self) -> None:
        self._metrics.pool_in_use.set(bool(self._calls))
        self._metrics.pool_waiting.set(max(0, len(self._calls) - 1))

    def _fail_calls(self) -> None:
        for answered in self._calls.values():
            if not answered.done():
                answered.set_exception(ChildDied())

    async def _begin(self) -> None:
        """Start a child, and return when it has opened the folder."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", _MODULE, str(self._folder), str(self._reserve), str(os.getpid())),
                stdin=theirs.fileno(),
                stdout=asyncio.subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "RUST_BACKTRACE": "0"},
            )
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=_BUFFER_BYTES)
        hello: Answer | None = None
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            hello = await self._receive()
        if hello is None or hello.error is not None:
            self._writer.close()
            status = await self._ended(_HANG_SECONDS)
            self._full = status == -signal.SIGBUS
            kind, problem = "", f"its process ended with status {status}"
            if hello is not None and hello.error is not None:
                kind, problem = hello.error
            raise _refused(self._folder, kind, problem)
        self._full = False
        self._health = self._health._replace(logs_set_aside=0)  # as it counts
        self._alive.set()
        self._metrics.engine_down.set(0)

    async def _live(self) -> None:
        """Read answers; when the child dies, fail the calls under way and start another one."""
        while True:
            await self._read()
            if self._closing:
                return
            assert self._process is not None  # noqa: S101  it was alive
            self._alive.clear()
            status = await self._ended(_HANG_SECONDS)
            # Memory-mapped files of a full disk: there is no error that a write could report.
            self._full = status == -signal.SIGBUS
            cause = _cause(status)
            self._metrics.engine_down.set(1)
            self._metrics.engine_deaths.labels(cause).inc()
            _log.error("engine died", cause=cause, status=status, calls=len(self._calls))
            self._fail_calls()
            await self._begin_again()

    async def _read(self) -> None:
        """Deliver answers until the child hangs up."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                answer = await self._receive()
                answered = self._calls.get(answer.number)
                if answered is not None and not answered.done():  # else its caller has gone
                    answered.set_result(answer)

    async def _receive(self) -> Answer:
        assert self._reader is not None  # noqa: S101  there is a child
        while True:
            [length] = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
            message = message_of(await self._reader.readexactly(length))
            if message[0] == LOG:
                _, level, event, fields = message
                getattr(_log, level)(event, **fields)
            elif message[0] == HEALTH:
                self._note_health(Health(*message[1:]))
            else:
                return Answer(*message)

    def _note_health(self, health: Health) -> None:
        self._metrics.engine_damaged_versions.set(health.damaged)
        self._metrics.engine_versions_not_rebuilt.set(health.not_rebuilt)
        self._metrics.engine_logs_set_aside.inc(health.logs_set_aside - self._health.logs_set_aside)
        self._health = health

    async def _begin_again(self) -> None:
        """Start the next child, as soon as there is room on the disk."""
        while not self._closing:
            if self._full and free_bytes(self._folder) < self._reserve:
                await asyncio.sleep(_ROOM_SECONDS)
                continue
            try:
                await self._begin()
            except (StartupError, OSError) as error:
                _log.error("engine not started", problem=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                _log.info("engine started again")
                return


def _cause(status: int) -> str:
    """Return the cause of a death, as the series name it."""
    causes = {-signal.SIGBUS: "storage_full", -signal.SIGKILL: "killed", BROKEN_STATUS: "version_broken"}
    return causes.get(status, "crashed")


def _refused(folder: Path, kind: str, problem: str) -> StartupError:
    return StartupError(
        f"QDRANT_PATH: the embedded Qdrant cannot use the folder {folder}: {problem}",
        remedy=_LOST if kind == "CatalogueLost" else _TAKEN,
    )
