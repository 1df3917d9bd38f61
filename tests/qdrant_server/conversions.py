"""Qdrant's messages in the types of its engine, and back."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import qdrant_edge as edge
from google.protobuf.message import Message
from qdrant_client import grpc as api

Id = str | int
Payload = dict[str, Any]

# qdrant-edge-py 0.9.0 matches no booleans, so points keep the paths of theirs as keywords, unseen by callers.
TRUE, FALSE = "__true", "__false"

DISTANCES = {
    api.Distance.Cosine: edge.Distance.Cosine,
    api.Distance.Euclid: edge.Distance.Euclid,
    api.Distance.Dot: edge.Distance.Dot,
    api.Distance.Manhattan: edge.Distance.Manhattan,
}
_KINDS: Mapping[type, Any] = {
    bool: "bool_value",
    int: "integer_value",
    float: "double_value",
    str: "string_value",
}
MODES = {
    api.UpdateMode.Upsert: edge.UpdateMode.Upsert,
    api.UpdateMode.InsertOnly: edge.UpdateMode.InsertOnly,
    api.UpdateMode.UpdateOnly: edge.UpdateMode.UpdateOnly,
}


def id_of(message: api.PointId) -> Id:
    """Return the id of a point; ValueError for a string that is no UUID."""
    return message.num if message.WhichOneof("point_id_options") == "num" else str(uuid.UUID(message.uuid))


def to_id(found: object) -> api.PointId:
    return api.PointId(num=found) if isinstance(found, int) else api.PointId(uuid=str(found))


def vectors_of(message: api.Vectors) -> dict[str, Any]:
    """Return the vectors of a point by name; ValueError for a sparse one that contradicts itself."""
    if message.WhichOneof("vectors_options") == "vector":
        return {"": _vector(message.vector)}
    return {name: _vector(vector) for name, vector in message.vectors.vectors.items()}


def query_of(message: api.VectorInput) -> Any:
    """Return the vector that is searched for."""
    match message.WhichOneof("variant"):
        case "dense":
            return list(message.dense.data)
        case "sparse":
            return _sparse(message.sparse.indices, message.sparse.values)
        case "multi_dense":
            return _rows(message.multi_dense)
        case other:
            raise NotImplementedError(f"a query by {other}")


def to_vectors(vectors: Any) -> api.VectorsOutput:
    if not isinstance(vectors, Mapping):
        return api.VectorsOutput(vector=_output(vectors))
    named = {name: _output(vector) for name, vector in vectors.items()}
    return api.VectorsOutput(vectors=api.NamedVectorsOutput(vectors=named))


def payload_of(fields: Mapping[str, api.Value]) -> Payload:
    """Return a payload, with the paths of its booleans."""
    payload = {name: _plain(value) for name, value in fields.items()}
    booleans = list(_booleans("", payload))
    for key, wanted in ((TRUE, True), (FALSE, False)):
        if paths := [path for path, value in booleans if value is wanted]:
            payload[key] = paths
    return payload


def to_payload(payload: Payload | None) -> dict[str, api.Value]:
    return {name: to_value(value) for name, value in (payload or {}).items() if name not in (TRUE, FALSE)}


def to_value(value: Any) -> api.Value:
    if (field := _KINDS.get(type(value))) is not None:
        return api.Value(**{field: value})
    if isinstance(value, Mapping):
        return api.Value(struct_value=api.Struct(fields={key: to_value(one) for key, one in value.items()}))
    if value is None:
        return api.Value(null_value=api.NullValue.NULL_VALUE)
    return api.Value(list_value=api.ListValue(values=map(to_value, value)))


def with_payload(message: api.WithPayloadSelector) -> Any:
    match message.WhichOneof("selector_options"):
        case "include":
            return list(message.include.fields)
        case "exclude":
            return edge.PayloadSelector.Exclude([*message.exclude.fields, TRUE, FALSE])
    return message.enable


def with_vectors(message: api.WithVectorsSelector) -> Any:
    return list(message.include.names) if message.WhichOneof("selector_options") == "include" else message.enable


def filter_of(message: api.Filter) -> edge.Filter:
    return edge.Filter(
        must=[_condition(one) for one in message.must] or None,
        should=[_condition(one) for one in message.should] or None,
        must_not=[_condition(one) for one in message.must_not] or None,
        min_should=edge.MinShould(
            [_condition(one) for one in message.min_should.conditions], message.min_should.min_count
        )
        if message.HasField("min_should")
        else None,
    )


def optional_filter(message: Any, field: str = "filter") -> edge.Filter | None:
    return filter_of(getattr(message, field)) if message.HasField(field) else None


def _vector(message: api.Vector) -> Any:
    match message.WhichOneof("vector"):
        case "dense":
            return list(message.dense.data)
        case "sparse":
            return _sparse(message.sparse.indices, message.sparse.values)
        case "multi_dense":
            return _rows(message.multi_dense)
        case None if message.HasField("indices"):
            return _sparse(message.indices.data, message.data)
        case None:
            return list(message.data)
        case other:
            raise NotImplementedError(f"a vector that is {other}")


def _sparse(indices: Sequence[int], values: Sequence[float]) -> edge.SparseVector:
    if len(indices) != len(values) or len(set(indices)) != len(indices):
        raise ValueError("sparse vector: indices must be unique, and as many as values")
    pairs = sorted(zip(indices, values, strict=True))
    return edge.SparseVector([index for index, _ in pairs], [value for _, value in pairs])


def _output(vector: Any) -> api.VectorOutput:
    if isinstance(vector, edge.SparseVector):
        return api.VectorOutput(sparse=api.SparseVector(indices=vector.indices, values=vector.values))
    if isinstance(vector[0], list):
        rows = [api.DenseVector(data=row) for row in vector]
        return api.VectorOutput(multi_dense=api.MultiDenseVector(vectors=rows))
    return api.VectorOutput(dense=api.DenseVector(data=vector))


def _rows(message: api.MultiDenseVector) -> list[list[float]]:
    return [list(row.data) for row in message.vectors]


def _plain(value: api.Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return {name: _plain(one) for name, one in value.struct_value.fields.items()}
        case "list_value":
            return [_plain(one) for one in value.list_value.values]
        case "null_value" | None:
            return None
        case kind:
            return getattr(value, kind)


def _booleans(path: str, value: Any) -> Iterator[tuple[str, bool]]:
    """Yield the booleans of a payload with their paths."""
    match value:
        case bool():
            yield path, value
        case dict():
            for name, one in value.items():
                yield from _booleans(f"{path}.{name}" if path else name, one)
        case list():
            for one in value:
                yield from _booleans(path, one)


def _condition(message: api.Condition) -> Any:
    match message.WhichOneof("condition_one_of"):
        case "field":
            return _field(message.field)
        case "filter":
            return filter_of(message.filter)
        case "has_id":
            return edge.HasIdCondition({id_of(one) for one in message.has_id.has_id})
        case "is_empty":
            return edge.IsEmptyCondition(message.is_empty.key)
        case "is_null":
            return edge.IsNullCondition(message.is_null.key)
        case "has_vector":
            return edge.HasVectorCondition(message.has_vector.has_vector)
        case other:
            raise NotImplementedError(f"a condition of {other}")


def _field(message: api.FieldCondition) -> edge.FieldCondition:
    key = message.key
    if message.HasField("match"):
        return _match(key, message.match)
    if message.HasField("is_empty"):
        return edge.FieldCondition(key, is_empty=message.is_empty)
    if message.HasField("is_null"):
        return edge.FieldCondition(key, is_null=message.is_null)
    set_fields = {field.name for field, _ in message.ListFields()}
    if "range" in set_fields:
        return edge.FieldCondition(key, range=edge.RangeFloat(**_bounds(message.range)))
    if "datetime_range" in set_fields:
        moments = {name: moment.ToJsonString() for name, moment in _bounds(message.datetime_range).items()}
        return edge.FieldCondition(key, range=edge.RangeDateTime(**moments))
    if "values_count" in set_fields:
        return edge.FieldCondition(key, values_count=edge.ValuesCount(**_bounds(message.values_count)))
    raise NotImplementedError("this condition of a field")


def _bounds(message: Message) -> dict[str, Any]:
    return {field.name: bound for field, bound in message.ListFields()}


def _match(key: str, message: api.Match) -> edge.FieldCondition:
    kind = message.WhichOneof("match_value")
    if kind == "boolean":
        return edge.FieldCondition(TRUE if message.boolean else FALSE, match=edge.MatchValue(key))
    match: Any
    match kind:
        case "keyword":
            match = edge.MatchValue(message.keyword)
        case "integer":
            match = edge.MatchValue(message.integer)
        case "keywords":
            match = edge.MatchAny(list(message.keywords.strings))
        case "integers":
            match = edge.MatchAny(list(message.integers.integers))
        case "except_keywords":
            match = edge.MatchExcept(list(message.except_keywords.strings))
        case "except_integers":
            match = edge.MatchExcept(list(message.except_integers.integers))
        case "text":
            match = edge.MatchText(message.text)
        case _:
            raise NotImplementedError(f"a match of {kind}")
    return edge.FieldCondition(key, match=match)
