"""Passages in a Qdrant server or cluster."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from qdrant_client import grpc as api

from services.chassis.errors import AlreadyExists, FailedPrecondition, NotFound
from services.retriever.engines.payloads import payload_key
from services.retriever.engines.server import layouts, points
from services.retriever.engines.server.filters import still_so, to_filter
from services.retriever.engines.server.nodes import Connection
from services.retriever.engines.server.points import SELECTED, to_ids
from services.retriever.engines.server.pool import QdrantPool
from services.retriever.engines.server.replicas import to_replications
from services.retriever.engines.server.searching import SHARDS_SECONDS, ServerSearches
from services.retriever.engines.server.values import set_values, values_of
from services.retriever.fields import ALL, FieldType, Filter, Schema
from services.retriever.layout import Layout, Quantization
from services.retriever.lexical import SparseVector
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings
from services.retriever.store import (
    Catalogue,
    Deadline,
    Description,
    Notes,
    Parts,
    PointId,
    Revisions,
    Row,
)

T = TypeVar("T")

# Replicas judge the condition of an update each by itself: they have to see updates in the same order.
_IN_ORDER = api.WriteOrdering(type=api.Medium)
_OLDEST_QDRANT = (1, 17)
_OLDEST_TURBO = (1, 18)
_MOST_TRIES = 5
# Seconds. A node that is down is not waited for: it can answer nobody with what it does not know.
_LONGEST_SETTLING = 5


class ServerStore(ServerSearches):
    """Passages in a Qdrant server; see `PassageStore`."""

    def __init__(self, settings: RetrieverSettings, metrics: RetrieverMetrics) -> None:
        """Connect with the first call; construct it inside the event loop that will use it."""
        super().__init__(QdrantPool(settings, metrics))
        self._release = (0, 0)

    async def close(self) -> None:
        self._memory.close()
        await self._pool.close()

    async def check(self, deadline: Deadline) -> None:
        # Calls that wait for each other are no outage.
        version = await self._pool.call(Connection.version, name="info", deadline=deadline, queued=False)
        self._release = _release_of(version)
        if self._release < _OLDEST_QDRANT:
            wanted = ".".join(map(str, _OLDEST_QDRANT))
            raise FailedPrecondition(
                f"Qdrant {version} ignores the conditions of an update; run {wanted} or newer", reason="QDRANT_TOO_OLD"
            )

    async def catalogue(self, deadline: Deadline) -> Catalogue:
        async def catalogue(qdrant: Connection) -> Catalogue:
            found = await qdrant.ask(qdrant.collections.List, api.ListCollectionsRequest())
            return Catalogue([known.name for known in found.collections], await qdrant.aliases())

        return await self._pool.call(catalogue, deadline=deadline)

    async def describe(self, name: str, deadline: Deadline) -> Description:
        async def describe(qdrant: Connection) -> Description:
            info = await qdrant.info(name)
            notes = values_of(info.config.metadata)
            # Qdrant does not say which version an alias led it to; those of Sluice know their own names.
            version = notes.get("index_version") or (await qdrant.aliases()).get(name, name)
            self._memory.learn(version, info)
            return Description(version, notes, info.points_count)

        return await self._call(name, describe, deadline)

    async def create(
        self,
        version: str,
        dimension: int,
        layout: Layout,
        notes: Notes,
        deadline: Deadline,
        token_dimension: int = 0,
    ) -> None:
        self._check_turbo(layout)
        request = layouts.to_creation(version, dimension, layout, notes, token_dimension)

        async def create_collection(qdrant: Connection) -> None:
            await qdrant.ask(qdrant.collections.Create, request)

        try:
            await self._pool.call(create_collection, deadline=deadline)  # Qdrant waits for its nodes
        except AlreadyExists:  # made by another in this moment: not every node need know it yet
            await self._settle(version, deadline)
            raise
        await self._complete(version, layout, deadline)

    async def tune(self, version: str, layout: Layout, deadline: Deadline) -> None:
        self._check_turbo(layout)

        async def tune(qdrant: Connection) -> None:
            info = await qdrant.info(version)
            has = info.config.params.shard_number
            if layout.shards not in (0, has):
                raise FailedPrecondition(
                    f"{version!r} has {has} shards, and a version keeps its number of shards; set `shards` to that or "
                    "to 0, or restore a snapshot into another number of them (`sluice snapshot restore --shards`)",
                    reason="LAYOUT_FIXED",
                    field="shards",
                )
            if layout.replicas > info.config.params.replication_factor:
                answers = await self._pool.everywhere(lambda node: node.shards(version), SHARDS_SECONDS)
                for copy in to_replications(version, answers, layout.replicas):
                    await qdrant.ask(qdrant.collections.UpdateCollectionClusterSetup, copy)
            await qdrant.ask(qdrant.collections.Update, layouts.to_change(version, layout, has))
            fields = {layout.tenant: FieldType.KEYWORD} if layout.tenant else {}
            await _index(qdrant, version, fields, info, layout.tenant)
            self._memory.learn(version, await qdrant.info(version))

        await self._call(version, tune, deadline)
        await self._settle(version, deadline)

    async def note(self, version: str, notes: Notes, deadline: Deadline) -> None:
        request = api.UpdateCollection(collection_name=version)
        set_values(request.metadata, notes)

        async def note(qdrant: Connection) -> None:
            await qdrant.ask(qdrant.collections.Update, request)

        await self._pool.call(note, deadline=deadline)
        await self._settle(version, deadline)

    async def drop(self, version: str, deadline: Deadline) -> None:
        async def drop(qdrant: Connection) -> None:
            await qdrant.ask(qdrant.collections.Delete, api.DeleteCollection(collection_name=version))

        await self._pool.call(drop, deadline=deadline)
        self._memory.forget(version)
        others = [name for name in (await self.catalogue(deadline)).versions if name != version]
        if others:
            await self._settle(others[0], deadline)

    async def point(self, alias: str, version: str, deadline: Deadline) -> None:
        # Replaces an alias of the name, if there is one: whether there is, another node would know better.
        create = api.AliasOperations(create_alias=api.CreateAlias(alias_name=alias, collection_name=version))
        await self._change_aliases("point", api.ChangeAliases(actions=[create]), deadline)

    async def declare(self, version: str, schema: Schema, deadline: Deadline, tenant: str = "") -> None:
        async def declare(qdrant: Connection) -> None:
            await _index(qdrant, version, schema, await qdrant.info(version), tenant)

        await self._call(version, declare, deadline)

    async def write(
        self, version: str, rows: Sequence[Row], deadline: Deadline, still: Revisions | None = None
    ) -> None:
        if still is None:
            await self._upsert(version, rows, deadline)
            return
        if new := [row for row in rows if not still[row.id]]:
            await self._upsert(version, new, deadline, update_mode=api.InsertOnly)
        if changed := [row for row in rows if still[row.id]]:
            condition = still_so({row.id: still[row.id] for row in changed})
            await self._upsert(version, changed, deadline, update_mode=api.UpdateOnly, update_filter=condition)

    async def replace_words(
        self, version: str, words: Mapping[PointId, SparseVector], still: Revisions, deadline: Deadline
    ) -> None:
        async def update(qdrant: Connection) -> None:
            await qdrant.ask(qdrant.points.UpdateVectors, request)

        for tries_left in reversed(range(_MOST_TRIES)):
            known = await self.read(version, list(words), Parts.KEYS, deadline)
            same = {row.id: row.revision for row in known if row.revision == still[row.id]}
            if not same:
                return
            request = api.UpdatePointVectors(
                collection_name=version,
                wait=True,
                ordering=_IN_ORDER,
                points=[points.to_word_update(point, words[point]) for point in same],
                update_filter=still_so(same),
            )
            try:
                await self._call(version, update, deadline)
            except NotFound:  # Qdrant refuses all of them for one that was deleted meanwhile
                if not tries_left:
                    raise
                continue
            self._memory.changed(version, len(same))
            return

    async def remove(
        self, version: str, ids: Sequence[PointId], deadline: Deadline, still: Revisions | None = None
    ) -> None:
        if still is None:
            selector = api.PointsSelector(points=api.PointsIdsList(ids=to_ids(ids)))
        else:
            selector = api.PointsSelector(filter=still_so(still))
        request = api.DeletePoints(collection_name=version, points=selector, wait=True, ordering=_IN_ORDER)

        async def delete(qdrant: Connection) -> None:
            await qdrant.ask(qdrant.points.Delete, request)

        await self._call(version, delete, deadline)
        self._memory.changed(version, len(ids))

    async def read(
        self,
        version: str,
        ids: Sequence[PointId],
        parts: Parts,
        deadline: Deadline,
        keys: Sequence[PointId] = (),
    ) -> Sequence[Row]:
        consistency = self._memory[version].consistency
        lookups = [(some, what) for some, what in ((ids, parts), (keys, Parts.KEYS)) if some]
        if not lookups:
            return []

        async def retrieve(qdrant: Connection) -> Any:
            if len(lookups) == 1:
                [(some, what)] = lookups
                one = api.GetPoints(
                    collection_name=version, ids=to_ids(some), read_consistency=consistency, **SELECTED[what]
                )
                return [await qdrant.ask(qdrant.points.Get, one)]
            both = api.QueryBatchPoints(
                collection_name=version,
                query_points=[points.to_lookup(some, what) for some, what in lookups],
                read_consistency=consistency,
            )
            return (await qdrant.ask(qdrant.points.QueryBatch, both)).result

        answers = await self._call(version, retrieve, deadline)
        return [points.to_row(point) for answer in answers for point in answer.result]

    async def scroll(
        self, version: str, start: PointId | None, limit: int, parts: Parts, deadline: Deadline, condition: Filter = ALL
    ) -> tuple[Sequence[Row], PointId | None]:
        found = await self._scroll(version, start, limit, deadline, filter=to_filter(condition), **SELECTED[parts])
        return [points.to_row(point) for point in found.result], found.next_page_offset.uuid or None

    async def _upsert(self, version: str, rows: Sequence[Row], deadline: Deadline, **only: Any) -> None:
        def request() -> api.UpsertPoints:
            written = map(points.to_point, rows)
            return api.UpsertPoints(collection_name=version, wait=True, ordering=_IN_ORDER, points=written, **only)

        # Making a large batch takes long enough to hold up all other calls.
        made = await asyncio.to_thread(request)

        async def upsert(qdrant: Connection) -> None:
            await qdrant.ask(qdrant.points.Upsert, made)

        await self._call(version, upsert, deadline)
        self._memory.changed(version, len(rows))

    async def _change_aliases(self, name: str, request: api.ChangeAliases, deadline: Deadline) -> None:
        async def change(qdrant: Connection) -> None:
            await qdrant.ask(qdrant.collections.UpdateAliases, request)

        await self._pool.call(change, name=name, deadline=deadline)

    async def _settle(self, version: str, deadline: Deadline) -> None:
        """Return when every node of a cluster that can be reached shows what was changed before.

        Metadata and deletions reach the other nodes after the answer. Of the changes that Qdrant holds its answer back
        for until all nodes have made them, and all before them, an alias is the cheapest; nobody sees this one.
        """
        alias = f"sluice-settles-{uuid.uuid4().hex}"
        made = api.AliasOperations(create_alias=api.CreateAlias(alias_name=alias, collection_name=version))
        gone = api.AliasOperations(delete_alias=api.DeleteAlias(alias_name=alias))
        request = api.ChangeAliases(actions=[made, gone], timeout=_LONGEST_SETTLING)
        with suppress(NotFound):  # the version is gone by now
            await self._change_aliases("settle", request, deadline)

    async def _complete(self, version: str, layout: Layout, deadline: Deadline) -> None:
        """Set what creating a version cannot: how it is read, and who counts terms where Qdrant chose the shards."""

        async def complete(qdrant: Connection) -> None:
            info = await qdrant.info(version)
            if request := layouts.to_completion(version, layout, info.config.params.shard_number):
                await qdrant.ask(qdrant.collections.Update, request)

        if layout.shards == 0 or layout.read_fanout:
            await self._call(version, complete, deadline)
            await self._settle(version, deadline)

    def _check_turbo(self, layout: Layout) -> None:
        if layout.quantization is Quantization.TURBO and (0, 0) < self._release < _OLDEST_TURBO:
            wanted = ".".join(map(str, _OLDEST_TURBO))
            raise FailedPrecondition(
                f"this Qdrant does not know turbo quantization; run {wanted} or newer, or choose int8",
                reason="QDRANT_TOO_OLD",
                field="quantization",
            )


async def _index(qdrant: Connection, version: str, schema: Schema, info: api.CollectionInfo, tenant: str) -> None:
    """Make the payload indexes of fields; an index of another kind serves no values, and goes first."""
    for name, kind in schema.items():
        key = payload_key(name)
        right = layouts.is_indexed(info.payload_schema, key, kind, tenant=name == tenant)
        if right is False:
            old = api.DeleteFieldIndexCollection(collection_name=version, field_name=key, wait=True)
            await qdrant.ask(qdrant.points.DeleteFieldIndex, old)
        if not right:
            new = layouts.to_index(version, key, kind, tenant=name == tenant)
            await qdrant.ask(qdrant.points.CreateFieldIndex, new)


def _release_of(version: str) -> tuple[int, int]:
    major, minor, *_ = map(int, version.split(".")[:2])
    return major, minor
