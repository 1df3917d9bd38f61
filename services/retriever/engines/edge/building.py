"""Building the next generation of a shard, with its graph, in a process of its own.

Building a graph takes 1 ms a passage or more, and holds the interpreter's lock: within the child, readers would wait.
The process gets passages, makes the graph, gets what has changed meanwhile, and ends. It ends with its parent, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import qdrant_edge as edge

from services.retriever.engines.edge.catalogue import sync
from services.retriever.engines.edge.configuration import to_config, to_index
from services.retriever.engines.edge.generations import State
from services.retriever.engines.edge.points import Portable, from_portable, portable
from services.retriever.engines.edge.wire import message_of, pack
from services.retriever.store import PointId

Indexes = Mapping[str, tuple[str, bool]]
"""Kind of each index by its path, and True where tenants are told apart by it."""

_MODULE = "services.retriever.engines.edge.building"
_KILLED_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_NICENESS = 10


class BuildFailed(Exception):
    """The process that builds has died, or could not go on."""


class Builder:
    """The process that builds a generation, as its parent sees it. Orders are queued, and done one after another."""

    def __init__(self, folder: Path, state: State, indexes: Indexes) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  this interpreter, this module
                [sys.executable, "-m", _MODULE, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self.indexed = 0
        """Passages that the graph was made of."""
        self._pipe = Connection(ours.detach())  # for bytes alone: its `recv` would unpickle
        self._under_way = 0
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._sender = threading.Thread(target=self._send, name="builder", daemon=True)
        self._sender.start()
        self._order("create", str(folder), state.to_json(), dict(indexes))

    def under_way(self) -> int:
        """Return the number of orders that are not done yet. Raises BuildFailed if one failed."""
        try:
            while self._under_way and self._pipe.poll():
                problem, result = message_of(self._pipe.recv_bytes())
                if problem:
                    raise BuildFailed(problem)
                self._under_way -= 1
                self.indexed = max(self.indexed, result)
        except (EOFError, OSError) as error:
            raise BuildFailed("the process has ended") from error
        return self._under_way

    def store(self, gone: Iterable[PointId], records: Iterable[edge.Record]) -> None:
        """Remove passages and store others; they are copied by now."""
        self._order("store", list(gone), [portable(record) for record in records])

    def build(self) -> None:
        """Make the graph of what is there."""
        self._order("build")

    def flush(self) -> None:
        """Put everything on the disk."""
        self._order("flush")

    def close(self) -> None:
        """Free the folder."""
        self._order("close")

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._queue.put(None)
        self._sender.join()
        self._pipe.close()

    def _order(self, name: str, *arguments: Any) -> None:
        # Copied now, sent by a thread: a process that has no processor to spare would keep readers waiting.
        self._queue.put(pack((name, *arguments)))
        self._under_way += 1

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            while (order := self._queue.get()) is not None:
                self._pipe.send_bytes(order)


class _Work:
    """Orders, in the process that builds."""

    def __init__(self) -> None:
        self._folder: Path
        self._shard: edge.EdgeShard

    def create(self, folder: str, written: str, indexes: Indexes) -> None:
        state = State.from_json(written)
        self._folder = Path(folder)
        self._folder.mkdir()
        threads = max(1, (os.cpu_count() or 1) // 2)
        config = to_config(state.dimension, state.layout, state.token_dimension, threads=threads)
        self._shard = edge.EdgeShard.create(folder, config)
        for key, (kind, tenant) in indexes.items():
            self._shard.update(edge.UpdateOperation.create_field_index(key, to_index(kind, tenant=tenant)))

    def store(self, gone: Sequence[PointId], points: Sequence[Portable]) -> None:
        store(self._shard, gone, points)

    def build(self) -> int:
        self._shard.optimize()
        return self._shard.info().points_count

    def flush(self) -> None:
        self._shard.flush()

    def close(self) -> None:
        self._shard.close()
        # Edge syncs what is in its files; that the files are there has to outlive a power failure as well.
        for path in (self._folder, *self._folder.rglob("*")):
            sync(path)


def store(shard: edge.EdgeShard, gone: Collection[PointId], points: Iterable[Portable]) -> None:
    """Remove passages from a shard and store others."""
    if gone:
        shard.update(edge.UpdateOperation.delete_points([*gone]))
    if new := [from_portable(*point) for point in points]:
        shard.update(edge.UpdateOperation.upsert_points(new))


def _main() -> None:
    ctypes.CDLL(None).prctl(_KILLED_WITH_PARENT, signal.SIGKILL)
    os.nice(_NICENESS)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a terminal signals the whole group, and the parent drains first
    pipe = Connection(int(sys.argv[1]))
    work = _Work()
    with contextlib.suppress(EOFError, OSError):
        while True:
            name, *arguments = message_of(pipe.recv_bytes())
            order: Callable[..., int | None] = getattr(work, name)
            try:
                result = order(*arguments)
            except BaseException as error:
                pipe.send_bytes(pack((f"{name}: {type(error).__name__}", 0)))
                return
            pipe.send_bytes(pack(("", result or 0)))


if __name__ == "__main__":
    _main()
