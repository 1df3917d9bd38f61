"""Searches for what is like a document: by its vectors and by its words."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from heapq import nlargest
from typing import NamedTuple

import numpy as np

from services.chassis.errors import NotFound
from services.chassis.validation import check_document_id
from services.retriever.collections.descriptions import CollectionInfo
from services.retriever.documents import Owners, Passage
from services.retriever.fields import Filter
from services.retriever.lexical import Bm25, SparseVector
from services.retriever.search.searches import Search, unit
from services.retriever.store import Deadline, Parts, PassageStore, PointId, point_id

MOST_CHUNKS = 32
"""Chunks of the document whose vectors count."""
_MOST_TERMS = 64
_MOST_CHARACTERS = 16_384


class Likeness(NamedTuple):
    """Searches for what is like a document, and the points of the document itself."""

    searches: Sequence[Search]
    own: frozenset[PointId]


NOTHING = Likeness((), frozenset())


async def likeness(
    store: PassageStore,
    info: CollectionInfo,
    document_id: str,
    condition: Filter,
    owners: Owners,
    dense_weight: float,
    lexical_weight: float,
    deadline: Deadline,
) -> Likeness:
    """Return the searches for what is like a document; NotFound without it, or where it is another's.

    The vector is the mean of those of its first chunks, the words are the most frequent ones of its first passage: IDF
    is left to the search, as for any query.
    """
    check_document_id("like_document_id", document_id)
    rows = await store.read(info.version, [point_id(document_id)], Parts.PASSAGE, deadline)
    if not rows or not (rows[0].passage.is_of(owners) and info.is_of_tenant(rows[0].passage, condition)):
        raise NotFound(
            f"document {document_id!r} does not exist in collection {info.collection!r}; send the id of one that does",
            reason="DOCUMENT_NOT_FOUND",
            document=document_id,
        )
    first = rows[0].passage
    searches: list[Search] = []
    own = await asyncio.to_thread(lambda: [point_id(passage_id) for passage_id in first.chunk_ids])
    if dense_weight > 0:
        parts = await store.read(info.version, own[:MOST_CHUNKS], Parts.DENSE, deadline)
        vectors = [row.passage.vector for row in parts if row.passage.vector is not None]
        # The sum has the direction of the mean. Opposite vectors have none, and so has a document that is deleted now.
        if vectors and (total := np.sum(vectors, axis=0)).any():
            searches.append(Search(unit(total), dense_weight))
    if lexical_weight > 0 and (words := await asyncio.to_thread(_words, first, info.bm25)).indices:
        searches.append(Search(words, lexical_weight))
    return Likeness(searches, frozenset(own))


def _words(first: Passage, bm25: Bm25) -> SparseVector:
    text = first.text[:_MOST_CHARACTERS]
    found = bm25.query_vector(f"{first.title}\n{text}" if first.title else text)
    best = nlargest(_MOST_TERMS, zip(found.indices, found.values, strict=True), key=lambda term: term[1])
    return SparseVector(*map(list, zip(*sorted(best), strict=True))) if best else found
