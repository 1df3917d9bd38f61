"""Passages as points in Qdrant's messages, and back; what is asked of Qdrant about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from qdrant_client import grpc as api

from services.late.codes import Codes
from services.retriever.documents import NO_RELATIONS, Chunk, Passage, Relations, check_stored
from services.retriever.engines.payloads import KEYS, UNREVISED, is_wide
from services.retriever.engines.server.filters import set_halves
from services.retriever.engines.server.values import (
    rows_of,
    set_rows,
    set_value,
    set_values,
    set_vector,
    values_of,
    vector_of,
)
from services.retriever.layout import Layout, Quantization
from services.retriever.lexical import SparseVector
from services.retriever.store import Hit, Parts, PointId, Query, Row

DENSE, LEXICAL, LATE = "dense", "lexical", "late"

NOTHING = api.WithPayloadSelector(enable=False)
_ALL = api.WithPayloadSelector(enable=True)
_KEYS = api.WithPayloadSelector(include=api.PayloadIncludeSelector(fields=KEYS))
_NO_VECTORS = api.WithVectorsSelector(enable=False)
_DENSE_ALONE = api.WithVectorsSelector(include=api.VectorsSelector(names=[DENSE]))
_VECTORS = api.WithVectorsSelector(enable=True)
_LATE_ALONE = api.WithVectorsSelector(include=api.VectorsSelector(names=[LATE]))
LEXICAL_ALONE = api.WithVectorsSelector(include=api.VectorsSelector(names=[LEXICAL]))

SELECTED: Mapping[Parts, Mapping[str, Any]] = {
    Parts.KEYS: {"with_payload": _KEYS, "with_vectors": _NO_VECTORS},
    Parts.DENSE: {"with_payload": _KEYS, "with_vectors": _DENSE_ALONE},
    Parts.PASSAGE: {"with_payload": _ALL, "with_vectors": _NO_VECTORS},
    Parts.WORDS: {"with_payload": _ALL, "with_vectors": LEXICAL_ALONE},
    Parts.TOKENS: {"with_payload": _KEYS, "with_vectors": _LATE_ALONE},
    Parts.VECTOR: {"with_payload": _ALL, "with_vectors": _VECTORS},
}
"""Fields of a request by the parts of passages that are wanted."""

_NO_WORDS = SparseVector([], [])


def to_point(row: Row) -> api.PointStruct:
    """Return the point for a passage."""
    passage, point = row.passage, api.PointStruct()
    point.id.uuid = row.id
    vectors = point.vectors.vectors
    vectors.SetInParent()
    if passage.vector is not None:
        set_vector(vectors.vectors[DENSE].dense, passage.vector)
    if row.words.indices:
        _set_words(vectors.vectors[LEXICAL].sparse, row.words)
    if passage.tokens is not None:
        set_rows(vectors.vectors[LATE].multi_dense, passage.tokens)
    payload = point.payload
    payload["id"].string_value = passage.id
    payload["title"].string_value = passage.title
    payload["text"].string_value = passage.text
    payload["revision"].string_value = row.revision
    set_value(payload["metadata"], passage.metadata)
    for name, value in passage.metadata.items():
        if is_wide(value):
            set_halves(payload["wide"].struct_value.fields[name].struct_value.fields, value)
    if (chunk := passage.chunk) is not None:
        place = {"number": chunk.number, "count": chunk.count, "start": chunk.start, "end": chunk.end}
        payload["chunk"].struct_value.SetInParent()
        set_values(payload["chunk"].struct_value.fields, place)
    if passage.relations:
        set_value(payload["relations"], asdict(passage.relations))
    return point


def to_row(point: api.RetrievedPoint | api.ScoredPoint) -> Row:
    """Return the passage of a point, as far as it was read.

    Raises FailedPrecondition where it is a chunk that an old release stored.
    """
    payload: Mapping[str, Any] = point.payload
    text, title = payload.get("text"), payload.get("title")
    metadata, place, revision = payload.get("metadata"), payload.get("chunk"), payload.get("revision")
    chunk = None
    if place is not None:
        numbers = place.struct_value.fields
        chunk = Chunk(*(numbers[name].integer_value for name in ("number", "count", "start", "end")))
    vector, tokens, words = None, None, _NO_WORDS
    if point.HasField("vectors"):
        found = point.vectors.vectors.vectors
        vector = vector_of(found[DENSE]) if DENSE in found else None
        words = words_of(found[LEXICAL]) if LEXICAL in found else _NO_WORDS
        tokens = rows_of(found[LATE]) if LATE in found else None
    passage = Passage(
        payload["id"].string_value,
        text.string_value if text is not None else "",
        title.string_value if title is not None else "",
        values_of(metadata.struct_value.fields) if metadata is not None else {},
        vector,
        chunk,
        tokens,
        Relations.of(**values_of(payload["relations"].struct_value.fields)) if "relations" in payload else NO_RELATIONS,
    )
    if chunk is not None:
        check_stored(passage)
    return Row(point.id.uuid, passage, revision.string_value if revision is not None else UNREVISED, words)


def to_ids(points: Iterable[PointId]) -> list[api.PointId]:
    """Return ids of points in Qdrant's messages."""
    return [api.PointId(uuid=point) for point in points]


def words_of(message: api.VectorOutput) -> SparseVector:
    """Read the words of a passage."""
    if message.WhichOneof("vector") is None:  # as Qdrant before 1.18 writes it
        return SparseVector(list(message.indices.data), list(message.data))
    return SparseVector(list(message.sparse.indices), list(message.sparse.values))


def terms_of(point: api.RetrievedPoint) -> list[int]:
    """Return the terms of a passage."""
    vectors = point.vectors.vectors.vectors
    return words_of(vectors[LEXICAL]).indices if LEXICAL in vectors else []


def to_search(by: Query, limit: int, condition: api.Filter | None, layout: Layout) -> api.QueryPoints:
    """Return one search, by a vector or by words."""
    query = api.QueryPoints(filter=condition, limit=limit, with_payload=NOTHING)
    if isinstance(by, SparseVector):
        query.using = LEXICAL
        _set_words(query.query.nearest.sparse, by)
        return query
    query.using = DENSE
    set_vector(query.query.nearest.dense, by)
    if layout.hnsw_ef:
        query.params.hnsw_ef = layout.hnsw_ef
    if layout.quantization is not Quantization.NONE:
        query.params.quantization.rescore = layout.rescore
        query.params.quantization.oversampling = layout.oversampling
    return query


def to_filter_among(which: api.Filter | None, among: Sequence[PointId]) -> api.Filter | None:
    """Return a filter for these passages alone, if there are any, that match as well."""
    if not among:
        return which
    others = [] if which is None else [api.Condition(filter=which)]
    return api.Filter(must=[api.Condition(has_id=api.HasIdCondition(has_id=to_ids(among))), *others])


def to_term_search(term: int, limit: int, condition: api.Filter | None) -> api.QueryPoints:
    """Return the search for passages that have a term."""
    query = api.QueryPoints(filter=condition, limit=limit, using=LEXICAL, with_payload=NOTHING)
    _set_words(query.query.nearest.sparse, SparseVector([term], [1.0]))
    return query


def to_word_update(point: PointId, words: SparseVector) -> api.PointVectors:
    """Return what replaces the words of a passage."""
    update = api.PointVectors()
    update.id.uuid = point
    _set_words(update.vectors.vectors.vectors[LEXICAL].sparse, words)
    return update


def to_comparison(
    version: str, tokens: Codes, ids: Sequence[PointId], consistency: api.ReadConsistency | None
) -> api.QueryPoints:
    """Return the comparison of these passages with a query, by token vectors."""
    condition = api.Condition(has_id=api.HasIdCondition(has_id=to_ids(ids)))
    query = api.QueryPoints(
        collection_name=version,
        filter=api.Filter(must=[condition]),
        limit=len(ids),
        using=LATE,
        with_payload=NOTHING,
        read_consistency=consistency,
    )
    set_rows(query.query.nearest.multi_dense, tokens)
    return query


def to_lookup(ids: Sequence[PointId], parts: Parts) -> api.QueryPoints:
    """Return the reading of passages by their ids in the form of a search, which takes several in one request."""
    condition = api.Condition(has_id=api.HasIdCondition(has_id=to_ids(ids)))
    return api.QueryPoints(filter=api.Filter(must=[condition]), limit=len(ids), **SELECTED[parts])


def to_hits(found: api.BatchResult | api.QueryResponse) -> list[Hit]:
    """Return what a search found."""
    return [(point.id.uuid, point.score) for point in found.result]


def _set_words(message: api.SparseVector, words: SparseVector) -> None:
    message.indices.extend(words.indices)
    message.values.extend(words.values)
