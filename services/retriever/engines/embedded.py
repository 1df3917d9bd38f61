"""Passages in Qdrant's embedded engine: one process, one folder."""

from __future__ import annotations

import asyncio
import json
import math
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from qdrant_client.local.async_qdrant_local import META_INFO_FILENAME, AsyncQdrantLocal
from qdrant_client.local.persistence import STORAGE_FILE_NAME

from services.chassis import logs
from services.chassis.errors import DeadlineExceeded, FailedPrecondition, StartupError
from services.retriever.engines import local_filters, local_mode
from services.retriever.engines.calls import observed, time_limit
from services.retriever.engines.errors import embedded_error
from services.retriever.engines.local_mode import Storage
from services.retriever.engines.qdrant import Operation, QdrantStore
from services.retriever.fields import Schema
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings
from services.retriever.store import Deadline, Description

T = TypeVar("T")

_LOST = (
    "Put the file back from a backup of the folder. Without one, move the folder away, start again and restore "
    "snapshots (QDRANT_SNAPSHOT_PATH), or index again."
)

_log = logs.get_logger("retriever")


class EmbeddedStore(QdrantStore):
    """Passages in the embedded engine.

    The engine computes synchronously, so it has a thread to itself: one operation at a time.
    """

    def __init__(self, client: AsyncQdrantLocal, thread: ThreadPoolExecutor, metrics: RetrieverMetrics) -> None:
        """Use `open`."""
        self._client = client
        self._thread = thread
        self._runner = asyncio.Runner()
        self._data = Path(str(client.location))
        self._metrics = metrics
        for folder, problem in Storage.damaged.items():
            if folder.parent.parent == self._data:
                _log.error("version damaged", version=folder.name, problem=problem)

    @classmethod
    async def open(cls, settings: RetrieverSettings, metrics: RetrieverMetrics) -> EmbeddedStore:
        """Open the data folder that the settings name, or create it. Raises StartupError if it cannot be had."""
        thread = ThreadPoolExecutor(1, "qdrant")
        folder = settings.qdrant_path

        def engine() -> AsyncQdrantLocal:
            local_mode.tune()
            local_filters.tune()
            _check_folder(folder)
            # SQLite's connections belong to the thread that opened them.
            return AsyncQdrantLocal(str(folder))

        try:
            client = await asyncio.get_running_loop().run_in_executor(thread, engine)
        except (OSError, RuntimeError, ValueError, sqlite3.Error) as error:
            thread.shutdown(wait=False)
            raise StartupError(
                f"QDRANT_PATH: the embedded Qdrant cannot use the folder {folder}: {error}",
                remedy="One process owns a data folder at a time: stop the other one (`make down`), choose another "
                "QDRANT_PATH, or run a Qdrant server and set QDRANT_URL.",
            ) from error
        metrics.pool_size.set(1)
        return cls(client, thread, metrics)

    async def call(self, name: str, deadline: Deadline, operation: Operation[T]) -> T:
        """Run an operation in the engine's thread. One that has begun ends at the deadline where it checks filters."""
        end = math.inf if deadline is None else deadline

        async def run() -> T:
            return await operation(self._client)

        submitted = time.monotonic()

        def work() -> T:
            self._metrics.pool_wait_seconds.observe(time.monotonic() - submitted)
            if time.monotonic() >= end:
                raise TimeoutError
            with self._metrics.pool_in_use.track_inprogress(), local_filters.ending(end):
                return self._runner.run(run())

        with observed(self._metrics, name):
            try:
                async with time_limit(end):
                    return await asyncio.get_running_loop().run_in_executor(self._thread, work)
            except TimeoutError as error:
                raise DeadlineExceeded("the embedded Qdrant did not answer in time") from error
            except (ValueError, OSError, sqlite3.Error) as error:
                raise embedded_error(error) from error

    async def close(self) -> None:
        """Wait for the operation under way and free the folder."""

        def close() -> None:
            self._runner.run(self._client.close())
            self._runner.close()

        await asyncio.get_running_loop().run_in_executor(self._thread, close)
        self._thread.shutdown()

    async def check(self, deadline: Deadline) -> None:
        """Look for the folder's index of versions: the engine itself would only queue a call behind the work."""
        if not (self._data / META_INFO_FILENAME).is_file():
            raise FailedPrecondition(
                f"{self._data / META_INFO_FILENAME} is gone, so nothing that is stored will be found after a restart; "
                "put it back from a backup",
                reason="INDEX_LOST",
            )

    async def describe(self, name: str, deadline: Deadline) -> Description:
        found = await super().describe(name, deadline)
        if problem := Storage.damaged.get(self._data / "collection" / found.version):
            raise FailedPrecondition(
                f"version {found.version!r} is damaged: {problem}. Restore a snapshot of the collection, or delete it "
                "and index again",
                reason="VERSION_DAMAGED",
                version=found.version,
            )
        return found

    async def drop(self, version: str, deadline: Deadline) -> None:
        await super().drop(version, deadline)
        Storage.damaged.pop(self._data / "collection" / version, None)

    async def declare(self, version: str, schema: Schema, deadline: Deadline, tenant: str = "") -> None:
        """Do nothing: the engine has no payload indexes."""


def _check_folder(folder: Path) -> None:
    """Raise StartupError where passages are stored that the folder's index of versions does not name."""
    for path in [path for path in Storage.damaged if path.parent.parent == folder]:
        del Storage.damaged[path]  # found when it was opened before
    index = folder / META_INFO_FILENAME
    stored = {path.parent.name for path in folder.glob(f"collection/*/{STORAGE_FILE_NAME}")}
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["collections"]) if index.exists() else set()
    except (ValueError, LookupError, TypeError) as error:
        raise StartupError(f"QDRANT_PATH: {index} cannot be read: {error}", remedy=_LOST) from error
    if stored and not index.exists():
        names = ", ".join(sorted(stored))
        raise StartupError(f"QDRANT_PATH: {index} is missing, and {folder} holds the passages of {names}", remedy=_LOST)
    for name in named - stored:
        Storage.damaged[folder / "collection" / name] = "its file is missing"
