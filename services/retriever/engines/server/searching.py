"""Searches of a Qdrant server, and what they need: calls that say which shard is missing, and weights of terms."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import grpc
from qdrant_client import grpc as api

from services.chassis.errors import DeadlineExceeded
from services.late.codes import Codes
from services.retriever.engines.payloads import payload_key
from services.retriever.engines.server import points, shards
from services.retriever.engines.server.filters import to_filter
from services.retriever.engines.server.frequencies import SAMPLE, Frequencies, FrequencyCount
from services.retriever.engines.server.memory import Memory
from services.retriever.engines.server.nodes import Connection, Operation
from services.retriever.engines.server.points import to_comparison, to_hits
from services.retriever.engines.server.pool import QdrantPool
from services.retriever.fields import ALL, Filter, Scalar
from services.retriever.layout import Layout
from services.retriever.lexical import SparseVector
from services.retriever.store import PLAIN, Deadline, Hit, PointId, Query

T = TypeVar("T")

_ROWS_COUNTED_AT_ONCE = 500
_COUNTING_SECONDS = 120.0
SHARDS_SECONDS = 1.0
"""Time in which the nodes say where the shards of a version are."""


class ServerSearches:
    """The part of `ServerStore` that searches, counts and compares."""

    def __init__(self, pool: QdrantPool) -> None:
        self._pool = pool
        self._memory = Memory()

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
                answers = await self._pool.everywhere(lambda node: node.shards(version), SHARDS_SECONDS)
                if (missing := shards.shard_down(version, error, answers)) is not None:
                    raise missing from error
                raise

        return await self._pool.call(informed, name=operation.__name__, deadline=deadline)

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

    async def _weighed(self, version: str, searches: Sequence[Query], deadline: Deadline) -> Sequence[Query]:
        """Return searches with their terms weighed, where Qdrant does not do that."""
        if version not in self._memory:

            async def describe(qdrant: Connection) -> None:
                self._memory.learn(version, await qdrant.info(version))

            await self._call(version, describe, deadline)
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
