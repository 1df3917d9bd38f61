"""Copies of versions as they were at a moment, kept by the Qdrant server, or in a folder beside the embedded engine.

A snapshot is restored into a new version, never over one that exists.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from qdrant_client import AsyncQdrantClient, models
from qdrant_client.local.persistence import STORAGE_FILE_NAME, CollectionPersistence

from services.chassis.errors import InvalidArgument, NotFound
from services.retriever.index import (
    CollectionInfo,
    Index,
    Qdrant,
    VersionState,
    check_name,
    collection_layout,
    number_of,
    version_name,
)
from services.retriever.versions import Versions
from sluice.type.v1 import collection_pb2

_POINTS_AT_ONCE = 256
_DESCRIPTION = "collection.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One copy."""

    name: str
    version: str
    created: datetime
    size_bytes: int

    def to_proto(self) -> collection_pb2.Snapshot:
        """Write the snapshot."""
        message = collection_pb2.Snapshot(name=self.name, version=self.version, size_bytes=self.size_bytes)
        message.create_time.FromDatetime(self.created)
        return message


class SnapshotStore(Protocol):
    """Where the copies of versions are."""

    async def create(self, version: str, *, deadline: float | None) -> Snapshot: ...  # noqa: D102

    async def list(self, version: str, *, deadline: float | None) -> Sequence[Snapshot]: ...  # noqa: D102

    async def delete(self, snapshot: Snapshot, *, deadline: float | None) -> None: ...  # noqa: D102

    async def versions(self, *, deadline: float | None) -> Sequence[str]:
        """Versions that may have snapshots."""

    async def restore(self, snapshot: Snapshot, into: str, *, deadline: float | None) -> None:
        """Makes the collection `into` from a snapshot, its metadata included."""


class Snapshots:
    """Keeps versions, and makes new ones of what is kept."""

    def __init__(self, store: SnapshotStore, index: Index, versions: Versions) -> None:
        self._store = store
        self._index = index
        self._versions = versions

    async def create(self, collection: str, *, deadline: float | None = None) -> Snapshot:
        """Copies the live version of a collection, or the version that is named."""
        info = await self._index.get_collection(collection, deadline=deadline)
        return await self._store.create(info.version, deadline=deadline)

    async def of(self, collection: str, *, deadline: float | None = None) -> list[Snapshot]:
        """The snapshots of all versions of a collection, or of a version, newest first."""
        check_name(collection)
        versions = await self._store.versions(deadline=deadline)
        found = [
            snapshot
            for version in versions
            if version == collection or number_of(collection, version)
            for snapshot in await self._store.list(version, deadline=deadline)
        ]
        return sorted(found, key=lambda snapshot: snapshot.created, reverse=True)

    async def restore(self, collection: str, name: str, *, deadline: float | None = None) -> CollectionInfo:
        """Makes a new, ready version from a snapshot; the collection need not exist any more."""
        snapshot = await self._find(collection, name, deadline)
        version = version_name(collection, await self._versions.next_number(collection, deadline=deadline))
        await self._store.restore(snapshot, version, deadline=deadline)
        notes = {
            "collection": collection,
            "index_version": version,
            "source": f"restored from {name}",
            "state": VersionState.READY.value,
            "building": "",
            "previous": "",
            "supersedes": "",
        }
        await self._index.note(version, notes, deadline=deadline)
        return await self._index.get_collection(version, deadline=deadline)

    async def delete(self, collection: str, name: str, *, deadline: float | None = None) -> None:
        """Deletes a snapshot."""
        await self._store.delete(await self._find(collection, name, deadline), deadline=deadline)

    async def _find(self, collection: str, name: str, deadline: float | None) -> Snapshot:
        if not _NAME.fullmatch(name):
            raise InvalidArgument("snapshot", "is not the name of a snapshot")
        for snapshot in await self.of(collection, deadline=deadline):
            if snapshot.name == name:
                return snapshot
        raise NotFound(f"collection {collection!r} has no snapshot {name!r}", reason="SNAPSHOT_NOT_FOUND")


class ServerSnapshots:
    """Snapshots by the Qdrant server itself; they are gone with their version."""

    def __init__(self, qdrant: Qdrant, url: str, api_key: str) -> None:
        self._qdrant = qdrant
        self._url = url.rstrip("/")
        self._api_key = api_key

    async def create(self, version: str, *, deadline: float | None) -> Snapshot:
        """See `SnapshotStore`."""
        made = await self._qdrant.call(
            lambda client: client.create_snapshot(version, wait=True), name="create_snapshot", deadline=deadline
        )
        if made is None:
            raise NotFound(f"Qdrant made no snapshot of {version!r}")
        return _of_server(version, made)

    async def list(self, version: str, *, deadline: float | None) -> Sequence[Snapshot]:
        """See `SnapshotStore`."""
        found = await self._qdrant.call(
            lambda client: client.list_snapshots(version), name="list_snapshots", deadline=deadline
        )
        return [_of_server(version, snapshot) for snapshot in found]

    async def delete(self, snapshot: Snapshot, *, deadline: float | None) -> None:
        """See `SnapshotStore`."""
        await self._qdrant.call(
            lambda client: client.delete_snapshot(snapshot.version, snapshot.name, wait=True),
            name="delete_snapshot",
            deadline=deadline,
        )

    async def versions(self, *, deadline: float | None) -> Sequence[str]:
        """See `SnapshotStore`."""
        known = await self._qdrant.call(
            lambda client: client.get_collections(), name="get_collections", deadline=deadline
        )
        return [found.name for found in known.collections]

    async def restore(self, snapshot: Snapshot, into: str, *, deadline: float | None) -> None:
        """See `SnapshotStore`. The server fetches the snapshot from itself, wherever it keeps its snapshots."""
        location = f"{self._url}/collections/{snapshot.version}/snapshots/{snapshot.name}"
        await self._qdrant.call(
            lambda client: client.recover_snapshot(into, location, api_key=self._api_key or None, wait=True),
            name="recover_snapshot",
            deadline=deadline,
        )


class FolderSnapshots:
    """Copies of the embedded engine's storage: `FOLDER/VERSION/NAME/` with the points and the description."""

    def __init__(self, qdrant: Qdrant, folder: Path) -> None:
        self._qdrant = qdrant
        self._folder = folder

    async def create(self, version: str, *, deadline: float | None) -> Snapshot:
        """See `SnapshotStore`. The copy is SQLite's own backup, taken between two operations of the engine."""
        name = f"{version}-{datetime.now(UTC):%Y-%m-%d-%H-%M-%S-%f}"
        target = self._folder / version / name

        async def copy(client: AsyncQdrantClient) -> None:
            description = (await client.get_collection(version)).config
            # Hidden until it is whole: what a killed process leaves behind is no snapshot.
            partial = target.with_name(f".{name}")
            partial.mkdir(parents=True)
            try:
                with sqlite3.connect(partial / STORAGE_FILE_NAME) as copied:
                    _storage(client, version).backup(copied)
                copied.close()
                (partial / _DESCRIPTION).write_text(json.dumps(description.metadata), encoding="utf-8")
                partial.rename(target)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise

        await self._qdrant.call(copy, deadline=deadline)
        return _of_folder(target)

    async def list(self, version: str, *, deadline: float | None) -> Sequence[Snapshot]:
        """See `SnapshotStore`."""
        folder = self._folder / version
        return [_of_folder(path) for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []

    async def delete(self, snapshot: Snapshot, *, deadline: float | None) -> None:
        """See `SnapshotStore`."""
        await asyncio.to_thread(shutil.rmtree, self._folder / snapshot.version / snapshot.name)

    async def versions(self, *, deadline: float | None) -> Sequence[str]:
        """See `SnapshotStore`."""
        return [path.name for path in self._folder.iterdir()] if self._folder.is_dir() else []

    async def restore(self, snapshot: Snapshot, into: str, *, deadline: float | None) -> None:
        """See `SnapshotStore`."""
        folder = self._folder / snapshot.version / snapshot.name
        metadata: dict[str, Any] = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))

        async def restore(client: AsyncQdrantClient) -> None:
            await client.create_collection(
                into,
                **collection_layout(metadata["dimension"]),
                metadata={**metadata, "index_version": into, "state": VersionState.BUILDING.value, "supersedes": ""},
            )
            stored = CollectionPersistence(str(folder))
            try:
                points: list[models.PointStruct] = []
                for point in stored.load():
                    points.append(point)
                    if len(points) == _POINTS_AT_ONCE:
                        await client.upsert(into, points)
                        points = []
                if points:
                    await client.upsert(into, points)
            finally:
                stored.close()

        await self._qdrant.call(restore, deadline=deadline)


def _storage(client: AsyncQdrantClient, version: str) -> sqlite3.Connection:
    """The embedded engine's own connection to the points of a collection; it offers no other way to them."""
    engine: Any = client._client
    connection: sqlite3.Connection = engine.collections[version].storage.storage
    return connection


def _of_server(version: str, made: models.SnapshotDescription) -> Snapshot:
    created = datetime.fromisoformat(made.creation_time) if made.creation_time else datetime.fromtimestamp(0, UTC)
    if created.tzinfo is None:  # Qdrant's times are in UTC
        created = created.replace(tzinfo=UTC)
    return Snapshot(made.name, version, created, made.size)


def _of_folder(path: Path) -> Snapshot:
    files = list(path.iterdir())
    created = datetime.fromtimestamp((path / _DESCRIPTION).stat().st_mtime, UTC)
    return Snapshot(path.name, path.parent.name, created, sum(file.stat().st_size for file in files))
