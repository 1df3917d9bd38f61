"""The product's types in Qdrant's models, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from qdrant_client import models

from services.retriever.documents import Chunk, Passage, Vector, check_stored
from services.retriever.fields import AnyOf, Condition, DateRange, Equals, Exists, Filter, Range, Scalar, Test, Value
from services.retriever.lexical import SparseVector
from services.retriever.store import Hit, Parts, Query, Revisions, Row

DENSE, LEXICAL = "dense", "lexical"

SELECTED: Mapping[Parts, Mapping[str, Any]] = {
    Parts.KEYS: {"with_payload": ["id", "chunk", "revision"]},
    Parts.DENSE: {"with_payload": ["id", "chunk", "revision"], "with_vectors": [DENSE]},
    Parts.PASSAGE: {"with_payload": True},
    Parts.VECTOR: {"with_payload": True, "with_vectors": [DENSE, LEXICAL]},
}
"""Arguments of a read by the parts that are wanted."""

_BOUNDS = ("gt", "gte", "lt", "lte")
# Engines compare ranges in double precision, which tells whole numbers apart only below this. Larger ones are stored a
# second time, as two halves that it does tell apart.
_WIDE = 2**53
_HALF_BITS = 32

# Revision of passages that earlier releases stored without one.
_UNREVISED = "0"


def layout(dimension: int) -> dict[str, Any]:
    """Return the arguments of `create_collection` that describe the vectors."""
    return {
        # Of unit vectors, the dot product is the cosine, and the embedded engine ten times faster at it.
        "vectors_config": {DENSE: models.VectorParams(size=dimension, distance=models.Distance.DOT)},
        "sparse_vectors_config": {LEXICAL: models.SparseVectorParams(modifier=models.Modifier.IDF)},
    }


def to_point(row: Row) -> models.PointStruct:
    """Return the point for a passage."""
    passage = row.passage
    vectors: dict[str, Any] = {} if passage.vector is None else {DENSE: passage.vector.tolist()}
    if row.words.indices:
        vectors[LEXICAL] = to_query(row.words)
    payload = {
        "id": passage.id,
        "title": passage.title,
        "text": passage.text,
        "metadata": passage.metadata,
        "revision": row.revision,
    }
    if wide := {name: _halves(value) for name, value in passage.metadata.items() if _is_wide(value)}:
        payload["wide"] = wide
    if passage.chunk:
        payload["chunk"] = asdict(passage.chunk)
    return models.PointStruct(id=row.id, vector=vectors, payload=payload)


def to_hit(point: models.ScoredPoint) -> Hit:
    """Return what a search found."""
    return Hit(str(point.id), point.score)


def to_row(record: models.Record) -> Row:
    """Return the passage of a point, as far as it was read."""
    payload, vectors = record.payload or {}, record.vector
    vector, words = None, SparseVector([], [])
    if isinstance(vectors, dict):
        vector = np.asarray(vectors[DENSE], dtype=np.float32)
        if isinstance(lexical := vectors.get(LEXICAL), models.SparseVector):
            words = SparseVector(lexical.indices, lexical.values)
    return Row(str(record.id), to_passage(payload, vector), str(payload.get("revision", _UNREVISED)), words)


def to_passage(payload: Mapping[str, Any], vector: Vector | None = None) -> Passage:
    """Return the passage of a payload. Raises FailedPrecondition where it is a chunk that an old release stored."""
    chunk = payload.get("chunk")
    passage = Passage(
        payload["id"],
        payload.get("text", ""),
        payload.get("title", ""),
        payload.get("metadata", {}),
        vector,
        Chunk(chunk["number"], chunk["count"], chunk["start"], chunk["end"]) if chunk else None,
    )
    check_stored(passage)
    return passage


def to_query(by: Query) -> list[float] | models.SparseVector:
    """Return a vector in Qdrant's words."""
    if isinstance(by, SparseVector):
        return models.SparseVector(indices=by.indices, values=by.values)
    values: list[float] = by.tolist()
    return values


def to_condition(still: Revisions) -> models.Filter:
    """Return a filter for the passages that still have these revisions."""
    return models.Filter(
        should=[
            models.Filter(
                must=[
                    models.HasIdCondition(has_id=[point]),
                    models.FieldCondition(key="revision", match=models.MatchValue(value=revision)),
                ]
            )
            for point, revision in still.items()
        ]
    )


def to_filter(condition: Filter) -> models.Filter | None:
    """Return a filter that fits the fields in Qdrant's words; None if it is empty."""
    return _filter(condition) if condition else None


def payload_key(field: str) -> str:
    """Return the path of a metadata field in a point's payload."""
    return f"metadata.{field}"


def _filter(condition: Filter) -> models.Filter:
    return models.Filter(
        must=_conditions(condition.must), should=_conditions(condition.should), must_not=_conditions(condition.must_not)
    )


def _conditions(conditions: Sequence[Condition]) -> list[models.Condition]:
    return [_filter(one) if isinstance(one, Filter) else _test(one) for one in conditions]


def _test(condition: Test) -> models.Condition:
    key = payload_key(condition.field)
    match condition:
        case Equals(value=value):
            return _equals(key, value)
        case AnyOf(values=values):
            if any(isinstance(value, bool | float) for value in values):
                return models.Filter(should=[_equals(key, value) for value in values])
            return models.FieldCondition(key=key, match=models.MatchAny.model_validate({"any": values}))
        case Range():
            bounds = {name: bound for name in _BOUNDS if (bound := getattr(condition, name)) is not None}
            plain = {name: bound for name, bound in bounds.items() if not _is_wide(bound)}
            parts: list[models.Condition] = [
                _beyond(condition.field, name, bounds[name]) for name in bounds.keys() - plain.keys()
            ]
            if plain:
                parts.append(models.FieldCondition(key=key, range=models.Range(**plain)))
            return parts[0] if len(parts) == 1 else models.Filter(must=parts)
        case DateRange(gt=gt, gte=gte, lt=lt, lte=lte):
            return models.FieldCondition(key=key, range=models.DatetimeRange(gt=gt, gte=gte, lt=lt, lte=lte))
        case Exists(exists=exists):
            empty = models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
            return models.Filter(must_not=[empty]) if exists else empty


def _equals(key: str, value: Scalar) -> models.FieldCondition:
    if isinstance(value, float):  # Qdrant matches no floats, but ranges of them
        return models.FieldCondition(key=key, range=models.Range(gte=value, lte=value))
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _is_wide(value: Value) -> bool:
    return isinstance(value, int) and abs(value) >= _WIDE


def _halves(value: Value) -> dict[str, int]:
    assert isinstance(value, int)  # noqa: S101  see `_is_wide`
    return {"high": value >> _HALF_BITS, "low": value & (1 << _HALF_BITS) - 1}


def _beyond(field: str, name: str, bound: int) -> models.Filter:
    """Return the condition that a whole number is beyond a bound that double precision does not tell from others."""
    high, low = (_parts_key(field, half) for half in ("high", "low"))
    halves = _halves(max(-(2**63) - 1, min(bound, 2**63)))
    side = name[:2]
    cases: list[models.Condition] = [
        models.FieldCondition(key=high, range=models.Range(**{side: halves["high"]})),
        models.Filter(
            must=[
                models.FieldCondition(key=high, match=models.MatchValue(value=halves["high"])),
                models.FieldCondition(key=low, range=models.Range(**{name: halves["low"]})),
            ]
        ),
    ]
    # Numbers that are not stored as halves lie on one side of the bound.
    if side == "gt" and bound < 0:
        cases.append(models.FieldCondition(key=payload_key(field), range=models.Range(gt=-_WIDE)))
    if side == "lt" and bound > 0:
        cases.append(models.FieldCondition(key=payload_key(field), range=models.Range(lt=_WIDE)))
    return models.Filter(should=cases)


def _parts_key(field: str, half: str) -> str:
    return f"wide.{field}.{half}"
