"""Passages in a Qdrant server."""

from __future__ import annotations

import uuid
from contextlib import suppress
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
from services.retriever.store import Deadline, Notes

T = TypeVar("T")

_OLDEST_QDRANT = (1, 17)
# Seconds. A node that is down is not waited for: it can answer nobody with what it does not know.
_LONGEST_SETTLING = 5


class ServerStore(QdrantStore):
    """Passages in a Qdrant server."""

    def __init__(self, settings: RetrieverSettings, metrics: RetrieverMetrics) -> None:
        """Connect with the first call; construct it inside the event loop that will use it."""
        self._pool = QdrantPool(settings, metrics)

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
