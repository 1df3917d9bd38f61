"""Restoring of a snapshot into a new version, on any engine and any number of shards."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from itertools import islice

from services.chassis.errors import FailedPrecondition, SluiceError
from services.chassis.timing import deadline_in
from services.retriever.backups.format import MANIFEST, Manifest, Part, damaged, read_part
from services.retriever.backups.ledger import Ledger, record_of
from services.retriever.backups.storage import Snapshot, SnapshotStorage
from services.retriever.collections.catalogue import Collections
from services.retriever.collections.descriptions import CollectionInfo, VersionState
from services.retriever.store import Deadline, Description, Parts, PassageStore, PointId

_ROWS_AT_ONCE = 256
_POINTS_AT_ONCE = 1000
_DROP_SECONDS = 30.0


class Restoring:
    """Checks one snapshot, and makes a version from it."""

    def __init__(
        self,
        store: PassageStore,
        collections: Collections,
        storage: SnapshotStorage,
        snapshot: Snapshot,
        deadline: Deadline,
    ) -> None:
        self._store = store
        self._collections = collections
        self._storage = storage
        self._snapshot = snapshot
        self._deadline = deadline

    async def manifest(self) -> Manifest:
        """Read the manifest."""
        return Manifest.from_bytes(await self._read(MANIFEST), self._snapshot.name)

    async def check(self, manifest: Manifest) -> AsyncGenerator[int, None]:
        """Compare every part with its digest; yield the number of passages so far."""
        done = 0
        for part in manifest.parts:
            await self._part(part)
            done += part.passages
            yield done

    async def fill(self, manifest: Manifest, version: str, collection: str, shards: int) -> AsyncGenerator[int, None]:
        """Create a version and write all passages; yield their number so far. What fails leaves no version behind."""
        info = self._described(manifest, version, collection, shards)
        await self._collections.make(info, self._deadline)
        try:
            done = 0
            for part in manifest.parts:
                rows, gone = await asyncio.to_thread(read_part, await self._part(part))
                while some := list(islice(rows, _ROWS_AT_ONCE)):
                    await self._store.write(version, some, self._deadline)
                    done += len(some)
                    yield done
                for start in range(0, len(gone), _POINTS_AT_ONCE):
                    await self._store.remove(version, gone[start : start + _POINTS_AT_ONCE], self._deadline)
            await self._compare(manifest, version)
            await self._collections.note(
                version, self._deadline, counted=str(manifest.passages), state=VersionState.READY.value
            )
        except BaseException:
            with suppress(SluiceError):
                await self._store.drop(version, deadline_in(_DROP_SECONDS))
            self._collections.forget()
            raise

    def _described(self, manifest: Manifest, version: str, collection: str, shards: int) -> CollectionInfo:
        notes = {
            **manifest.notes,
            "collection": collection,
            "source": f"restored from {self._snapshot.name}",
            "state": VersionState.BUILDING.value,
            "built_from": "",
            "building": "",
            "previous": "",
            "counted": "",
        }
        info = CollectionInfo.from_description(version, Description(version, notes, 0))
        return replace(info, layout=replace(info.layout, shards=shards)) if shards else info

    async def _compare(self, manifest: Manifest, version: str) -> None:
        """Raise FailedPrecondition unless a version has the passages that were written down."""
        count = await self._store.count(version, self._deadline)
        with Ledger() as ledger:
            start: PointId | None = None
            while True:
                rows, start = await self._store.scroll(version, start, _POINTS_AT_ONCE, Parts.KEYS, self._deadline)
                for row in rows:
                    ledger.add(record_of(row))
                if start is None:
                    break
            if (count, ledger.sha256) == (manifest.passages, manifest.keys_sha256):
                return
        raise FailedPrecondition(
            f"of snapshot {self._snapshot.name!r}, which holds {manifest.passages} passages, {count} came into the new "
            "version; it is deleted again, see the log of the engine",
            reason="SNAPSHOT_INCOMPLETE",
        )

    async def _part(self, part: Part) -> bytes:
        content = await self._read(part.name)
        if hashlib.sha256(content).hexdigest() != part.sha256:
            raise damaged(self._snapshot.name, part.name)
        return content

    async def _read(self, file: str) -> bytes:
        return await self._storage.read(self._snapshot.version, self._snapshot.name, file, self._deadline)
