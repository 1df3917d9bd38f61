"""RetrieverService: validate, translate, delegate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import grpc
import numpy as np

from services.common.errors import InvalidArgument
from services.common.timing import deadline_of, duration
from services.retriever import fields, index
from services.retriever.chunks import Chunk
from services.retriever.fields import FieldType
from services.retriever.index import Index
from sluice.retriever.v1 import retriever_pb2, retriever_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

_FIELD_TYPES = {
    FieldType.KEYWORD: retriever_pb2.FIELD_TYPE_KEYWORD,
    FieldType.INTEGER: retriever_pb2.FIELD_TYPE_INTEGER,
    FieldType.FLOAT: retriever_pb2.FIELD_TYPE_FLOAT,
    FieldType.BOOL: retriever_pb2.FIELD_TYPE_BOOL,
}


class RetrieverServicer(retriever_pb2_grpc.RetrieverServiceServicer):
    """Stores and finds."""

    def __init__(self, passages: Index) -> None:
        self._index = passages

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
        passages = [
            index.Passage(
                id=entry.passage.id,
                text=entry.passage.text,
                title=entry.passage.title,
                metadata={
                    name: _value(value, f"passages[{position}].metadata.{name}")
                    for name, value in entry.passage.metadata.items()
                },
                vector=_vector(entry.vector, f"passages[{position}].vector"),
                chunk=_chunk(entry.passage),
            )
            for position, entry in enumerate(request.passages)
        ]
        stored = await self._index.upsert(
            request.collection,
            passages,
            model_fingerprint=request.model_fingerprint,
            deadline=deadline_of(context),
        )
        return retriever_pb2.UpsertPassagesResponse(upserted_count=stored.count, index_version=stored.version)

    async def DeletePassages(  # noqa: N802  # gRPC's name
        self, request: retriever_pb2.DeletePassagesRequest, context: Context
    ) -> retriever_pb2.DeletePassagesResponse:
        """Deletes passages."""
        deleted = await self._index.delete(request.collection, request.ids, deadline=deadline_of(context))
        return retriever_pb2.DeletePassagesResponse(deleted_count=deleted)

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
        model = index.CollectionModel(
            name=request.model.name,
            fingerprint=request.model.fingerprint,
            dimension=request.model.dimension,
            precision=request.model.precision,
        )
        created = await self._index.create_collection(request.collection, model, deadline=deadline_of(context))
        return retriever_pb2.CreateCollectionResponse(collection=_collection_message(created))

    async def GetCollection(  # noqa: N802  # gRPC's name
        self, request: retriever_pb2.GetCollectionRequest, context: Context
    ) -> retriever_pb2.GetCollectionResponse:
        """Describes a collection."""
        found = await self._index.get_collection(request.collection, deadline=deadline_of(context))
        return retriever_pb2.GetCollectionResponse(collection=_collection_message(found))


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


def _collection_message(info: index.CollectionInfo) -> retriever_pb2.Collection:
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
    )
    message.create_time.FromDatetime(info.created)
    return message
