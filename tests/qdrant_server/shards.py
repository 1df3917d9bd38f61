"""Shards: parts of a collection, each in Qdrant's engine by itself, with an IDF of its own."""

from __future__ import annotations

import shutil
import tempfile
import uuid
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import qdrant_edge as edge
from qdrant_client import grpc as api

from tests.places import in_memory
from tests.qdrant_server import conversions
from tests.qdrant_server.conversions import FALSE, TRUE, Id

_TYPES = {
    api.PayloadSchemaType.Keyword: edge.PayloadSchemaType.Keyword,
    api.PayloadSchemaType.Integer: edge.PayloadSchemaType.Integer,
    api.PayloadSchemaType.Float: edge.PayloadSchemaType.Float,
    api.PayloadSchemaType.Bool: edge.PayloadSchemaType.Bool,
    api.PayloadSchemaType.Datetime: edge.PayloadSchemaType.Datetime,
    api.PayloadSchemaType.Text: edge.PayloadSchemaType.Text,
    api.PayloadSchemaType.Uuid: edge.PayloadSchemaType.Uuid,
}
_DATATYPES = {
    api.Datatype.Default: None,
    api.Datatype.Float32: edge.VectorStorageDatatype.Float32,
    api.Datatype.Uint8: edge.VectorStorageDatatype.Uint8,
    api.Datatype.Float16: edge.VectorStorageDatatype.Float16,
}
_MAX_SIM = edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)


class Shard:
    """A part of a collection."""

    def __init__(self, params: api.CollectionParams) -> None:
        self._sizes = _sizes(params)
        self._sparse = set(params.sparse_vectors_config.map)
        self._indexes: dict[str, tuple[api.PayloadSchemaType.ValueType, bool]] = {}
        self._open(params)

    def _open(self, params: api.CollectionParams) -> None:
        self._folder = tempfile.mkdtemp(prefix="qdrant-double-", dir=in_memory())
        self._engine = edge.EdgeShard.create(self._folder, _config(params))
        self._weighed = _weighed(params)
        self._counts_removed = False

    @property
    def size(self) -> int:
        """Number of points."""
        return self._engine.info().points_count

    def close(self) -> None:
        """Forget the points."""
        self._engine.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def weigh(self, params: api.CollectionParams) -> None:
        """Multiply by the IDF, or do not, as the parameters say by now."""
        if _weighed(params) == self._weighed:
            return
        # The engine keeps what it was made with, so it is made again.
        points = [edge.Point(one.id, one.vector, one.payload) for one in self.scroll(None, 10**9, None, True, True)]
        self.close()
        self._open(params)
        self.upsert(points)
        for field, (kind, tenant) in self._indexes.items():
            self.create_index(field, kind, tenant=tenant)

    def upsert(
        self, points: Sequence[edge.Point], condition: edge.Filter | None = None, mode: edge.UpdateMode | None = None
    ) -> None:
        """Write points, all of which `check` has seen."""
        before = self.size
        self._engine.update(edge.UpdateOperation.upsert_points(list(points), condition, mode))
        # Replacing a point leaves the old one behind, as a deletion does.
        self._counts_removed |= self.size - before != len(points)

    def update_vectors(self, points: Sequence[edge.PointVectors], condition: edge.Filter | None) -> None:
        """Replace vectors of points that exist and match."""
        self._counts_removed = True
        self._engine.update(edge.UpdateOperation.update_vectors(list(points), condition))

    def check(self, points: Iterable[edge.Point]) -> None:
        """Raise ValueError for a vector that does not fit: the engine would write a part of the points."""
        for point in points:
            vectors = point.vector
            assert isinstance(vectors, dict)
            for name, vector in vectors.items():
                if isinstance(vector, edge.SparseVector):
                    if name not in self._sparse:
                        raise ValueError(f"Not existing vector name error: {name}")
                elif name not in self._sizes:
                    raise ValueError(f"Not existing vector name error: {name}")
                else:
                    self._check_size(name, vector)

    def delete(self, ids: Sequence[Id]) -> None:
        self._counts_removed = True
        self._engine.update(edge.UpdateOperation.delete_points(list(ids)))

    def delete_where(self, condition: edge.Filter) -> None:
        self._counts_removed = True
        self._engine.update(edge.UpdateOperation.delete_points_by_filter(condition))

    def query(self, queries: Sequence[api.QueryPoints]) -> list[list[Any]]:
        """Return the best points of each query, to be merged with those of other shards."""
        return self._engine.query_batch(edge.QueryBatchRequest([self._request(one) for one in queries]))

    def scroll(
        self, start: Id | None, limit: int, condition: edge.Filter | None, payload: Any = False, vectors: Any = False
    ) -> list[Any]:
        records, _ = self._engine.scroll(edge.ScrollRequest(start, limit, condition, payload, vectors))
        return records

    def retrieve(self, ids: Sequence[Id], payload: Any, vectors: Any) -> list[Any]:
        return self._engine.retrieve(list(ids), payload, vectors)

    def count(self, condition: edge.Filter | None = None) -> int:
        return self._engine.count(edge.CountRequest(exact=True, filter=condition))

    def facet(self, key: str, condition: edge.Filter | None) -> dict[Any, int]:
        """Count all values; ValueError without an index."""
        try:
            found = self._engine.facet(edge.FacetRequest(key, 2**31, exact=True, filter=condition))
        except Exception as error:  # the engine raises no other
            raise ValueError(str(error)) from None
        return {hit.value: hit.count for hit in found.hits}

    def create_index(self, field: str, kind: api.PayloadSchemaType.ValueType, *, tenant: bool = False) -> None:
        self._indexes[field] = kind, tenant
        index = edge.KeywordIndexParams(is_tenant=True) if tenant else _TYPES[kind]
        self._engine.update(edge.UpdateOperation.create_field_index(field, index))
        if kind == api.PayloadSchemaType.Bool:
            for key in (TRUE, FALSE):
                self._engine.update(edge.UpdateOperation.create_field_index(key, edge.PayloadSchemaType.Keyword))

    def delete_index(self, field: str) -> None:
        self._indexes.pop(field, None)
        self._engine.update(edge.UpdateOperation.delete_field_index(field))

    def points_with(self, field: str) -> int:
        """Return the number of points that an index knows."""
        index = self._engine.info().payload_schema.get(field)
        return index.points if index else 0

    def _request(self, query: api.QueryPoints) -> edge.QueryRequest:
        if not query.HasField("query"):
            return edge.QueryRequest(limit=query.offset + query.limit, **_which(query))
        if query.prefetch or query.query.WhichOneof("variant") != "nearest":
            raise NotImplementedError("a query that is not for the nearest points")
        vector = conversions.query_of(query.query.nearest)
        if query.using not in self._sizes and query.using not in self._sparse:
            raise ValueError(f"Not existing vector name error: {query.using}")
        if not isinstance(vector, edge.SparseVector):
            self._check_size(query.using, vector)
        corpus = None
        if query.params.HasField("idf"):
            corpus = conversions.filter_of(query.params.idf.corpus)
        elif self._counts_removed and query.using in self._weighed:
            # Until the shard is loaded again qdrant-edge-py 0.9.0 counts what was removed; not so with a filter.
            corpus = edge.Filter()
        return edge.QueryRequest(
            limit=query.offset + query.limit,
            query=edge.Query.Nearest(vector, using=query.using),
            score_threshold=query.score_threshold if query.HasField("score_threshold") else None,
            params=edge.SearchParams(exact=True, idf=edge.IdfParams(corpus) if corpus else None),
            **_which(query),
        )

    def _check_size(self, name: str, vector: Any) -> None:
        for row in vector if isinstance(vector[0], list) else [vector]:
            if len(row) != self._sizes[name]:
                raise ValueError(f"Vector dimension error: expected dim: {self._sizes[name]}, got {len(row)}")


def number_for(point: Id, shards: int) -> int:
    """Return the shard that keeps a point."""
    key = point.to_bytes(8, "little") if isinstance(point, int) else uuid.UUID(point).bytes
    return zlib.crc32(key) % shards


def order(point: object) -> tuple[bool, int]:
    """Return a sort key of ids: numbers first."""
    return (False, point) if isinstance(point, int) else (True, uuid.UUID(str(point)).int)


def _which(query: api.QueryPoints) -> dict[str, Any]:
    """Return the points among which a query looks, and what it wants of them."""
    return {
        "filter": conversions.optional_filter(query),
        "with_payload": conversions.with_payload(query.with_payload),
        "with_vector": conversions.with_vectors(query.with_vectors),
    }


def _config(params: api.CollectionParams) -> edge.EdgeConfig:
    return edge.EdgeConfig(
        vectors={
            name: edge.EdgeVectorParams(
                one.size,
                conversions.DISTANCES[one.distance],
                multivector_config=_MAX_SIM if one.HasField("multivector_config") else None,
                datatype=_DATATYPES[one.datatype],
            )
            for name, one in _dense(params).items()
        },
        sparse_vectors={
            name: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf if name in _weighed(params) else None)
            for name in params.sparse_vectors_config.map
        },
        max_search_threads=1,
        wal_enabled=False,
    )


def _weighed(params: api.CollectionParams) -> set[str]:
    """Return the sparse vectors that are multiplied by the IDF."""
    return {name for name, one in params.sparse_vectors_config.map.items() if one.modifier == api.Modifier.Idf}


def _sizes(params: api.CollectionParams) -> dict[str, int]:
    return {name: one.size for name, one in _dense(params).items()}


def _dense(params: api.CollectionParams) -> Mapping[str, api.VectorParams]:
    config = params.vectors_config
    return {"": config.params} if config.WhichOneof("config") == "params" else config.params_map.map
