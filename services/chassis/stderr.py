"""Standard error as a place for logs that never makes a stage wait.

A pipe that is not read, or a disk that hangs, blocks whoever writes. So a thread writes the lines, and as many as find
no room are dropped and counted.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import stat
import threading
import time
from collections import deque
from functools import cache

from prometheus_client import Counter

dropped_lines = Counter("sluice_log_lines_dropped_total", "Log lines that found no reader in time.")

MOST_BYTES = 4 * 2**20
"""Size of the lines that may wait."""
LAST_SECONDS = 1.0
"""Time that lines have to be written when the process ends."""


class LineWriter:
    """Writes lines to a file descriptor in a thread of its own; used like a stream by `logging`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        # A daemon: a write that hangs must not keep the process from ending.
        threading.Thread(target=self._run, name="log", daemon=True).start()
        atexit.register(self.flush, LAST_SECONDS)

    def write(self, text: str) -> None:
        """Queue some text, or drop it if too much waits."""
        line = text.encode(errors="backslashreplace")
        with self._changed:
            if self._bytes + len(line) > MOST_BYTES:
                dropped_lines.inc()
                return
            self._lines.append(line)
            self._bytes += len(line)
            self._changed.notify_all()

    def flush(self, seconds: float = 0.0) -> None:
        """Wait until all is written, for some seconds at most; `logging` asks for none after each line."""
        if seconds:
            end = time.monotonic() + seconds
            with self._changed:
                while self._bytes and (left := end - time.monotonic()) > 0:
                    self._changed.wait(left)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines:
                    self._changed.wait()
                line = self._lines[0]
            self._put(line)
            with self._changed:
                self._lines.popleft()
                self._bytes -= len(line)
                self._changed.notify_all()

    def _put(self, line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError:  # the reader has gone, and nothing more can be told
                return


@cache
def standard_error() -> LineWriter:
    """The writer of this process."""
    return LineWriter(2)


def unblock() -> None:
    """Let no native library of this process block on standard error, if that is a pipe.

    The pipe is opened again: a flag on the one that was inherited would hold for other processes, too.
    """
    with contextlib.suppress(OSError):
        if stat.S_ISFIFO(os.fstat(2).st_mode):
            again = os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK)
            os.dup2(again, 2)
            os.close(again)
