"""Searches in Qdrant Edge's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import qdrant_edge as edge

from services.late.codes import Codes
from services.retriever.engines.edge.filters import EVERYTHING
from services.retriever.engines.edge.points import (
    DENSE,
    LATE,
    LEXICAL,
    check_tokens,
    check_vector,
    check_words,
    to_multivector,
)
from services.retriever.layout import Layout, Quantization
from services.retriever.lexical import SparseVector
from services.retriever.store import Hit, PointId, Query

LEAST_EF = 256
"""Candidates that a search of the graph looks at where the layout leaves it to the engine; more for large limits."""
_EF_PER_HIT = 4
_PROBED = 16


def to_requests(
    searches: Sequence[Query], limit: int, which: edge.Filter | None, layout: Layout, dimension: int, *, pristine: bool
) -> list[edge.QueryRequest]:
    """Return requests for the best passages of each search, without payload."""
    near, by_words = _dense(layout, limit), _lexical(pristine=pristine)
    requests = []
    for place, by in enumerate(searches):
        if isinstance(by, SparseVector):
            check_words(by, f"search {place}")
            query, params = edge.Query.Nearest(edge.SparseVector(by.indices, by.values), LEXICAL), by_words
        else:
            check_vector(by, dimension, f"search {place}")
            query, params = edge.Query.Nearest(by.tolist(), DENSE), near
        requests.append(
            edge.QueryRequest(limit, query=query, filter=which, params=params, with_payload=False, with_vector=False)
        )
    return requests


def to_term_requests(
    terms: Sequence[int], limit: int, which: edge.Filter | None, among: Sequence[PointId]
) -> list[edge.QueryRequest]:
    """Return requests for passages that have each term. How many passages there are counts for nothing here."""
    if among:
        which = edge.Filter(must=[edge.HasIdCondition(set(among)), *([which] if which is not None else [])])
    return [
        edge.QueryRequest(
            limit,
            query=edge.Query.Nearest(edge.SparseVector([term], [1.0]), LEXICAL),
            filter=which,
            with_payload=False,
            with_vector=False,
        )
        for term in terms
    ]


def to_comparison(tokens: Codes, points: Sequence[PointId], dimension: int) -> edge.QueryRequest:
    """Return the request for the scores of these passages by token vectors."""
    check_tokens(tokens, dimension, "the query")
    return edge.QueryRequest(
        len(points),
        query=edge.Query.Nearest(to_multivector(tokens), LATE),
        filter=edge.Filter(must=[edge.HasIdCondition(set(points))]),
        with_payload=False,
        with_vector=False,
    )


def to_scores(points: Sequence[edge.ScoredPoint]) -> Mapping[PointId, float]:
    """Return the scores of passages."""
    return {str(point.id): point.score for point in points}


def counts_right(shard: edge.EdgeShard) -> bool:
    """True if the IDF's N counts what is there and nothing else, as a search of any word tells."""
    records, _ = shard.scroll(edge.ScrollRequest(limit=_PROBED, with_payload=False, with_vector=[LEXICAL]))
    for record in records:
        vectors: Any = record.vector or {}
        if (words := vectors.get(LEXICAL)) is not None:
            query = edge.Query.Nearest(edge.SparseVector(words.indices[:1], [1.0]), LEXICAL)
            requests = [
                edge.QueryRequest(1, query=query, params=_lexical(pristine=pristine)) for pristine in (True, False)
            ]
            one, two = shard.query_batch(edge.QueryBatchRequest(requests))
            return one[0].score == two[0].score
    return shard.info().points_count == 0


def to_hits(points: Sequence[edge.ScoredPoint]) -> list[Hit]:
    """Return what a search found."""
    return [(str(point.id), point.score) for point in points]


def _dense(layout: Layout, limit: int) -> edge.SearchParams:
    quantized = None
    if layout.quantization is not Quantization.NONE:
        quantized = edge.QuantizationSearchParams(rescore=layout.rescore, oversampling=layout.oversampling)
    return edge.SearchParams(hnsw_ef=layout.hnsw_ef or max(LEAST_EF, _EF_PER_HIT * limit), quantization=quantized)


def _lexical(*, pristine: bool) -> edge.SearchParams | None:
    # Without a corpus, Edge 0.9.0 counts passages that are removed or replaced in the N of the IDF (Qdrant's issue
    # 6735); with one it counts what is there, which takes a look at each passage.
    return None if pristine else edge.SearchParams(idf=edge.IdfParams(EVERYTHING))
