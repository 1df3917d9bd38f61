"""Messages between the retriever and the child process: frames of pickled tuples over a pair of sockets.

Both ends are this release, so nothing here has to be compatible. Passages go as tuples, and vectors as bytes: pickling
the product's types takes three times as long.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from services.chassis import errors
from services.chassis.errors import SluiceError
from services.late.codes import Codes
from services.retriever.documents import Chunk, Passage
from services.retriever.lexical import SparseVector
from services.retriever.store import Row

LENGTH = struct.Struct("<Q")
LOG = 0
"""Number of messages of the child that answer nothing: a level, an event and its fields, for the log."""
HEALTH = -1
"""Number of messages that answer nothing: a `Health`, when it has changed."""
HELLO = 1
"""Number of the child's first answer, when it has opened the folder."""
BROKEN_STATUS = 3
"""Exit status of a child that ends so that the next one loads a version again."""

Packed = tuple[Any, ...]


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
    body = pickle.dumps(tuple(message), protocol=5)
    return LENGTH.pack(len(body)) + body


def message_of(body: bytes | bytearray | memoryview) -> Packed:
    """Return the message of a frame, without its length."""
    # From our own child or parent, over sockets that nobody else has.
    message: Packed = pickle.loads(body)  # noqa: S301
    return message


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
            ),
            revision,
            SparseVector(indices, values),
        )
        for point, revision, indices, values, name, text, title, metadata, vector, chunk, tokens in packed
    ]


def _codes(values: bytes, rows: int) -> Codes:
    return np.frombuffer(values, np.uint8).reshape(rows, -1)


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
