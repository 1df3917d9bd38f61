"""The audit log of a process: a file of JSON lines, written by a thread of its own.

A call leaves its record in a bounded queue and goes on. What finds no room is dropped, counted, and told in the log
itself as soon as it can be written again; half of the queue is for calls that change something, so that others cannot
crowd them out. Where the log is required, such a call is refused instead, and answered only when its line is written.

Refusals of the same kind by the same caller within a second share a line that has their number.

The file may be renamed at any time, as logrotate does: the next line makes a new one.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Gauge

from services.chassis import logs
from services.chassis.audit.chain import Chain
from services.chassis.errors import StartupError, Unavailable

lines_written = Counter("sluice_audit_lines_total", "Lines written to the audit log.")
lines_dropped = Counter(
    "sluice_audit_lines_dropped_total", "Lines that found no room in the queue of the audit log, and are lost."
)
write_failing = Gauge("sluice_audit_failing", "1 while the audit log cannot be written; else 0.")

QUEUE_LINES = 8192
GATHER_SECONDS, GATHERED_LINES = 0.1, 256
"""Time in which lines are gathered for one write, and the number with which it ends."""
RETRY_SECONDS = 0.5
"""Pause after a write that failed."""
WRITTEN_SECONDS = 5.0
"""Longest wait of a call for its line, where the log is required."""
LAST_SECONDS = 5.0
"""Time that lines have to be written when the stage stops."""
REPEAT_SECONDS = 1.0
"""Time within which refusals of the same kind share a line."""
MOST_REPEATED = 4096

_log = logs.get_logger("audit")

Record = dict[str, Any]


@dataclass(slots=True)
class _Queued:
    record: Record
    written: asyncio.Future[None] | None = None


@dataclass(slots=True)
class _Repeated:
    """Refusals of one kind that came after the one that was written."""

    record: Record
    until: float
    count: int = 0


class AuditTrail:
    """Writes records to a file. `required` is as described above; with a `chain`, each line vouches for those before.

    Raises StartupError if the file cannot be written, or another process writes it.
    """

    def __init__(self, file: Path, *, chain: Chain | None = None, required: bool = False) -> None:
        self.required = required
        self._file = file
        self._chain = chain
        self._queue: deque[_Queued] = deque()
        self._repeated: dict[tuple[str, ...], _Repeated] = {}
        self._dropped = 0
        self._failing = False
        self._closing = False
        self._gathering = False
        self._changed = threading.Condition()
        self._descriptor = -1
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except BlockingIOError:
            raise StartupError(
                f"AUDIT_DIR: another process writes {file}", remedy="Give each process a folder of its own."
            ) from None
        except OSError as error:
            raise StartupError(
                f"AUDIT_DIR: {file} cannot be written: {error.strerror or error}",
                remedy="Let AUDIT_DIR name a folder that the stage may write, or leave it empty.",
            ) from error
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise Unavailable if the log is required and a line for a change would not be written."""
        if self.required and (self._failing or len(self._queue) >= QUEUE_LINES):
            raise Unavailable(
                "nothing may be changed while the audit log cannot be written; look at its disk",
                reason="AUDIT_UNAVAILABLE",
                retry_after=RETRY_SECONDS,
            )

    def add(self, record: Record, *, change: bool) -> None:
        """Queue a record, or drop and count it. `change` says that the call may have changed something."""
        self._put(_Queued(record), change=change)

    async def write(self, record: Record) -> None:
        """Write the record of a change, and wait until it is in the file. Raise Unavailable if it is not in time."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(_Queued(record, written), change=True)
        try:
            async with asyncio.timeout(WRITTEN_SECONDS):
                await written
        except TimeoutError:
            raise Unavailable(
                "the change was made, but the audit log could not be written; look at its disk",
                reason="AUDIT_UNAVAILABLE",
                retry_after=RETRY_SECONDS,  # so that no channel makes the change again by itself
            ) from None

    def add_refusal(self, kind: tuple[str, ...], record: Record) -> None:
        """Queue the record of a refusal, or count it with one of its kind that was written a moment ago."""
        with self._changed:
            repeated = self._repeated.get(kind)
            if repeated is not None:
                repeated.count += 1
                repeated.record = record
                return
            if len(self._repeated) < MOST_REPEATED:
                self._repeated[kind] = _Repeated(record, time.monotonic() + REPEAT_SECONDS)
        self._put(_Queued(record), change=False)

    def close(self) -> None:
        """Write what waits, for some seconds at most, and end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(LAST_SECONDS)
        if self._queue:
            lines_dropped.inc(len(self._queue))
            _log.error("lines of the audit log are lost", lines=len(self._queue))

    def _put(self, queued: _Queued, *, change: bool) -> None:
        with self._changed:
            if len(self._queue) >= (QUEUE_LINES if change else QUEUE_LINES // 2):
                self._dropped += 1
                lines_dropped.inc()
                return
            self._queue.append(queued)
            # A thread that gathers is woken only for what cannot wait.
            if not self._gathering or queued.written is not None or len(self._queue) >= GATHERED_LINES:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait(REPEAT_SECONDS if self._repeated else None)
                    self._tell_repeated()
                self._tell_repeated()
                if not self._queue:
                    break
                self._gather()
                if self._dropped:
                    self._queue.append(_Queued({"time": time.time(), "event": "dropped", "lines": self._dropped}))
                    self._dropped = 0
                batch = list(self._queue)
            while not self._write([each.record for each in batch]):
                if self._closing:
                    return
                time.sleep(RETRY_SECONDS)
            with self._changed:
                for _ in batch:
                    self._queue.popleft()
            lines_written.inc(len(batch))
            for each in batch:
                if each.written is not None:
                    each.written.get_loop().call_soon_threadsafe(_settle, each.written)
        os.close(self._descriptor)

    def _gather(self) -> None:
        """Wait a moment for more lines, for each write costs more than a line; not while a call waits for its own."""
        end = time.monotonic() + GATHER_SECONDS
        while not (self._closing or any(each.written is not None for each in self._queue)):
            left = end - time.monotonic()
            if left <= 0 or len(self._queue) >= GATHERED_LINES:
                return
            self._gathering = True
            self._changed.wait(left)
            self._gathering = False

    def _tell_repeated(self) -> None:
        """Queue a line for refusals that were counted, once their second is over."""
        now = time.monotonic()
        for kind, repeated in list(self._repeated.items()):
            if now < repeated.until and not self._closing:
                continue
            del self._repeated[kind]
            if repeated.count:
                self._queue.append(_Queued({**repeated.record, "count": repeated.count}))

    def _write(self, records: list[Record]) -> bool:
        """Write lines. False if they cannot be written; then nothing has changed."""
        try:
            self._reopen_if_moved()
            before = self._chain.state if self._chain else None
            lines = b"".join(self._line(record) for record in records)
            size = os.fstat(self._descriptor).st_size
            try:
                _write_all(self._descriptor, lines)
                if self._chain:
                    self._chain.keep()
            except OSError:
                os.ftruncate(self._descriptor, size)
                if self._chain and before:
                    self._chain.state = before
                raise
        except OSError as error:
            if not self._failing:
                _log.error("the audit log cannot be written", file=str(self._file), cause=error.strerror or str(error))
            self._failing = True
            write_failing.set(1)
            return False
        if self._failing:
            _log.info("the audit log is written again", file=str(self._file))
        self._failing = False
        write_failing.set(0)
        return True

    def _line(self, record: Record) -> bytes:
        moment = datetime.fromtimestamp(record["time"], UTC).isoformat(timespec="milliseconds")
        text = json.dumps({**record, "time": moment}, ensure_ascii=False, separators=(",", ":"))
        raw = text.encode(errors="replace")
        return (self._chain.linked(raw) if self._chain else raw) + b"\n"

    def _reopen_if_moved(self) -> None:
        own = os.fstat(self._descriptor)
        try:
            there = self._file.stat()
        except FileNotFoundError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino):
            os.close(self._descriptor)
            self._open()

    def _open(self) -> None:
        self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        torn = _cut_torn_line(self._descriptor)
        if self._chain:
            begin = self._chain.begin(self._file, torn_bytes=torn)
            _write_all(self._descriptor, self._line({"time": time.time(), **begin}))
            self._chain.keep()


def _settle(written: asyncio.Future[None]) -> None:
    if not written.done():
        written.set_result(None)


def _write_all(descriptor: int, lines: bytes) -> None:
    rest = memoryview(lines)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _cut_torn_line(descriptor: int) -> int:
    """Take off the last line if it has no end, as after a crash. Return its size."""
    size = os.fstat(descriptor).st_size
    end = size
    while end:
        start = max(0, end - 65_536)
        part = os.pread(descriptor, end - start, start)
        if (found := part.rfind(b"\n")) >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)
    return size - end
