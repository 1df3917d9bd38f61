"""Passages in a Qdrant server."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeVar

from qdrant_client import models
from qdrant_client.async_client_base import AsyncQdrantBase

from services.chassis.errors import AlreadyExists, FailedPrecondition, NotFound
from services.retriever.engines.calls import Operation
from services.retriever.engines.conversions import payload_key
from services.retriever.engines.pool import QdrantPool
from services.retriever.engines.qdrant import QdrantStore
from services.retriever.fields import Schema
from services.retriever.layout import Layout
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings
from services.retriever.store import Deadline, Notes, Snapshot, number_of

T = TypeVar("T")

_OLDEST_QDRANT = (1, 17)
# Seconds. A node that is down is not waited for: it can answer nobody with what it does not know.
_LONGEST_SETTLING = 5


class ServerStore(QdrantStore):
    """Passages in a Qdrant server, which keeps snapshots itself and deletes them with their version."""

    def __init__(self, settings: RetrieverSettings, metrics: RetrieverMetrics) -> None:
        """Connect with the first call; construct it inside the event loop that will use it."""
        self._pool = QdrantPool(settings, metrics)
        self._url = settings.qdrant_url.rstrip("/")
        self._api_key = settings.qdrant_api_key.get_secret_value() or None

    async def call(self, name: str, deadline: Deadline, operation: Operation[T]) -> T:
        return await self._pool.call(operation, name=name, deadline=deadline)

    async def close(self) -> None:
        await self._pool.close()

    async def check(self, deadline: Deadline) -> None:
        version = (await self.call("info", deadline, lambda client: client.info())).version
        if tuple(map(int, version.split(".")[:2])) < _OLDEST_QDRANT:
            wanted = ".".join(map(str, _OLDEST_QDRANT))
            raise FailedPrecondition(
                f"Qdrant {version} ignores the conditions of an update; run {wanted} or newer", reason="QDRANT_TOO_OLD"
            )

    async def create(self, version: str, dimension: int, layout: Layout, notes: Notes, deadline: Deadline) -> None:
        try:
            await super().create(version, dimension, layout, notes, deadline)  # Qdrant waits for its nodes
        except AlreadyExists:  # made by another in this moment: not every node need know it yet
            await self._settle(version, deadline)
            raise

    async def note(self, version: str, notes: Notes, deadline: Deadline) -> None:
        await super().note(version, notes, deadline)
        await self._settle(version, deadline)

    async def drop(self, version: str, deadline: Deadline) -> None:
        await super().drop(version, deadline)
        others = [name for name in (await self.catalogue(deadline)).versions if name != version]
        if others:
            await self._settle(others[0], deadline)

    async def declare(self, version: str, schema: Schema, deadline: Deadline, tenant: str = "") -> None:
        async def declare(client: AsyncQdrantBase) -> None:
            known = (await client.get_collection(version)).payload_schema
            for name, kind in schema.items():
                index = models.PayloadSchemaType(kind.value)
                before = known.get(payload_key(name))
                if before is not None and before.data_type != index:  # an index of another type serves no values
                    await client.delete_payload_index(version, payload_key(name), wait=True)
                await client.create_payload_index(version, payload_key(name), index, wait=True)

        await self.call("declare", deadline, declare)

    async def snapshot(self, version: str, deadline: Deadline) -> Snapshot:
        spread = await self.call("cluster_info", deadline, lambda client: client.collection_cluster_info(version))
        if spread.shard_count != 1 or len(spread.local_shards) != 1 or spread.remote_shards:
            raise FailedPrecondition(
                f"{version!r} has {spread.shard_count} shards, {len(spread.local_shards)} of them on the node that "
                "answers; a snapshot would hold a part of it. Back up every node's shards with Qdrant's own tools, or "
                "keep the collection in one shard on one node",
                reason="SNAPSHOT_INCOMPLETE",
            )
        made = await self.call("create_snapshot", deadline, lambda client: client.create_snapshot(version, wait=True))
        if made is None:
            raise NotFound(f"Qdrant made no snapshot of {version!r}")
        return _snapshot(version, made)

    async def snapshots(self, collection: str, deadline: Deadline) -> Sequence[Snapshot]:
        async def snapshots(client: AsyncQdrantBase) -> list[Snapshot]:
            names = [known.name for known in (await client.get_collections()).collections]
            return [
                _snapshot(name, found)
                for name in names
                if name == collection or number_of(collection, name)
                for found in await client.list_snapshots(name)
            ]

        return await self.call("list_snapshots", deadline, snapshots)

    async def delete_snapshot(self, snapshot: Snapshot, deadline: Deadline) -> None:
        version, name = snapshot.version, snapshot.name
        await self.call("delete_snapshot", deadline, lambda client: client.delete_snapshot(version, name, wait=True))

    async def restore(self, snapshot: Snapshot, into: str, notes: Notes, deadline: Deadline) -> None:
        # The server fetches it from itself, wherever it keeps its snapshots.
        location = f"{self._url}/collections/{snapshot.version}/snapshots/{snapshot.name}"
        how = {"api_key": self._api_key, "wait": True}
        await self.call("recover_snapshot", deadline, lambda client: client.recover_snapshot(into, location, **how))
        await self.note(into, notes, deadline)

    async def _settle(self, version: str, deadline: Deadline) -> None:
        """Return when every node of a cluster that can be reached shows what was changed before.

        Metadata and deletions reach the other nodes after the answer. Of the changes that Qdrant holds its answer back
        for until all nodes have made them, and all before them, an alias is the cheapest; nobody sees this one.
        """
        alias = f"sluice-settles-{uuid.uuid4().hex}"
        made = models.CreateAliasOperation(create_alias=models.CreateAlias(alias_name=alias, collection_name=version))
        gone = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
        with suppress(NotFound):  # the version is gone by now
            await self.call(
                "settle",
                deadline,
                lambda client: client.update_collection_aliases([made, gone], timeout=_LONGEST_SETTLING),
            )


def _snapshot(version: str, made: models.SnapshotDescription) -> Snapshot:
    created = datetime.fromisoformat(made.creation_time) if made.creation_time else datetime.fromtimestamp(0, UTC)
    if created.tzinfo is None:  # Qdrant's times are in UTC
        created = created.replace(tzinfo=UTC)
    return Snapshot(made.name, version, created, made.size)
