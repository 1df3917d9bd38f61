"""Payloads and vectors in Qdrant's messages: written and read directly, as there are thousands in a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from qdrant_client import grpc as api

from services.late.codes import Codes
from services.retriever.documents import Vector

_SCALARS = frozenset({"string_value", "integer_value", "double_value", "bool_value"})


def set_value(message: api.Value, value: Any) -> None:
    """Write a value of JSON into a message."""
    match value:
        case bool():
            message.bool_value = value
        case str():
            message.string_value = value
        case int():
            message.integer_value = value
        case float():
            message.double_value = value
        case None:
            message.null_value = api.NULL_VALUE
        case Mapping():
            message.struct_value.SetInParent()
            set_values(message.struct_value.fields, value)
        case _:
            message.list_value.SetInParent()
            for item in value:
                set_value(message.list_value.values.add(), item)


def set_values(messages: Any, values: Mapping[str, Any]) -> None:
    """Write values of JSON into a map of messages."""
    for name, value in values.items():
        set_value(messages[name], value)


def value_of(message: api.Value) -> Any:
    """Read a value of JSON."""
    kind = message.WhichOneof("kind")
    if kind in _SCALARS:
        return getattr(message, kind)
    if kind == "struct_value":
        return values_of(message.struct_value.fields)
    return [value_of(item) for item in message.list_value.values] if kind == "list_value" else None


def values_of(messages: Mapping[str, api.Value]) -> dict[str, Any]:
    """Read values of JSON from a map of messages."""
    return {name: value_of(message) for name, message in messages.items()}


def set_vector(message: api.DenseVector, vector: Vector) -> None:
    """Write a vector into a message, which is empty yet."""
    # As the bytes that the message has on the wire: a field of packed floats.
    raw = vector.astype("<f4", copy=False).tobytes()
    message.MergeFromString(b"\x0a" + _varint(len(raw)) + raw)


def vector_of(message: api.VectorOutput) -> Vector:
    """Read a vector."""
    if message.WhichOneof("vector") is None:  # as Qdrant before 1.18 writes it
        return np.array(message.data, dtype=np.float32)
    return _numbers_of(message.dense)


def set_rows(message: api.MultiDenseVector, rows: Codes) -> None:
    """Write token vectors into a message, which is empty yet: Qdrant takes bytes as numbers."""
    for row in rows.astype("<f4"):
        set_vector(message.vectors.add(), row)


def rows_of(message: api.VectorOutput) -> Codes:
    """Read token vectors."""
    if message.WhichOneof("vector") is None:  # as Qdrant before 1.18 writes it
        return np.array(message.data, dtype=np.uint8).reshape(message.vectors_count, -1)
    return np.array([_numbers_of(row) for row in message.multi_dense.vectors]).astype(np.uint8)


def _numbers_of(message: api.DenseVector) -> Vector:
    raw, length = message.SerializeToString(), len(message.data)
    return np.frombuffer(raw, "<f4", length, len(raw) - 4 * length)


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    made.append(number)
    return bytes(made)
