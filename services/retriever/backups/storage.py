"""Files of snapshots in a folder or in object storage: `ROOT/VERSION/NAME/`, the manifest last.

A snapshot without its manifest is not offered, so a process that is killed never leaves half of one.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from services.chassis.errors import DeadlineExceeded, FailedPrecondition, ResourceExhausted, StartupError
from services.retriever.backups.format import MANIFEST
from services.retriever.store import Deadline, number_of
from sluice.type.v1 import collection_pb2 as pb

T = TypeVar("T")

# Longer than it takes to write one part: what has no manifest and has not grown since is nobody's work any more.
LEFTOVER_SECONDS = 3600.0

_NAME = re.compile(r"(?P<version>.+)-(?P<moment>\d{4}-\d\d-\d\d-\d\d-\d\d-\d\d-\d{6})")
_MOMENT = "%Y-%m-%d-%H-%M-%S-%f"
_PARTIAL = f"{MANIFEST}.partial"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of a version as it was at a moment."""

    name: str
    version: str
    created: datetime
    size_bytes: int

    def to_proto(self) -> pb.Snapshot:
        """Write the snapshot."""
        message = pb.Snapshot(name=self.name, version=self.version, size_bytes=self.size_bytes)
        message.create_time.FromDatetime(self.created)
        return message


class SnapshotStorage:
    """Reads and writes the files of snapshots.

    Errors are FailedPrecondition (SNAPSHOT_STORAGE) and ResourceExhausted (STORAGE_FULL): searching goes on without it.
    """

    def __init__(self, url: str, *, leftover_seconds: float = LEFTOVER_SECONDS) -> None:
        """Use a folder, or what an fsspec URL names, as `s3://bucket/folder`; credentials are in the environment."""
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError, OSError) as error:
            raise StartupError(
                f"QDRANT_SNAPSHOT_PATH: {url.partition('?')[0]} cannot be used: {error}",
                remedy="Name a folder, or a URL whose package is installed: s3fs for s3://, gcsfs for gs://.",
            ) from error
        self._leftover_seconds = leftover_seconds
        # One thread: what is written under way ends before what comes after it.
        self._thread = ThreadPoolExecutor(1, "snapshots")

    def new_name(self, version: str) -> str:
        """Return the name of a snapshot that is taken now."""
        return f"{version}-{datetime.now(UTC):{_MOMENT}}"

    async def write(self, version: str, name: str, file: str, content: bytes, deadline: Deadline) -> None:
        """Write a file, durably; the manifest appears whole or not at all."""
        folder = self._folder(version, name)

        def write() -> None:
            if isinstance(self._files, LocalFileSystem):
                self._files.makedirs(folder, exist_ok=True)
            unseen = f"{folder}/{_PARTIAL if file == MANIFEST else file}"
            with self._files.open(unseen, "wb") as opened:
                opened.write(content)
                opened.flush()
                with suppress(io.UnsupportedOperation, AttributeError):  # object storage has no descriptors
                    os.fsync(opened.fileno())
            if file == MANIFEST:
                self._files.mv(unseen, f"{folder}/{MANIFEST}")

        await self._run(write, deadline)

    async def read(self, version: str, name: str, file: str, deadline: Deadline) -> bytes:
        """Read a file; empty if it is missing."""

        def read() -> bytes:
            try:
                content: bytes = self._files.cat_file(f"{self._folder(version, name)}/{file}")
            except FileNotFoundError:
                return b""
            return content

        return await self._run(read, deadline)

    async def find(self, collection: str, deadline: Deadline) -> list[Snapshot]:
        """Return the whole snapshots of a collection's versions, or of a version, in no order."""

        def find() -> list[Snapshot]:
            return [
                Snapshot(name, version, _moment_of(name), sum(int(file.get("size") or 0) for file in files.values()))
                for version in self._versions()
                if version == collection or number_of(collection, version)
                for name, files in self._names(version).items()
                if MANIFEST in files
            ]

        return await self._run(find, deadline)

    async def delete(self, version: str, name: str, deadline: Deadline) -> None:
        """Delete a snapshot, its manifest first."""
        await self._run(lambda: self._delete(version, name), deadline)

    async def clear(self, version: str, deadline: Deadline) -> None:
        """Delete what was begun for a version, and has no manifest, and nobody has written to for a while."""

        def clear() -> None:
            before = datetime.now(UTC) - timedelta(seconds=self._leftover_seconds)
            for name, files in self._names(version).items():
                written = [_time_of(self._files, file["name"]) for file in files.values()]
                if MANIFEST not in files and max(written) < before:
                    self._delete(version, name)

        await self._run(clear, deadline)

    def close(self) -> None:
        """Wait for what is under way."""
        self._thread.shutdown()

    def _folder(self, version: str, name: str = "") -> str:
        return f"{self._root}/{version}/{name}".rstrip("/")

    def _versions(self) -> list[str]:
        self._files.invalidate_cache()
        try:
            return [str(path).rstrip("/").rpartition("/")[2] for path in self._files.ls(self._root, detail=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _names(self, version: str) -> dict[str, dict[str, dict[str, Any]]]:
        """Return the files of all that has the name of a snapshot of a version, whole or not."""
        self._files.invalidate_cache()
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for path, file in self._files.find(self._folder(version), detail=True).items():
            *_, name, short = str(path).split("/")
            if (matched := _NAME.fullmatch(name)) and matched["version"] == version:
                found.setdefault(name, {})[short] = file
        # What has other files is an older release's, or somebody else's.
        return {name: files for name, files in found.items() if all(map(_is_ours, files))}

    def _delete(self, version: str, name: str) -> None:
        folder = self._folder(version, name)
        for file in (f"{folder}/{MANIFEST}", folder):
            with suppress(FileNotFoundError):
                self._files.rm(file, recursive=file == folder)

    async def _run(self, work: Callable[[], T], deadline: Deadline) -> T:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                with _errors():
                    return await loop.run_in_executor(self._thread, work)
        except TimeoutError as error:
            raise DeadlineExceeded("the storage of snapshots did not answer in time") from error


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each kind of storage has its own
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceExhausted(
                "there is no room for the snapshot in QDRANT_SNAPSHOT_PATH; delete old ones (`sluice snapshot prune`), "
                "or give it more room",
                reason="STORAGE_FULL",
            ) from error
        raise FailedPrecondition(
            f"QDRANT_SNAPSHOT_PATH cannot be used ({type(error).__name__}); see that it exists, and that the retriever "
            "may read and write there",
            reason="SNAPSHOT_STORAGE",
        ) from error


def _is_ours(file: str) -> bool:
    return file in (MANIFEST, _PARTIAL) or file.startswith("part-")


def _moment_of(name: str) -> datetime:
    return datetime.strptime(name[-len("2026-01-01-00-00-00-000000") :], _MOMENT).replace(tzinfo=UTC)


def _time_of(files: Any, path: str) -> datetime:
    found: datetime = files.modified(path)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
