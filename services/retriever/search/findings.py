"""Work on what a search finds: counts by field, an order that repeats little, sentences to show."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from services.chassis.errors import InvalidArgument
from services.retriever import fields
from services.retriever.collections.catalogue import Collections
from services.retriever.collections.descriptions import CollectionInfo
from services.retriever.fields import FieldType, Filter, Scalar
from services.retriever.search.diversity import check_diversify, diversify
from services.retriever.search.highlights import MAX_TEXTS, Highlight, highlight
from services.retriever.search.searches import MAX_QUERY_BYTES
from services.retriever.store import Deadline, Parts, PassageStore, point_id
from sluice.type.v1 import facet_pb2

MAX_COUNTED_FIELDS = 16
MAX_VALUES = 1000
_DEFAULT_VALUES = 10


class FieldCounts(NamedTuple):
    """The most frequent values of a field, each with its number of passages."""

    field: str
    type: FieldType
    values: Sequence[tuple[Scalar, int]]

    def to_proto(self) -> facet_pb2.FieldCounts:
        """Write the counts."""
        return facet_pb2.FieldCounts(
            field=self.field,
            type=self.type.to_proto(),
            values=[
                facet_pb2.ValueCount(value=fields.value_to_proto(value), passage_count=count)
                for value, count in self.values
            ],
        )


class Counted(NamedTuple):
    """Counts by field of the passages that match."""

    fields: Sequence[FieldCounts]
    passage_count: int
    version: str


class Findings:
    """Counts, orders and marks passages of collections."""

    def __init__(self, store: PassageStore, collections: Collections) -> None:
        self._store = store
        self._collections = collections

    async def count_by_field(
        self, collection: str, names: Sequence[str], condition: Filter, limit: int = 0, deadline: Deadline = None
    ) -> Counted:
        """Count matching passages by the values of each field, the most frequent first, at most `limit` of each.

        InvalidArgument for a field that is not declared, or is one of decimals.
        """
        if not 1 <= len(names) <= MAX_COUNTED_FIELDS:
            raise InvalidArgument("fields", f"has {len(names)} entries; send 1 to {MAX_COUNTED_FIELDS}")
        if not 0 <= limit <= MAX_VALUES:
            raise InvalidArgument("limit", f"is {limit}; send 1 to {MAX_VALUES}, or 0 for {_DEFAULT_VALUES}")

        async def count(info: CollectionInfo) -> Counted:
            fitted = info.fitted(condition)
            kinds = [_countable(info, names, place) for place in range(len(names))]
            counts = []
            for name, kind in zip(names, kinds, strict=True):
                most = limit or _DEFAULT_VALUES
                found = await self._store.facet(info.version, name, most, fitted, deadline)
                counts.append(FieldCounts(name, kind, found))
            return Counted(counts, await self._store.count(info.version, deadline, fitted), info.version)

        return await self._collections.using(collection, count, deadline)

    async def diversify(
        self,
        collection: str,
        ids: Sequence[str],
        scores: Sequence[float],
        diversity: float,
        deadline: Deadline = None,
    ) -> list[int]:
        """Return the places of the passages in an order of much relevance and little repetition (see `diversity`)."""
        check_diversify(ids, scores, diversity)

        async def order(info: CollectionInfo) -> list[int]:
            points = [point_id(passage_id) for passage_id in ids]
            rows = {
                row.id: row.passage.vector
                for row in await self._store.read(info.version, points, Parts.DENSE, deadline)
            }
            vectors = np.zeros((len(ids), info.model.dimension), dtype=np.float32)
            for place, point in enumerate(points):
                if (vector := rows.get(point)) is not None:
                    vectors[place] = vector
            return diversify(scores, vectors, diversity)

        return await self._collections.using(collection, order, deadline)

    async def highlight(
        self, collection: str, query: str, texts: Sequence[str], deadline: Deadline = None
    ) -> list[list[Highlight]]:
        """Return the sentences of each text that have most of the query's words."""
        if not 1 <= len(texts) <= MAX_TEXTS:
            raise InvalidArgument("texts", f"has {len(texts)} entries; send 1 to {MAX_TEXTS}")
        if len(query.encode()) > MAX_QUERY_BYTES:
            raise InvalidArgument("query", f"is longer than {MAX_QUERY_BYTES} bytes")

        async def mark(info: CollectionInfo) -> list[list[Highlight]]:
            # A hundred long texts would block the event loop.
            return await asyncio.to_thread(highlight, query, texts, info.bm25.analyzer)

        return await self._collections.using(collection, mark, deadline)


def _countable(info: CollectionInfo, names: Sequence[str], place: int) -> FieldType:
    name, path = names[place], f"fields[{place}]"
    if name in names[:place]:
        raise InvalidArgument(path, "is there twice; name each field once")
    declared = fields.declared_type(name, info.schema, path)
    if declared is FieldType.FLOAT:
        raise InvalidArgument(
            path,
            f"{name!r} is a field of decimal numbers, whose values are not counted; count a field of keywords, whole "
            "numbers or booleans, or search with ranges of it",
            reason="WRONG_TYPE",
        )
    return declared
