"""Snapshots: copies of versions as they were at a moment; restored into a new version, never over an existing one."""

from __future__ import annotations

import enum
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass

from services.chassis.errors import InvalidArgument, NotFound, SluiceError
from services.chassis.timing import deadline_in
from services.retriever import paging
from services.retriever.backups.restoring import Restoring
from services.retriever.backups.storage import Snapshot, SnapshotStorage
from services.retriever.backups.taking import Taking
from services.retriever.collections.catalogue import Collections, check_name, listed, version_name
from services.retriever.collections.descriptions import CollectionInfo
from services.retriever.collections.versions import Versions
from services.retriever.store import Deadline, PassageStore
from sluice.type.v1 import collection_pb2

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_MOST_SHARDS = 1024
_CLEAR_SECONDS = 30.0


class Phase(enum.Enum):
    """Part of the work on a snapshot."""

    COPY = collection_pb2.SNAPSHOT_PHASE_COPY
    CHECK = collection_pb2.SNAPSHOT_PHASE_CHECK
    WRITE = collection_pb2.SNAPSHOT_PHASE_WRITE
    DONE = collection_pb2.SNAPSHOT_PHASE_DONE


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of taking or restoring a snapshot."""

    phase: Phase
    done: int
    """Passages gone through in this phase, or in this pass of it."""
    total: int
    """Passages to go through, about."""
    snapshot: Snapshot | None = None
    """The snapshot, once it is taken."""
    version: CollectionInfo | None = None
    """The version, once it is restored."""

    def to_proto(self) -> collection_pb2.SnapshotProgress:
        """Write the progress."""
        return collection_pb2.SnapshotProgress(phase=self.phase.value, done_count=self.done, total_count=self.total)


class Snapshots:
    """Takes, lists, restores and deletes snapshots."""

    def __init__(
        self, store: PassageStore, collections: Collections, versions: Versions, storage: SnapshotStorage
    ) -> None:
        self._store = store
        self._collections = collections
        self._versions = versions
        self._storage = storage

    async def taking(self, collection: str, deadline: Deadline = None) -> AsyncGenerator[Progress, None]:
        """Copy the live version of a collection, or the version that is named; the last progress has the snapshot.

        What has been left behind by processes that were killed is cleared first.
        """
        version = (await self._collections.get(collection, deadline)).version
        total = await self._collections.count(version, deadline)
        yield Progress(Phase.COPY, 0, total)
        await self._storage.clear(version, deadline)
        name = self._storage.new_name(version)
        try:
            async with aclosing(Taking(self._store, self._storage, version, name, deadline).run()) as passes:
                async for done in passes:
                    yield Progress(Phase.COPY, done, max(done, total))
        except BaseException:
            with suppress(SluiceError):
                await self._storage.delete(version, name, deadline_in(_CLEAR_SECONDS))
            raise
        snapshot = await self._find(version, name, deadline)
        yield Progress(Phase.DONE, total, total, snapshot=snapshot)

    async def restoring(
        self, collection: str, name: str, shards: int = 0, deadline: Deadline = None
    ) -> AsyncGenerator[Progress, None]:
        """Create a new, ready version from a snapshot; the collection need not exist any more.

        It has the layout of the version that the snapshot was taken of, but for the number of shards where one is
        given. Every file is compared with its digest before the first passage is written.
        """
        if not 0 <= shards <= _MOST_SHARDS:
            raise InvalidArgument("shards", f"is {shards}; send 0 to {_MOST_SHARDS}")
        snapshot = await self._find(collection, name, deadline)
        restoring = Restoring(self._store, self._collections, self._storage, snapshot, deadline)
        manifest = await restoring.manifest()
        total = manifest.passages
        yield Progress(Phase.CHECK, 0, total)
        async with aclosing(restoring.check(manifest)) as checked:
            async for done in checked:
                yield Progress(Phase.CHECK, min(done, total), total)
        version = version_name(collection, await self._versions.next_number(collection, deadline))
        async with aclosing(restoring.fill(manifest, version, collection, shards)) as filled:
            async for done in filled:
                yield Progress(Phase.WRITE, min(done, total), total)
        yield Progress(Phase.DONE, total, total, version=await self._collections.get(version, deadline))

    async def create(self, collection: str, deadline: Deadline = None) -> Snapshot:
        """Take a snapshot, and return it."""
        made: Snapshot | None = None
        async for step in self.taking(collection, deadline):
            made = step.snapshot
        assert made is not None  # noqa: S101  the last step has it
        return made

    async def restore(self, collection: str, name: str, shards: int = 0, deadline: Deadline = None) -> CollectionInfo:
        """Restore a snapshot, and return the version."""
        made: CollectionInfo | None = None
        async for step in self.restoring(collection, name, shards, deadline):
            made = step.version
        assert made is not None  # noqa: S101  the last step has it
        return made

    async def page(
        self, collection: str, page_size: int = 0, page_token: str = "", deadline: Deadline = None
    ) -> tuple[list[Snapshot], str]:
        """Return a page of the snapshots of a collection, or of a version, newest first, and the next page's token."""
        size = paging.size_of(page_size, default=100, most=1000)
        check_name(collection)
        found = await self._storage.find(collection, deadline)
        return paging.cut(found, _age, size, page_token, collection, descending=True)

    async def delete(self, collection: str, name: str, deadline: Deadline = None) -> None:
        """Delete a snapshot."""
        snapshot = await self._find(collection, name, deadline)
        await self._storage.delete(snapshot.version, snapshot.name, deadline)

    async def _find(self, collection: str, name: str, deadline: Deadline) -> Snapshot:
        check_name(collection)
        if not _NAME.fullmatch(name):
            raise InvalidArgument("snapshot", "is not the name of a snapshot")
        known = {snapshot.name: snapshot for snapshot in await self._storage.find(collection, deadline)}
        if name not in known:
            others = f"; snapshots: {listed(known)}" if known else "; it has none"
            raise NotFound(f"collection {collection!r} has no snapshot {name!r}{others}", reason="SNAPSHOT_NOT_FOUND")
        return known[name]


def _age(snapshot: Snapshot) -> str:
    return f"{snapshot.created.timestamp():020.6f} {snapshot.version} {snapshot.name}"
