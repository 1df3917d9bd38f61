"""RetrieverService: validate, translate, delegate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import grpc
import numpy as np

from services.chassis import tracing
from services.chassis.errors import InvalidArgument
from services.chassis.timing import deadline_of, duration
from services.retriever import fields, index
from services.retriever.chunks import Chunk
from services.retriever.fields import FieldType
from services.retriever.index import Index, VersionState
from services.retriever.lexical import ANALYZER
from services.retriever.snapshots import Snapshot, Snapshots
from services.retriever.versions import Copy, Removal, Side, Versions
from sluice.retriever.v1 import retriever_pb2, retriever_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

_FIELD_TYPES = {
    FieldType.KEYWORD: retriever_pb2.FIELD_TYPE_KEYWORD,
    FieldType.INTEGER: retriever_pb2.FIELD_TYPE_INTEGER,
    FieldType.FLOAT: retriever_pb2.FIELD_TYPE_FLOAT,
    FieldType.BOOL: retriever_pb2.FIELD_TYPE_BOOL,
}


_STATES = {
    VersionState.BUILDING: retriever_pb2.VERSION_STATE_BUILDING,
    VersionState.READY: retriever_pb2.VERSION_STATE_READY,
}
_SIDES = {
    retriever_pb2.SIDE_UNSPECIFIED: Side.LIVE,
    retriever_pb2.SIDE_LIVE: Side.LIVE,
    retriever_pb2.SIDE_BUILDING: Side.BUILDING,
}


class RetrieverServicer(retriever_pb2_grpc.RetrieverServiceServicer):
    """Stores and finds, and keeps versions."""

    def __init__(self, passages: Index, versions: Versions, snapshots: Snapshots) -> None:
        self._index = passages
        self._versions = versions
        self._snapshots = snapshots

    async def SearchPassages(  # noqa: N802  # gRPC's name
        self, request: retriever_pb2.SearchPassagesRequest, context: Context
    ) -> retriever_pb2.SearchPassagesResponse:
        """Searches all variants at once."""
        variants = [
            index.QueryVariant(variant.text, _vector(variant.vector, f"variants[{position}].vector"), variant.weight)
            for position, variant in enumerate(request.variants)
        ]
        found = await self._index.search(
            request.collection,
            variants,
            limit=request.limit,
            condition=_filter(request.filter),
            dense_weight=request.dense_weight if request.HasField("dense_weight") else 1.0,
            lexical_weight=request.lexical_weight if request.HasField("lexical_weight") else 1.0,
            model_fingerprint=request.model_fingerprint,
            deadline=deadline_of(context),
        )
        if (span := tracing.recorded()) is not None:
            span.set_attributes(
                {
                    "sluice.variants": len(variants),
                    "sluice.searches": found.fused_searches,
                    "sluice.candidates": len(found.candidates),
                    "sluice.index": found.version,
                }
            )
        return retriever_pb2.SearchPassagesResponse(
            candidates=[
                retriever_pb2.Candidate(passage=_passage_message(candidate.passage), score=candidate.score)
                for candidate in found.candidates
            ],
            index_version=found.version,
            fused_search_count=found.fused_searches,
            search_duration=duration(found.seconds),
        )

    async def UpsertPassages(  # noqa: N802  # gRPC's name
        self, request: retriever_pb2.UpsertPassagesRequest, context: Context
    ) -> retriever_pb2.UpsertPassagesResponse:
        """Stores passages."""
        passages = [_passage(entry, f"passages[{position}]") for position, entry in enumerate(request.passages)]
        stored = await self._index.upsert(
            request.collection,
            passages,
            model_fingerprint=request.model_fingerprint,
            deadline=deadline_of(context),
        )
        return retriever_pb2.UpsertPassagesResponse(
            upserted_count=stored.count,
            index_version=stored.version,
            building_version=stored.building,
            changed_ids=stored.changed if stored.building else (),
        )

    async def DeletePassages(  # noqa: N802  # gRPC's name
        self, request: retriever_pb2.DeletePassagesRequest, context: Context
    ) -> retriever_pb2.DeletePassagesResponse:
        """Deletes passages."""
        deleted = await self._index.delete(request.collection, request.ids, deadline=deadline_of(context))
        return retriever_pb2.DeletePassagesResponse(
            deleted_count=deleted.count,
            building_version=deleted.building,
            changed_ids=deleted.changed if deleted.building else (),
        )

    async def GetPassages(  # noqa: N802  # gRPC's name
        self, request: retriever_pb2.GetPassagesRequest, context: Context
    ) -> retriever_pb2.GetPassagesResponse:
        """Returns passages."""
        passages, missing = await self._index.get(request.collection, request.ids, deadline=deadline_of(context))
        return retriever_pb2.GetPassagesResponse(
            passages=[_passage_message(passage) for passage in passages], missing_ids=missing
        )

    async def CreateCollection(  # noqa: N802  # gRPC's name
        self, request: retriever_pb2.CreateCollectionRequest, context: Context
    ) -> retriever_pb2.CreateCollectionResponse:
        """Creates a collection."""
        created = await self._index.create_collection(
            request.collection, _model(request.model), deadline=deadline_of(context)
        )
        return retriever_pb2.CreateCollectionResponse(collection=_collection_message(created, live=True))

    async def GetCollection(  # noqa: N802  # gRPC's name
        self, request: retriever_pb2.GetCollectionRequest, context: Context
    ) -> retriever_pb2.GetCollectionResponse:
        """Describes a collection."""
        found = await self._index.get_collection(request.collection, deadline=deadline_of(context))
        live = found.name == found.collection
        return retriever_pb2.GetCollectionResponse(collection=_collection_message(found, live=live))

    async def ListCollections(  # noqa: N802  # gRPC's name
        self, request: retriever_pb2.ListCollectionsRequest, context: Context
    ) -> retriever_pb2.ListCollectionsResponse:
        """Describes all versions."""
        versions = await self._versions.all(deadline=deadline_of(context))
        return retriever_pb2.ListCollectionsResponse(
            versions=[_collection_message(info, live=live) for info, live in versions]
        )

    async def CreateVersion(  # noqa: N802  # gRPC's name
        self, request: retriever_pb2.CreateVersionRequest, context: Context
    ) -> retriever_pb2.CreateVersionResponse:
        """Creates a version, or goes on with one."""
        version, live = await self._versions.create(
            request.collection, _model(request.model), deadline=deadline_of(context)
        )
        return retriever_pb2.CreateVersionResponse(
            version=_collection_message(version, live=False), live=_collection_message(live, live=True)
        )

    async def ComparePassages(  # noqa: N802  # gRPC's name
        self, request: retriever_pb2.ComparePassagesRequest, context: Context
    ) -> retriever_pb2.ComparePassagesResponse:
        """Compares a version with the live one."""
        side = _SIDES.get(request.side)
        if side is None:
            raise InvalidArgument("side", f"is unknown ({request.side})")
        compared = await self._versions.compare(
            request.collection,
            request.version,
            ids=request.ids,
            side=side,
            token=request.page_token,
            limit=request.page_size,
            deadline=deadline_of(context),
        )
        return retriever_pb2.ComparePassagesResponse(
            differences=[
                retriever_pb2.Difference(
                    id=difference.id,
                    passage=None if difference.passage is None else _passage_message(difference.passage),
                    revision=difference.revision,
                    building_revision=difference.building_revision,
                )
                for difference in compared.differences
            ],
            compared_count=compared.compared,
            next_page_token=compared.next_token,
        )

    async def CopyPassages(  # noqa: N802  # gRPC's name
        self, request: retriever_pb2.CopyPassagesRequest, context: Context
    ) -> retriever_pb2.CopyPassagesResponse:
        """Brings differences into a version."""
        await self._versions.copy(
            request.version,
            [
                Copy(_passage(entry.passage, f"passages[{position}]"), entry.revision, entry.building_revision)
                for position, entry in enumerate(request.passages)
            ],
            [Removal(entry.id, entry.building_revision) for entry in request.removals],
            model_fingerprint=request.model_fingerprint,
            deadline=deadline_of(context),
        )
        return retriever_pb2.CopyPassagesResponse()

    async def SamplePassages(  # noqa: N802  # gRPC's name
        self, request: retriever_pb2.SamplePassagesRequest, context: Context
    ) -> retriever_pb2.SamplePassagesResponse:
        """Returns some passages with their vectors."""
        sample = await self._versions.sample(request.collection, request.limit, deadline=deadline_of(context))
        return retriever_pb2.SamplePassagesResponse(
            passages=[
                retriever_pb2.PassageVector(
                    passage=_passage_message(passage),
                    vector=b"" if passage.vector is None else passage.vector.astype("<f4").tobytes(),
                )
                for passage in sample.passages
            ],
            index_version=sample.version,
            passage_count=sample.count,
        )

    async def CompleteVersion(  # noqa: N802  # gRPC's name
        self, request: retriever_pb2.CompleteVersionRequest, context: Context
    ) -> retriever_pb2.CompleteVersionResponse:
        """Records that a version is complete."""
        version = await self._versions.complete(request.version, deadline=deadline_of(context))
        return retriever_pb2.CompleteVersionResponse(version=_collection_message(version, live=False))

    async def AbandonVersion(  # noqa: N802  # gRPC's name
        self, request: retriever_pb2.AbandonVersionRequest, context: Context
    ) -> retriever_pb2.AbandonVersionResponse:
        """Ends the building of a version."""
        await self._versions.abandon(request.version, deadline=deadline_of(context))
        return retriever_pb2.AbandonVersionResponse()

    async def SwitchCollection(  # noqa: N802  # gRPC's name
        self, request: retriever_pb2.SwitchCollectionRequest, context: Context
    ) -> retriever_pb2.SwitchCollectionResponse:
        """Makes another version live."""
        live, previous = await self._versions.switch(request.collection, request.version, deadline=deadline_of(context))
        return retriever_pb2.SwitchCollectionResponse(
            live=_collection_message(live, live=True), previous_version=previous
        )

    async def DropVersion(  # noqa: N802  # gRPC's name
        self, request: retriever_pb2.DropVersionRequest, context: Context
    ) -> retriever_pb2.DropVersionResponse:
        """Deletes a version."""
        await self._versions.drop(request.version, deadline=deadline_of(context))
        return retriever_pb2.DropVersionResponse()

    async def CreateSnapshot(  # noqa: N802  # gRPC's name
        self, request: retriever_pb2.CreateSnapshotRequest, context: Context
    ) -> retriever_pb2.CreateSnapshotResponse:
        """Copies a version."""
        made = await self._snapshots.create(request.collection, deadline=deadline_of(context))
        return retriever_pb2.CreateSnapshotResponse(snapshot=_snapshot_message(made))

    async def ListSnapshots(  # noqa: N802  # gRPC's name
        self, request: retriever_pb2.ListSnapshotsRequest, context: Context
    ) -> retriever_pb2.ListSnapshotsResponse:
        """Lists copies."""
        found = await self._snapshots.of(request.collection, deadline=deadline_of(context))
        return retriever_pb2.ListSnapshotsResponse(snapshots=map(_snapshot_message, found))

    async def RestoreSnapshot(  # noqa: N802  # gRPC's name
        self, request: retriever_pb2.RestoreSnapshotRequest, context: Context
    ) -> retriever_pb2.RestoreSnapshotResponse:
        """Makes a version from a copy."""
        version = await self._snapshots.restore(request.collection, request.snapshot, deadline=deadline_of(context))
        return retriever_pb2.RestoreSnapshotResponse(version=_collection_message(version, live=False))

    async def DeleteSnapshot(  # noqa: N802  # gRPC's name
        self, request: retriever_pb2.DeleteSnapshotRequest, context: Context
    ) -> retriever_pb2.DeleteSnapshotResponse:
        """Deletes a copy."""
        await self._snapshots.delete(request.collection, request.snapshot, deadline=deadline_of(context))
        return retriever_pb2.DeleteSnapshotResponse()


def _model(message: retriever_pb2.CollectionModel) -> index.CollectionModel:
    return index.CollectionModel(
        name=message.name,
        fingerprint=message.fingerprint,
        dimension=message.dimension,
        precision=message.precision,
    )


def _passage(entry: retriever_pb2.PassageVector, path: str) -> index.Passage:
    return index.Passage(
        id=entry.passage.id,
        text=entry.passage.text,
        title=entry.passage.title,
        metadata={name: _value(value, f"{path}.metadata.{name}") for name, value in entry.passage.metadata.items()},
        vector=_vector(entry.vector, f"{path}.vector"),
        chunk=_chunk(entry.passage),
    )


def _vector(raw: bytes, field: str) -> index.Vector | None:
    if not raw:
        return None
    if len(raw) % 4:
        raise InvalidArgument(field, f"is {len(raw)} bytes long, which is no whole number of float32 values")
    return np.frombuffer(raw, dtype="<f4")


def _value(message: retriever_pb2.Value, field: str) -> fields.Value:
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidArgument(field, "has no value; set one of its kinds, or leave the field out")
    if kind == "string_list_value":
        return list(message.string_list_value.values)
    value: fields.Value = getattr(message, kind)
    return value


def _single_value(message: retriever_pb2.Value, field: str) -> str | int | float | bool:
    value = _value(message, field)
    if not isinstance(value, str | int | float):
        raise InvalidArgument(field, "is a list; ask for any_of its values")
    return value


def _filter(message: retriever_pb2.Filter) -> fields.Filter:
    def conditions(group: str) -> list[fields.Condition]:
        return [
            _condition(condition, f"filter.{group}[{position}]")
            for position, condition in enumerate(getattr(message, group))
        ]

    return fields.Filter(must=conditions("must"), should=conditions("should"), must_not=conditions("must_not"))


def _condition(message: retriever_pb2.Condition, path: str) -> fields.Condition:
    match message.WhichOneof("test"):
        case "equals":
            return fields.Equals(message.field, _single_value(message.equals, f"{path}.equals"))
        case "any_of":
            values = [
                _single_value(value, f"{path}.any_of[{position}]")
                for position, value in enumerate(message.any_of.values)
            ]
            return fields.AnyOf(message.field, values)
        case "range":
            bounds = {
                name: getattr(message.range, name)
                for name in ("gt", "gte", "lt", "lte")
                if message.range.HasField(name)
            }
            return fields.Range(message.field, **bounds)
        case "exists":
            return fields.Exists(message.field, message.exists)
    raise InvalidArgument(path, "has no test; set equals, any_of, range or exists")


def _passage_message(passage: index.Passage) -> retriever_pb2.Passage:
    message = retriever_pb2.Passage(
        id=passage.id, title=passage.title, text=passage.text, metadata=_metadata_message(passage.metadata)
    )
    if passage.chunk:
        message.chunk.CopyFrom(retriever_pb2.Chunk(**asdict(passage.chunk)))
    return message


def _chunk(message: retriever_pb2.Passage) -> Chunk | None:
    if not message.HasField("chunk"):
        return None
    chunk = message.chunk
    return Chunk(chunk.document_id, chunk.number, chunk.count, chunk.start, chunk.end)


def _metadata_message(metadata: Mapping[str, fields.Value]) -> dict[str, retriever_pb2.Value]:
    return {name: _value_message(value) for name, value in metadata.items()}


def _value_message(value: fields.Value) -> retriever_pb2.Value:
    match value:
        case bool():
            return retriever_pb2.Value(bool_value=value)
        case str():
            return retriever_pb2.Value(string_value=value)
        case int():
            return retriever_pb2.Value(integer_value=value)
        case float():
            return retriever_pb2.Value(float_value=value)
    return retriever_pb2.Value(string_list_value=retriever_pb2.StringList(values=value))


def _collection_message(info: index.CollectionInfo, *, live: bool) -> retriever_pb2.Collection:
    bm25 = info.bm25
    message = retriever_pb2.Collection(
        name=info.name,
        index_version=info.version,
        model=retriever_pb2.CollectionModel(
            name=info.model.name,
            fingerprint=info.model.fingerprint,
            dimension=info.model.dimension,
            precision=info.model.precision,
        ),
        passage_count=info.passage_count,
        fields={name: _FIELD_TYPES[kind] for name, kind in info.schema.items()},
        collection=info.collection,
        state=_STATES[info.state],
        live=live,
        source=info.source,
        building_version=info.building,
        previous_version=info.previous,
        lexical_settings=f"{ANALYZER}, k1 {bm25.k1:g}, b {bm25.b:g}, average length {bm25.average_length:g}, "
        f"title {bm25.title_weight:g} times",
    )
    message.create_time.FromDatetime(info.created)
    return message


def _snapshot_message(snapshot: Snapshot) -> retriever_pb2.Snapshot:
    message = retriever_pb2.Snapshot(name=snapshot.name, version=snapshot.version, size_bytes=snapshot.size_bytes)
    message.create_time.FromDatetime(snapshot.created)
    return message
