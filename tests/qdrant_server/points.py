"""Points over Qdrant's protocol: spread over shards, and gathered from them."""

# ruff: noqa: N802  Qdrant's protocol names the methods

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import grpc
import qdrant_edge as edge
from qdrant_client import grpc as api

from tests.qdrant_server import conversions
from tests.qdrant_server.cluster import Refusal, View
from tests.qdrant_server.rpc import Servicer, rpc
from tests.qdrant_server.shards import Shard, number_for, order


class PointsService(Servicer, api.PointsServicer):
    """Reads and writes points."""

    @rpc
    async def QueryBatch(self, request: api.QueryBatchPoints) -> api.QueryBatchResponse:
        known = self.view().find(request.collection_name)
        shards = self.cluster.readable(known, request.read_consistency)
        found = zip(*(shard.query(request.query_points) for shard in shards), strict=True)
        return api.QueryBatchResponse(
            result=[
                api.BatchResult(result=[_scored(point) for point in _best(query, parts)])
                for query, parts in zip(request.query_points, found, strict=True)
            ]
        )

    @rpc
    async def Query(self, request: api.QueryPoints) -> api.QueryResponse:
        known = self.view().find(request.collection_name)
        shards = self.cluster.readable(known, request.read_consistency)
        parts = [shard.query([request])[0] for shard in shards]
        return api.QueryResponse(result=[_scored(point) for point in _best(request, parts)])

    @rpc
    async def Upsert(self, request: api.UpsertPoints) -> api.PointsOperationResponse:
        known = self.view().find(request.collection_name)
        spread: dict[int, list[edge.Point]] = defaultdict(list)
        for point in request.points:
            point_id = conversions.id_of(point.id)
            made = edge.Point(point_id, conversions.vectors_of(point.vectors), conversions.payload_of(point.payload))
            spread[number_for(point_id, len(known.points.shards))].append(made)
        for number, points in spread.items():
            known.points.shards[number].check(points)
        condition = conversions.optional_filter(request, "update_filter")
        mode = conversions.MODES[request.update_mode]
        self.cluster.write(known, spread, lambda shard, number: shard.upsert(spread[number], condition, mode))
        return _done()

    @rpc
    async def UpdateVectors(self, request: api.UpdatePointVectors) -> api.PointsOperationResponse:
        known = self.view().find(request.collection_name)
        spread: dict[int, list[edge.PointVectors]] = defaultdict(list)
        for point in request.points:
            point_id = conversions.id_of(point.id)
            made = edge.PointVectors(point_id, conversions.vectors_of(point.vectors))
            spread[number_for(point_id, len(known.points.shards))].append(made)
        for number, points in spread.items():
            there = known.points.shards[number].retrieve([point.id for point in points], False, False)
            if len(there) < len(points):
                raise Refusal(grpc.StatusCode.NOT_FOUND, "Not found: No point with one of these ids found")
        condition = conversions.optional_filter(request, "update_filter")
        self.cluster.write(known, spread, lambda shard, number: shard.update_vectors(spread[number], condition))
        return _done()

    @rpc
    async def Delete(self, request: api.DeletePoints) -> api.PointsOperationResponse:
        known = self.view().find(request.collection_name)
        if request.points.WhichOneof("points_selector_one_of") == "filter":
            condition = conversions.filter_of(request.points.filter)
            everywhere = range(len(known.points.shards))
            self.cluster.write(known, everywhere, lambda shard, _: shard.delete_where(condition))
        else:
            spread = known.points.spread(map(conversions.id_of, request.points.points.ids))
            self.cluster.write(known, spread, lambda shard, number: shard.delete(spread[number]))
        return _done()

    @rpc
    async def Get(self, request: api.GetPoints) -> api.GetResponse:
        known = self.view().find(request.collection_name)
        spread = known.points.spread(map(conversions.id_of, request.ids))
        payload, vectors = (
            conversions.with_payload(request.with_payload),
            conversions.with_vectors(request.with_vectors),
        )
        found = [
            record
            for number, ids in spread.items()
            for record in self.cluster.reachable(known, number, request.read_consistency).retrieve(
                ids, payload, vectors
            )
        ]
        return api.GetResponse(result=map(_record, found))

    @rpc
    async def Scroll(self, request: api.ScrollPoints) -> api.ScrollResponse:
        if request.HasField("order_by"):
            raise NotImplementedError("an order of scrolling")
        known = self.view().find(request.collection_name)
        start = conversions.id_of(request.offset) if request.HasField("offset") else None
        limit = request.limit if request.HasField("limit") else 10
        wanted = (
            conversions.optional_filter(request),
            conversions.with_payload(request.with_payload),
            conversions.with_vectors(request.with_vectors),
        )
        shards = self.cluster.readable(known, request.read_consistency)
        records = [record for shard in shards for record in shard.scroll(start, limit + 1, *wanted)]
        records.sort(key=lambda record: order(record.id))
        following = conversions.to_id(records[limit].id) if len(records) > limit else None
        return api.ScrollResponse(result=map(_record, records[:limit]), next_page_offset=following)

    @rpc
    async def Count(self, request: api.CountPoints) -> api.CountResponse:
        condition = conversions.optional_filter(request)
        count = sum(shard.count(condition) for shard in self._shards(request))
        return api.CountResponse(result=api.CountResult(count=count))

    @rpc
    async def Facet(self, request: api.FacetCounts) -> api.FacetResponse:
        condition = conversions.optional_filter(request)
        counts: Counter[Any] = Counter()
        for shard in self._shards(request):
            counts.update(shard.facet(request.key, condition))
        # Equally frequent values come in the order of the values.
        best = sorted(counts.items(), key=lambda found: (-found[1], found[0]))[: request.limit or 10]
        return api.FacetResponse(hits=[api.FacetHit(value=_facet_value(value), count=count) for value, count in best])

    @rpc
    async def CreateFieldIndex(self, request: api.CreateFieldIndexCollection) -> api.PointsOperationResponse:
        node, name, key = self.node(), request.collection_name, request.field_name
        kind = _schema_type(request)
        tenant = request.field_index_params.keyword_index_params.is_tenant

        def create(view: View) -> bool:
            params = request.field_index_params if request.HasField("field_index_params") else None
            view.find(name).indexes[key] = api.PayloadSchemaInfo(data_type=kind, params=params)
            return True

        await self.cluster.change(node, create)
        for shard in self.cluster.view(node).find(name).points.shards:
            shard.create_index(key, kind, tenant=tenant)
        return _done()

    @rpc
    async def DeleteFieldIndex(self, request: api.DeleteFieldIndexCollection) -> api.PointsOperationResponse:
        node, name, key = self.node(), request.collection_name, request.field_name
        await self.cluster.change(node, lambda view: view.find(name).indexes.pop(key, None) is not None)
        for shard in self.cluster.view(node).find(name).points.shards:
            shard.delete_index(key)
        return _done()

    def _shards(self, request: api.CountPoints | api.FacetCounts) -> Iterable[Shard]:
        known = self.view().find(request.collection_name)
        return self.cluster.readable(known, request.read_consistency)


def _best(query: api.QueryPoints, parts: Iterable[list[Any]]) -> list[Any]:
    """Return the best of what the shards found; points that are as good come in the order of their ids."""
    found = sorted((point for part in parts for point in part), key=lambda point: (-point.score, order(point.id)))
    return found[query.offset : query.offset + (query.limit or 10)]


def _scored(point: Any) -> api.ScoredPoint:
    return api.ScoredPoint(
        id=conversions.to_id(point.id),
        score=point.score,
        version=point.version,
        payload=conversions.to_payload(point.payload),
        vectors=None if point.vector is None else conversions.to_vectors(point.vector),
    )


def _record(record: Any) -> api.RetrievedPoint:
    return api.RetrievedPoint(
        id=conversions.to_id(record.id),
        payload=conversions.to_payload(record.payload),
        vectors=None if record.vector is None else conversions.to_vectors(record.vector),
    )


def _facet_value(value: Any) -> api.FacetValue:
    match value:
        case bool():
            return api.FacetValue(bool_value=value)
        case int():
            return api.FacetValue(integer_value=value)
    return api.FacetValue(string_value=str(value))


_FIELD_TYPES = {
    api.FieldType.FieldTypeKeyword: api.PayloadSchemaType.Keyword,
    api.FieldType.FieldTypeInteger: api.PayloadSchemaType.Integer,
    api.FieldType.FieldTypeFloat: api.PayloadSchemaType.Float,
    api.FieldType.FieldTypeBool: api.PayloadSchemaType.Bool,
    api.FieldType.FieldTypeText: api.PayloadSchemaType.Text,
    api.FieldType.FieldTypeDatetime: api.PayloadSchemaType.Datetime,
    api.FieldType.FieldTypeUuid: api.PayloadSchemaType.Uuid,
}


def _schema_type(request: api.CreateFieldIndexCollection) -> api.PayloadSchemaType.ValueType:
    if request.HasField("field_type"):
        return _FIELD_TYPES[request.field_type]
    kind = (request.field_index_params.WhichOneof("index_params") or "keyword_index_params").split("_")[0]
    return api.PayloadSchemaType.Value(kind.capitalize())


def _done() -> api.PointsOperationResponse:
    result = api.UpdateResult(operation_id=time.monotonic_ns(), status=api.UpdateStatus.Completed)
    return api.PointsOperationResponse(result=result)
