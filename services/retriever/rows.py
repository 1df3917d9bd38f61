"""Rows: passages with all that is stored of them, once they are known to fit their version."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from services.chassis.errors import InvalidArgument
from services.retriever import fields
from services.retriever.collections.catalogue import Collections
from services.retriever.collections.descriptions import CollectionInfo
from services.retriever.documents import Passage, check_chunks
from services.retriever.lexical import SparseVector
from services.retriever.relations.keys import with_keys
from services.retriever.search.searches import unit
from services.retriever.store import Deadline, Row, point_id

MAX_BATCH = 1000


async def rows_for(
    collections: Collections, info: CollectionInfo, revised: Sequence[tuple[Passage, str]], deadline: Deadline
) -> list[Row]:
    """Return the rows for passages with their revisions, once their fields are declared.

    InvalidArgument if a passage does not fit the version.
    """
    for place, (passage, _) in enumerate(revised):
        path = f"passages[{place}].vector"
        if passage.vector is None:
            raise InvalidArgument(path, f"is missing; send {info.model.dimension} values")
        info.check_vector(passage.vector, path)
        info.check_tokens(passage.tokens, f"passages[{place}].tokens")
    info = await collections.declare(info, [passage for passage, _ in revised], deadline)
    # Weighing the words of a large batch takes long enough to hold up all other calls.
    return await asyncio.to_thread(lambda: [_row(passage, revision, info) for passage, revision in revised])


def check_ids(ids: Sequence[object], path: str, most: int = MAX_BATCH) -> None:
    """Raise InvalidArgument unless there are 1 to `most` ids, or what has them."""
    if not 1 <= len(ids) <= most:
        raise InvalidArgument(path, f"has {len(ids)} entries; send 1 to {most}")


def check_passages(passages: Sequence[Passage], model_fingerprint: str) -> None:
    """Raise InvalidArgument for a batch that no collection takes."""
    check_ids(passages, "passages")
    _check_unique(passages)
    check_chunks(passages)
    if not model_fingerprint:
        raise InvalidArgument("model_fingerprint", "is empty; send that of the model that made the vectors")


def _row(passage: Passage, revision: str, info: CollectionInfo) -> Row:
    assert passage.vector is not None  # noqa: S101  checked before
    metadata = {name: fields.stored(value, info.schema[name]) for name, value in passage.metadata.items()}
    kept = replace(passage, metadata=metadata, vector=unit(passage.vector))
    return Row(point_id(passage.id), kept, revision, words_of(passage, info))


def words_of(passage: Passage, info: CollectionInfo) -> SparseVector:
    """Return what a passage is found by beside its vector: its words, and the keys of its relations."""
    words = info.bm25.passage_vector(passage.text, passage.title)
    return with_keys(passage, words) if info.relations else words


def _check_unique(passages: Sequence[Passage]) -> None:
    first: dict[str, int] = {}
    for place, passage in enumerate(passages):
        if (before := first.setdefault(passage.id, place)) != place:
            problem = f"is that of passages[{before}] too; send each id once"
            raise InvalidArgument(f"passages[{place}].id", problem, reason="DUPLICATE_ID")
