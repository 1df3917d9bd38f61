"""Messages between the retriever and the child process: frames of MessagePack over a pair of sockets.

Both ends are this release, so nothing here has to be compatible. The journal keeps such frames in a file, and reading a
file must never run what is in it: MessagePack makes values and nothing else. Passages go as lists, and vectors as
bytes: a type of its own for each takes three times as long. Tuples arrive as lists.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any, NamedTuple

import msgpack
import numpy as np

from services.chassis import errors
from services.chassis.errors import SluiceError
from services.late.codes import Codes
from services.retriever.documents import NO_RELATIONS, Chunk, Passage, Relations
from services.retriever.fields import AnyOf, DateRange, Equals, Exists, Filter, Range
from services.retriever.layout import Layout, Quantization
from services.retriever.lexical import SparseVector
from services.retriever.store import Query, Row

LENGTH = struct.Struct("<Q")
LOG = 0
"""Number of messages of the child that answer nothing: a level, an event and its fields, for the log."""
HEALTH = -1
"""Number of messages that answer nothing: a `Health`, when it has changed."""
HELLO = 1
"""Number of the child's first answer, when it has opened the folder."""
BROKEN_STATUS = 3
"""Exit status of a child that ends so that the next one loads a version again."""

Packed = Sequence[Any]


class _Kind(enum.IntEnum):
    """Codes of what MessagePack has no type for; conditions come after these."""

    NUMBER = 1
    """A whole number beyond 64 bits."""
    MOMENT = 2
    ARRAY = 3
    LAYOUT = 4


_CONDITIONS = (Equals, AnyOf, Range, DateRange, Exists, Filter)
_FIRST_CONDITION = 16


class Request(NamedTuple):
    """A call, as it goes to the child."""

    number: int
    method: str
    end: float
    """Moment on the monotonic clock, which all processes of a machine share, after which the call is not begun."""
    arguments: Packed


class Answer(NamedTuple):
    """The answer to a call."""

    number: int
    error: Packed | None
    result: Any
    waited: float
    """Seconds between the call's arrival and its beginning."""


class Health(NamedTuple):
    """Findings of a child in its folder."""

    damaged: int = 0
    """Versions that cannot be read."""
    not_rebuilt: int = 0
    """Versions whose last rebuild failed."""
    logs_set_aside: int = 0
    """Since its start, because they could not be read."""


def frame(message: Request | Answer | Packed) -> bytes:
    """Return a message as bytes, after their number."""
    body = pack(message)
    return LENGTH.pack(len(body)) + body


def pack(message: Packed) -> bytes:
    """Return a message as bytes."""
    # Text that is no Unicode gets as far as the engine's checks, which refuse it with a reason.
    packed: bytes = msgpack.packb(message, default=_extended, unicode_errors="surrogatepass")
    return packed


def message_of(body: bytes | bytearray | memoryview) -> list[Any]:
    """Return the message of `pack`. Raises ValueError for bytes that are none."""
    message = msgpack.unpackb(body, ext_hook=_value, unicode_errors="surrogatepass")
    if not isinstance(message, list):
        raise ValueError("a message is a list")
    return message


def _extended(value: Any) -> msgpack.ExtType:
    match value:
        case int():
            return msgpack.ExtType(_Kind.NUMBER, str(value).encode())
        case datetime():
            return msgpack.ExtType(_Kind.MOMENT, value.isoformat().encode())
        case np.ndarray():
            return msgpack.ExtType(_Kind.ARRAY, pack((value.dtype.str, value.shape, value.tobytes())))
        case Layout():
            return msgpack.ExtType(_Kind.LAYOUT, pack((asdict(value),)))
        case Equals() | AnyOf() | Range() | DateRange() | Exists() | Filter():
            code = _FIRST_CONDITION + _CONDITIONS.index(type(value))
            return msgpack.ExtType(code, pack([getattr(value, field.name) for field in fields(value)]))
    raise TypeError(f"{type(value).__name__} is not sent")


def _value(code: int, body: bytes) -> Any:
    match code:
        case _Kind.NUMBER:
            return int(body)
        case _Kind.MOMENT:
            return datetime.fromisoformat(body.decode())
        case _Kind.ARRAY:
            kind, shape, content = message_of(body)
            return np.frombuffer(content, kind).reshape(shape)
        case _Kind.LAYOUT:
            [said] = message_of(body)
            return Layout(**{**said, "quantization": Quantization(said["quantization"])})
    return _CONDITIONS[code - _FIRST_CONDITION](*message_of(body))


def pack_rows(rows: Iterable[Row]) -> list[Packed]:
    """Return passages as tuples."""
    return [
        (
            row.id,
            row.revision,
            row.words.indices,
            row.words.values,
            passage.id,
            passage.text,
            passage.title,
            passage.metadata,
            None if passage.vector is None else passage.vector.astype("<f4", copy=False).tobytes(),
            None if (chunk := passage.chunk) is None else (chunk.number, chunk.count, chunk.start, chunk.end),
            None if passage.tokens is None else (passage.tokens.tobytes(), len(passage.tokens)),
            (said.aliases, said.mentions, said.links) if (said := passage.relations) else None,
        )
        for row in rows
        for passage in (row.passage,)
    ]


def unpack_rows(packed: Sequence[Packed]) -> list[Row]:
    """Return the passages of `pack_rows`."""
    return [
        Row(
            point,
            Passage(
                name,
                text,
                title,
                metadata,
                None if vector is None else np.frombuffer(vector, dtype="<f4"),
                None if chunk is None else Chunk(*chunk),
                None if tokens is None else _codes(*tokens),
                NO_RELATIONS if relations is None else Relations.of(*relations),
            ),
            revision,
            SparseVector(indices, values),
        )
        for point, revision, indices, values, name, text, title, metadata, vector, chunk, tokens, relations in packed
    ]


def _codes(values: bytes, rows: int) -> Codes:
    return np.frombuffer(values, np.uint8).reshape(rows, -1)


def unpack_queries(packed: Sequence[Any]) -> list[Query]:
    """Return what is searched by: vectors, which arrive as they are, and words."""
    return [SparseVector(*by) if isinstance(by, list) else by for by in packed]


def pack_error(error: SluiceError) -> Packed:
    """Return an error as a tuple."""
    return type(error).__name__, vars(error)


def unpack_error(packed: Packed) -> SluiceError:
    """Return the error of `pack_error`."""
    name, fields = packed
    kind: type[SluiceError] = getattr(errors, name)
    error = kind.__new__(kind, fields["message"])
    vars(error).update(fields)
    return error
