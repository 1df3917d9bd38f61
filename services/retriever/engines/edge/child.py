"""The child process that computes: Qdrant Edge holds the interpreter's lock, panics, and dies where a disk is full.

`python -m services.retriever.engines.edge.child FOLDER RESERVE PARENT`, with a socket as its standard input. It ends
with its parent, however that ends.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from services.chassis.errors import DeadlineExceeded, Internal, SluiceError
from services.retriever.engines.edge.catalogue import CatalogueLost
from services.retriever.engines.edge.folder import Broken, DataFolder
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
    pack_error,
)

LOCK = "lock"
LOCK_SECONDS = 3.0
"""Time that an orphan has to go."""

_READS = frozenset({"catalogue", "describe", "search", "holders", "compare", "read", "scroll", "count", "facet"})
_MOST_READS = 8  # in a row, while a write waits
_BREATH, _PAUSE = 0.02, 0.5  # seconds without a call before housekeeping begins, and after it has ended
_BUSY_PAUSE = 1.0  # seconds after which it has a turn even so
_PR_SET_PDEATHSIG = 1


class Locked(Exception):
    """Another process has the folder."""


class _Waiting(NamedTuple):
    request: Request
    size: int
    arrived: float


class Server:
    """Answers calls one at a time, reads before writes."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._received = bytearray()
        self._reads: deque[_Waiting] = deque()
        self._writes: deque[_Waiting] = deque()
        self._told: Health | None = None

    def log(self, level: str, event: str, **fields: Any) -> None:
        """Have the parent log something."""
        self.send((LOG, level, event, fields))

    def send(self, message: Any) -> None:
        """Send a message."""
        self._link.sendall(frame(message))

    def run(self, folder: DataFolder) -> None:
        """Answer until the parent hangs up."""
        pause, kept_house, streak = _BREATH, time.monotonic(), 0
        while self._take_in(0.0 if self._reads or self._writes else pause):
            if not self._reads and not self._writes:
                worked = False
            elif self._reads and (streak < _MOST_READS or not self._writes):
                worked, streak = True, streak + 1
                self._answer(folder, self._reads.popleft())
            else:
                worked, streak = True, 0
                self._answer(folder, self._writes.popleft())
            if worked and time.monotonic() - kept_house < _BUSY_PAUSE:
                pause = _BREATH
                continue
            pause = 0.0 if self._keep_house(folder) else _PAUSE
            kept_house = time.monotonic()

    def _keep_house(self, folder: DataFolder) -> bool:
        try:
            return folder.idle()
        except SluiceError as error:
            self.log("error", "housekeeping failed", problem=error.message)
            return False
        finally:
            self._tell(folder.health)

    def _tell(self, health: Health) -> None:
        if health != self._told:
            self.send((HEALTH, *health))
            self._told = health

    def _take_in(self, timeout: float) -> bool:
        """Receive what is there, waiting for it for some seconds; false where the parent has hung up."""
        while select.select([self._link], [], [], timeout)[0]:
            if not (some := self._link.recv(2**20)):
                return False
            self._received += some
            timeout = 0.0
        arrived = time.monotonic()
        for body in self._frames():
            request = Request(*message_of(body))
            (self._reads if request.method in _READS else self._writes).append(_Waiting(request, len(body), arrived))
        return True

    def _frames(self) -> Iterator[bytes]:
        start = 0
        while len(self._received) >= (body := start + LENGTH.size):
            end = body + LENGTH.unpack_from(self._received, start)[0]
            if len(self._received) < end:
                break
            yield bytes(self._received[body:end])
            start = end
        del self._received[:start]

    def _answer(self, folder: DataFolder, waiting: _Waiting) -> None:
        number, method, end, arguments = waiting.request
        begun = time.monotonic()
        error, result = None, None
        try:
            if begun >= end:
                raise DeadlineExceeded("the embedded Qdrant did not answer in time")
            if method == "write":
                arguments = (*arguments, waiting.size)
            result = getattr(folder, method)(*arguments)
        except SluiceError as failure:
            error = pack_error(failure)
        except Broken as failure:
            self.send(Answer(number, pack_error(failure.answer), None, 0.0))
            raise
        except BaseException as failure:  # panics of the engine are no Exception
            self.log("error", "call failed", call=method, problem=type(failure).__name__)
            error = pack_error(Internal(f"the embedded Qdrant failed with {type(failure).__name__}"))
        self.send(Answer(number, error, result, begun - waiting.arrived))


class _ToParent(logging.Handler):
    """Has the parent log what is logged here."""

    def __init__(self, server: Server) -> None:
        super().__init__(logging.WARNING)
        self._server = server

    def emit(self, record: logging.LogRecord) -> None:
        self._server.log(record.levelname.lower(), record.getMessage())


def lock(folder: Path) -> None:
    """Take the folder, for as long as this process lives; Locked if another one has it."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise Locked("another process has it") from None
            time.sleep(0.05)
        else:
            return


def main() -> None:
    """Open the folder and serve the parent."""
    folder, reserve, parent = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    # A terminal signals all of its processes, and the parent lets calls end first.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    link = socket.socket(fileno=os.dup(0))
    server = Server(link)
    logging.getLogger().addHandler(_ToParent(server))
    try:
        lock(folder)
        data = DataFolder(folder, reserve, server.log)
    except (OSError, Locked, CatalogueLost) as error:
        server.send((HELLO, (type(error).__name__, str(error)), None, 0.0))
        return
    try:
        server.send((HELLO, None, None, 0.0))
        server.run(data)
    except Broken:
        os._exit(BROKEN_STATUS)
    except OSError:
        pass  # the parent is gone
    data.close()


if __name__ == "__main__":
    main()
