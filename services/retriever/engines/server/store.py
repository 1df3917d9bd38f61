"""Passages in a Qdrant server or cluster."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import grpc
from qdrant_client import grpc as api

from services.chassis.errors import AlreadyExists, DeadlineExceeded, FailedPrecondition, NotFound
from services.late.codes import Codes
from services.retriever.engines.payloads import payload_key
from services.retriever.engines.server import layouts, points, shards
from services.retriever.engines.server.filters import still_so, to_filter
from services.retriever.engines.server.frequencies import SAMPLE, Frequencies, FrequencyCount
from services.retriever.engines.server.memory import Memory
from services.retriever.engines.server.nodes import Connection, Operation
from services.retriever.engines.server.points import SELECTED, to_comparison, to_hits, to_ids
from services.retriever.engines.server.pool import QdrantPool
from services.retriever.engines.server.replicas import to_replications
from services.retriever.engines.server.values import set_values, values_of
from services.retriever.fields import ALL, FieldType, Filter, Scalar, Schema
from services.retriever.layout import Layout, Quantization
from services.retriever.lexical import SparseVector
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings
from services.retriever.store import (
    PLAIN,
    Catalogue,
    Deadline,
    Description,
    Hit,
    Notes,
    Parts,
    PointId,
    Query,
    Revisions,
    Row,
)

T = TypeVar("T")

# Replicas judge the condition of an update each by itself: they have to see updates in the same order.
_IN_ORDER = api.WriteOrdering(type=api.Medium)
_OLDEST_QDRANT = (1, 17)
_OLDEST_TURBO = (1, 18)
_MOST_TRIES = 5
_ROWS_COUNTED_AT_ONCE = 500
_COUNTING_SECONDS = 120.0
# Seconds. A node that is down is not waited for: it can answer nobody with what it does not know.
_LONGEST_SETTLING = 5
# Seconds in which the nodes say where the shards of a version are.
_SHARDS_SECONDS = 1.0


class ServerStore:
    """Passages in a Qdrant server; see `PassageStore`."""

    def __init__(self, settings: RetrieverSettings, metrics: RetrieverMetrics) -> None:
        """Connect with the first call; construct it inside the event loop that will use it."""
        self._pool = QdrantPool(settings, metrics)
        self._memory = Memory()
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
                answers = await self._pool.everywhere(lambda node: node.shards(version), _SHARDS_SECONDS)
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

    async def search(
        self,
        version: str,
        searches: Sequence[Query],
        limit: int,
        condition: Filter,
        deadline: Deadline,
        layout: Layout = PLAIN,
    ) -> Sequence[Sequence[Hit]]:
        weighed = await self._weighed(version, searches, deadline)
        which = to_filter(condition)
        request = api.QueryBatchPoints(
            collection_name=version,
            query_points=[points.to_search(by, limit, which, layout) for by in weighed],
            read_consistency=self._memory[version].consistency,
        )

        async def search(qdrant: Connection) -> Any:
            return await qdrant.ask(qdrant.points.QueryBatch, request)

        return list(map(to_hits, (await self._call(version, search, deadline)).result))

    async def holders(
        self,
        version: str,
        terms: Sequence[int],
        limit: int,
        condition: Filter,
        deadline: Deadline,
        among: Sequence[PointId] = (),
    ) -> Sequence[Sequence[PointId]]:
        which = points.to_filter_among(to_filter(condition), among)
        request = api.QueryBatchPoints(
            collection_name=version,
            query_points=[points.to_term_search(term, limit, which) for term in terms],
            read_consistency=self._memory[version].consistency,
        )

        async def find_holders(qdrant: Connection) -> Any:
            return await qdrant.ask(qdrant.points.QueryBatch, request)

        found = (await self._call(version, find_holders, deadline)).result
        return [[point.id.uuid for point in one.result] for one in found]

    async def compare(
        self, version: str, tokens: Codes, points: Sequence[PointId], deadline: Deadline
    ) -> Mapping[PointId, float]:
        request = to_comparison(version, tokens, points, self._memory[version].consistency)

        async def compare(qdrant: Connection) -> Any:
            return await qdrant.ask(qdrant.points.Query, request)

        return dict(to_hits(await self._call(version, compare, deadline)))

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

    async def count(self, version: str, deadline: Deadline, condition: Filter = ALL) -> int:
        request = api.CountPoints(
            collection_name=version,
            filter=to_filter(condition),
            exact=True,
            read_consistency=self._memory[version].consistency,
        )

        async def count(qdrant: Connection) -> int:
            found: int = (await qdrant.ask(qdrant.points.Count, request)).result.count
            return found

        return await self._call(version, count, deadline)

    async def facet(
        self, version: str, field: str, limit: int, condition: Filter, deadline: Deadline
    ) -> Sequence[tuple[Scalar, int]]:
        request = api.FacetCounts(
            collection_name=version,
            key=payload_key(field),
            filter=to_filter(condition),
            limit=limit,
            exact=True,
            read_consistency=self._memory[version].consistency,
        )

        async def facet(qdrant: Connection) -> list[tuple[Scalar, int]]:
            found = await qdrant.ask(qdrant.points.Facet, request)
            return [(getattr(hit.value, hit.value.WhichOneof("variant")), hit.count) for hit in found.hits]

        return await self._call(version, facet, deadline)

    async def _call(self, version: str, operation: Operation[T], deadline: Deadline) -> T:
        """Run an operation on a version; if a part of it is away, the error says which."""

        async def informed(qdrant: Connection) -> T:
            try:
                return await operation(qdrant)
            except grpc.aio.AioRpcError as error:
                if not shards.may_be_missing(error):
                    raise
                answers = await self._pool.everywhere(lambda node: node.shards(version), _SHARDS_SECONDS)
                if (missing := shards.shard_down(version, error, answers)) is not None:
                    raise missing from error
                raise

        return await self._pool.call(informed, name=operation.__name__, deadline=deadline)

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

    async def _scroll(
        self, version: str, start: PointId | None, limit: int, deadline: Deadline, **which: Any
    ) -> api.ScrollResponse:
        request = api.ScrollPoints(
            collection_name=version,
            offset=None if start is None else api.PointId(uuid=start),
            limit=limit,
            read_consistency=self._memory[version].consistency,
            **which,
        )

        async def scroll(qdrant: Connection) -> api.ScrollResponse:
            found: api.ScrollResponse = await qdrant.ask(qdrant.points.Scroll, request)
            return found

        return await self._call(version, scroll, deadline)

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

    async def _weighed(self, version: str, searches: Sequence[Query], deadline: Deadline) -> Sequence[Query]:
        """Return searches with their terms weighed, where Qdrant does not do that."""
        if version not in self._memory:
            await self.describe(version, deadline)
        table = self._memory[version].table
        if table is None or not any(isinstance(by, SparseVector) for by in searches):
            return searches
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                found = await table.current(lambda: self._count_terms(version))
        except TimeoutError:
            raise DeadlineExceeded(
                f"the deadline passed while the terms of {version!r} were counted, which goes on; search again"
            ) from None
        return [found.weigh(by) if isinstance(by, SparseVector) else by for by in searches]

    async def _count_terms(self, version: str) -> Frequencies:
        """Count the terms of a version's passages, or of a sample."""
        end = time.monotonic() + _COUNTING_SECONDS
        total = await self.count(version, end)
        counted = FrequencyCount()
        start = str(uuid.uuid4()) if total > SAMPLE else None
        begun = start is None
        while True:
            found = await self._scroll(
                version,
                start,
                _ROWS_COUNTED_AT_ONCE,
                end,
                with_payload=points.NOTHING,
                with_vectors=points.LEXICAL_ALONE,
            )
            counted.add([points.terms_of(point) for point in found.result])
            start = found.next_page_offset.uuid or None
            if counted.read >= SAMPLE or (start is None and begun):
                return counted.table(total)
            begun = begun or start is None


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
