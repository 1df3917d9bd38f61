"""Snapshots: copies of versions as they were at a moment; restored into a new version, never over an existing one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from services.chassis.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from services.retriever import paging
from services.retriever.collections.catalogue import Collections, check_name, listed, version_name
from services.retriever.collections.descriptions import CollectionInfo, VersionState
from services.retriever.collections.versions import Versions
from services.retriever.store import Deadline, PassageStore, Snapshot

_MOST_TRIES = 3
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")


class Snapshots:
    """Takes, lists, restores and deletes snapshots."""

    def __init__(self, store: PassageStore, collections: Collections, versions: Versions) -> None:
        self._store = store
        self._collections = collections
        self._versions = versions

    async def create(self, collection: str, deadline: Deadline = None) -> Snapshot:
        """Copy the live version of a collection, or the version that is named.

        The copy's notes hold the number of its passages, so that a restored version is known to be whole.
        """
        version = (await self._collections.get(collection, deadline)).version
        for _ in range(_MOST_TRIES):
            count = await self._collections.count(version, deadline)
            snapshot = await self._store.snapshot(version, deadline)
            if await self._store.count(version, deadline) >= count:
                return snapshot
            await self._store.delete_snapshot(snapshot, deadline)
        raise Unavailable(f"documents of {version!r} are being deleted; take the snapshot later", reason="CONTENDED")

    async def page(
        self, collection: str, page_size: int = 0, page_token: str = "", deadline: Deadline = None
    ) -> tuple[list[Snapshot], str]:
        """Return a page of the snapshots of a collection, or of a version, newest first, and the next page's token."""
        size = paging.size_of(page_size, default=100, most=1000)
        found = await self._of(collection, deadline)
        return paging.cut(found, _age, size, page_token, collection, descending=True)

    async def restore(self, collection: str, name: str, deadline: Deadline = None) -> CollectionInfo:
        """Create a new, ready version from a snapshot; the collection need not exist any more."""
        snapshot = await self._find(collection, name, deadline)
        version = version_name(collection, await self._versions.next_number(collection, deadline))
        notes = {
            "collection": collection,
            "index_version": version,
            "source": f"restored from {name}",
            "state": VersionState.BUILDING.value,
            "building": "",
            "previous": "",
            "supersedes": "",
        }
        await self._store.restore(snapshot, version, notes, deadline)
        wanted = (await self._collections.get(version, deadline)).counted
        count = await self._collections.count(version, deadline)
        if count < wanted:
            await self._store.drop(version, deadline)
            self._collections.forget()
            raise FailedPrecondition(
                f"snapshot {name!r} holds {count} of the {wanted} passages that were counted when it was taken; "
                "nothing was restored, restore another one",
                reason="SNAPSHOT_INCOMPLETE",
            )
        await self._collections.note(version, deadline, state=VersionState.READY)
        return await self._collections.get(version, deadline)

    async def delete(self, collection: str, name: str, deadline: Deadline = None) -> None:
        """Delete a snapshot."""
        await self._store.delete_snapshot(await self._find(collection, name, deadline), deadline)

    async def _of(self, collection: str, deadline: Deadline) -> Sequence[Snapshot]:
        check_name(collection)
        return await self._store.snapshots(collection, deadline)

    async def _find(self, collection: str, name: str, deadline: Deadline) -> Snapshot:
        if not _NAME.fullmatch(name):
            raise InvalidArgument("snapshot", "is not the name of a snapshot")
        known = {snapshot.name: snapshot for snapshot in await self._of(collection, deadline)}
        if name not in known:
            others = f"; snapshots: {listed(known)}" if known else "; it has none"
            raise NotFound(f"collection {collection!r} has no snapshot {name!r}{others}", reason="SNAPSHOT_NOT_FOUND")
        return known[name]


def _age(snapshot: Snapshot) -> str:
    return f"{snapshot.created.timestamp():020.6f} {snapshot.version} {snapshot.name}"
