"""Passages as points of Qdrant Edge, and back; checks of what Edge would take without a word, or panic at."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import qdrant_edge as edge

from services.late.codes import Codes
from services.retriever.documents import MAX_TOKEN_ROWS
from services.retriever.engines.edge.filters import date_key, decimal_key, is_long
from services.retriever.engines.payloads import KEYS, revision_of, to_passage, to_payload, wide_key
from services.retriever.lexical import SparseVector
from services.retriever.store import Parts, PointId, Row

DENSE, LEXICAL, LATE = "dense", "lexical", "late"

SELECTED: Mapping[Parts, tuple[Any, Any]] = {
    Parts.KEYS: (list(KEYS), False),
    Parts.DENSE: (list(KEYS), [DENSE]),
    Parts.PASSAGE: (True, False),
    Parts.WORDS: (True, [LEXICAL]),
    Parts.TOKENS: (list(KEYS), [LATE]),
    Parts.VECTOR: (True, True),
}
"""Payload and vectors that are read, by the parts that are wanted."""

_INDICES = 2**32
_INT64 = range(-(2**63), 2**63)
# Any text that Qdrant may take for a date; it decides itself.
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


Portable = tuple[str, dict[str, Any], Any]
"""Id, vectors and payload of a point."""


class Refused(Exception):
    """Rows or a query that the engine does not take; nothing was written."""


def to_points(rows: Sequence[Row], dimension: int, token_dimension: int = 0) -> tuple[list[edge.Point], dict[str, str]]:
    """Return the points for passages, all of them checked, and the indexes that copies of their values need."""
    for place, row in enumerate(rows):
        check_vector(row.passage.vector, dimension, f"row {place}")
        check_words(row.words, f"row {place}")
        if row.passage.tokens is not None:
            check_tokens(row.passage.tokens, token_dimension, f"row {place}")
    copies: dict[str, str] = {}
    try:
        return [_to_point(row, copies) for row in rows], copies
    except (TypeError, ValueError, OverflowError) as error:
        # Numbers that are not finite, or do not fit; texts that are no Unicode. The message would quote them.
        raise Refused(f"the metadata or the text of a passage is not storable ({type(error).__name__})") from None


def to_word_updates(words: Mapping[PointId, SparseVector]) -> list[edge.PointVectors]:
    """Return what replaces the words of passages."""
    for point, one in words.items():
        check_words(one, f"point {point}")
    return [edge.PointVectors(point, {LEXICAL: edge.SparseVector(*one)}) for point, one in words.items()]


def to_row(record: edge.Record) -> Row:
    """Return the passage of a point, as far as it was read."""
    payload = _payload(record)
    vectors: Any = record.vector
    vector, tokens, words = None, None, SparseVector([], [])
    if vectors:
        if (dense := vectors.get(DENSE)) is not None:
            vector = np.asarray(dense, dtype=np.float32)
        if (lexical := vectors.get(LEXICAL)) is not None:
            words = SparseVector(lexical.indices, lexical.values)
        if (late := vectors.get(LATE)) is not None:
            tokens = _codes(late)
    return Row(str(record.id), to_passage(payload, vector, tokens), revision_of(payload), words)


def portable(record: edge.Record) -> Portable:
    """Return id, vectors and payload of a point that was read with everything, so that they can be sent."""
    vectors: Any = dict(record.vector)  # type: ignore[arg-type]  # named vectors
    if (lexical := vectors.get(LEXICAL)) is not None:
        vectors[LEXICAL] = (lexical.indices, lexical.values)
    if (late := vectors.get(LATE)) is not None:
        vectors[LATE] = _codes(late)
    return str(record.id), vectors, _payload(record)


def from_portable(identity: str, vectors: dict[str, Any], payload: Any) -> edge.Point:
    """Return the point again."""
    if LEXICAL in vectors:
        vectors[LEXICAL] = edge.SparseVector(*vectors[LEXICAL])
    if LATE in vectors:
        vectors[LATE] = to_multivector(vectors[LATE])
    return edge.Point(identity, vectors, payload)


def check_vector(vector: Any, dimension: int, place: str) -> None:
    """Raise Refused unless these are so many finite numbers."""
    if vector is None or np.shape(vector) != (dimension,):
        raise Refused(f"the vector of {place} has not {dimension} values")
    if not np.isfinite(vector).all():
        raise Refused(f"the vector of {place} holds a number that is not finite")


def check_tokens(tokens: Codes, dimension: int, place: str) -> None:
    """Raise Refused unless these are rows of so many bytes, and at least one."""
    if not dimension:
        raise Refused(f"{place} has token vectors, and the version keeps none")
    if tokens.dtype != np.uint8 or tokens.ndim != 2 or tokens.shape[1] != dimension:
        raise Refused(f"the token vectors of {place} are no rows of {dimension} bytes")
    if not 1 <= len(tokens) <= MAX_TOKEN_ROWS:
        raise Refused(f"{place} has {len(tokens)} token vectors, not 1 to {MAX_TOKEN_ROWS}")


def check_words(words: SparseVector, place: str) -> None:
    """Raise Refused unless each index has a finite value, and the indices rise."""
    indices, values = words
    if len(indices) != len(values):  # Edge 0.9.0 would panic, now and whenever it replays its log
        raise Refused(f"the sparse vector of {place} has {len(indices)} indices and {len(values)} values")
    if not indices:
        return
    if not (indices[0] >= 0 and indices[-1] < _INDICES and sorted(set(indices)) == list(indices)):
        raise Refused(f"the indices of the sparse vector of {place} do not rise, or do not fit into 32 bits")
    if not np.isfinite(values).all():
        raise Refused(f"the sparse vector of {place} holds a number that is not finite")


def to_multivector(tokens: Codes) -> list[list[float]]:
    """Return token vectors as Edge takes them fastest: it keeps a byte of each number."""
    found: list[list[float]] = tokens.astype(np.float32).tolist()
    return found


def _codes(rows: list[list[float]]) -> Codes:
    return np.array(rows, dtype=np.float32).astype(np.uint8)  # straight into bytes takes longer


def _to_point(row: Row, copies: dict[str, str]) -> edge.Point:
    passage = row.passage
    assert passage.vector is not None  # noqa: S101  checked before
    vectors: dict[str, Any] = {DENSE: passage.vector.tolist()}
    if row.words.indices:
        vectors[LEXICAL] = edge.SparseVector(row.words.indices, row.words.values)
    if passage.tokens is not None:
        vectors[LATE] = to_multivector(passage.tokens)
    payload = to_payload(row)
    if bools := {name: str(value) for name, value in passage.metadata.items() if isinstance(value, bool)}:
        payload["bools"] = bools
    if dates := {name: found for name, value in passage.metadata.items() if (found := _dates(value))}:
        payload["dates"] = dates
        copies.update((date_key(name), "Datetime") for name in dates)
    if decimals := {name: repr(value) for name, value in passage.metadata.items() if is_long(value)}:
        payload["decimals"] = decimals
        copies.update((decimal_key(name), "Keyword") for name in decimals)
    for name in payload.get("wide", ()):
        if passage.metadata[name] not in _INT64:  # Edge would store a decimal number
            raise OverflowError
        copies.update((wide_key(name, half), "Integer") for half in ("high", "low"))
    return edge.Point(row.id, vectors, payload)


def _payload(record: edge.Record) -> dict[str, Any]:
    """Return the payload of a point, its decimals as they were stored."""
    payload: dict[str, Any] = record.payload or {}
    if (metadata := payload.get("metadata")) is not None:
        metadata |= {name: float(text) for name, text in payload.get("decimals", {}).items()}
    return payload


def _dates(value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else ()
    return [text for text in texts if _DATE.match(text)]
