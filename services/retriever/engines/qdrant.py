"""Passages in Qdrant: the calls of `PassageStore` that its server and its embedded engine answer alike."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from qdrant_client import models
from qdrant_client.async_client_base import AsyncQdrantBase

from services.chassis.errors import FailedPrecondition
from services.retriever.engines import conversions
from services.retriever.engines.conversions import DENSE, LEXICAL, SELECTED
from services.retriever.fields import ALL, Filter, Scalar
from services.retriever.layout import Layout
from services.retriever.lexical import SparseVector
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
Operation = Callable[[AsyncQdrantBase], Awaitable[T]]


class QdrantStore(ABC):
    """Passages in Qdrant, whichever way it is reached; see `PassageStore`."""

    @abstractmethod
    async def call(self, name: str, deadline: Deadline, operation: Operation[T]) -> T:
        """Run an operation of Qdrant's client, perhaps twice; `name` is that of its span."""

    async def catalogue(self, deadline: Deadline) -> Catalogue:
        async def catalogue(client: AsyncQdrantBase) -> Catalogue:
            versions = [known.name for known in (await client.get_collections()).collections]
            return Catalogue(versions, await _aliases(client))

        return await self.call("catalogue", deadline, catalogue)

    async def describe(self, name: str, deadline: Deadline) -> Description:
        async def describe(client: AsyncQdrantBase) -> Description:
            version = (await _aliases(client)).get(name, name)
            found = await client.get_collection(version)
            return Description(version, found.config.metadata or {}, found.points_count or 0)

        return await self.call("describe", deadline, describe)

    async def create(self, version: str, dimension: int, layout: Layout, notes: Notes, deadline: Deadline) -> None:
        arguments = conversions.layout(dimension) | {"metadata": dict(notes)}
        await self.call("create_collection", deadline, lambda client: client.create_collection(version, **arguments))

    async def note(self, version: str, notes: Notes, deadline: Deadline) -> None:
        metadata = dict(notes)
        await self.call("note", deadline, lambda client: client.update_collection(version, metadata=metadata))

    async def drop(self, version: str, deadline: Deadline) -> None:
        await self.call("drop", deadline, lambda client: client.delete_collection(version))

    async def point(self, alias: str, version: str, deadline: Deadline) -> None:
        # Replaces an alias of the name, if there is one: whether there is, another node would know better.
        created = models.CreateAlias(alias_name=alias, collection_name=version)
        create = models.CreateAliasOperation(create_alias=created)
        await self.call("point", deadline, lambda client: client.update_collection_aliases([create]))

    async def write(
        self, version: str, rows: Sequence[Row], deadline: Deadline, still: Revisions | None = None
    ) -> None:
        if still is None:
            await self._upsert(version, rows, deadline)
            return
        if new := [row for row in rows if not still[row.id]]:
            await self._upsert(version, new, deadline, update_mode=models.UpdateMode.INSERT_ONLY)
        if changed := [row for row in rows if still[row.id]]:
            condition = conversions.to_condition({row.id: still[row.id] for row in changed})
            only = {"update_mode": models.UpdateMode.UPDATE_ONLY, "update_filter": condition}
            await self._upsert(version, changed, deadline, **only)

    async def remove(
        self, version: str, ids: Sequence[PointId], deadline: Deadline, still: Revisions | None = None
    ) -> None:
        selector: models.PointsSelector = models.PointIdsList(points=list(ids))
        if still is not None:
            selector = models.FilterSelector(filter=conversions.to_condition(still))
        await self.call("delete", deadline, lambda client: client.delete(version, selector, wait=True))

    async def search(
        self,
        version: str,
        searches: Sequence[Query],
        limit: int,
        condition: Filter,
        deadline: Deadline,
        layout: Layout = PLAIN,
    ) -> Sequence[Sequence[Hit]]:
        query_filter = conversions.to_filter(condition)
        requests = [
            models.QueryRequest(
                query=conversions.to_query(by),
                using=LEXICAL if isinstance(by, SparseVector) else DENSE,
                filter=query_filter,
                limit=limit,
                with_payload=False,
            )
            for by in searches
        ]
        found = await self.call("search", deadline, lambda client: client.query_batch_points(version, requests))
        return [[conversions.to_hit(point) for point in response.points] for response in found]

    async def read(
        self,
        version: str,
        ids: Sequence[PointId],
        parts: Parts,
        deadline: Deadline,
        keys: Sequence[PointId] = (),
    ) -> Sequence[Row]:
        selected = SELECTED[parts]

        async def retrieve(client: AsyncQdrantBase) -> list[models.Record]:
            records = await client.retrieve(version, ids, **selected)
            return records + (await client.retrieve(version, keys, **SELECTED[Parts.KEYS]) if keys else [])

        return [conversions.to_row(record) for record in await self.call("retrieve", deadline, retrieve)]

    async def scroll(
        self, version: str, start: PointId | None, limit: int, parts: Parts, deadline: Deadline, condition: Filter = ALL
    ) -> tuple[Sequence[Row], PointId | None]:
        which = {"scroll_filter": conversions.to_filter(condition), "limit": limit, "offset": start, **SELECTED[parts]}
        records, following = await self.call("scroll", deadline, lambda client: client.scroll(version, **which))
        return [conversions.to_row(record) for record in records], None if following is None else str(following)

    async def count(self, version: str, deadline: Deadline, condition: Filter = ALL) -> int:
        which = conversions.to_filter(condition)
        found = await self.call("count", deadline, lambda client: client.count(version, which, exact=True))
        return found.count

    async def facet(
        self, version: str, field: str, limit: int, condition: Filter, deadline: Deadline
    ) -> Sequence[tuple[Scalar, int]]:
        key, which = conversions.payload_key(field), conversions.to_filter(condition)
        found = await self.call(
            "facet", deadline, lambda client: client.facet(version, key, facet_filter=which, limit=limit, exact=True)
        )
        return [(hit.value, hit.count) for hit in found.hits]

    async def tune(self, version: str, layout: Layout, deadline: Deadline) -> None:
        raise FailedPrecondition("the layout of a version cannot be changed yet", reason="LAYOUT_FIXED")

    async def _upsert(self, version: str, rows: Sequence[Row], deadline: Deadline, **only: Any) -> None:
        # Converting a large batch takes long enough to hold up all other calls.
        points = await asyncio.to_thread(lambda: [conversions.to_point(row) for row in rows])
        await self.call("upsert", deadline, lambda client: client.upsert(version, points, wait=True, **only))


async def _aliases(client: AsyncQdrantBase) -> dict[str, str]:
    return {alias.alias_name: alias.collection_name for alias in (await client.get_aliases()).aliases}
