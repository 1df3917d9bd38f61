"""Replacing what documents say of their relations, without embedding them again."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.chassis.errors import InvalidArgument
from services.chassis.validation import check_document_id
from services.retriever.collections.catalogue import Collections
from services.retriever.collections.descriptions import CollectionInfo
from services.retriever.documents import Relations
from services.retriever.rows import check_ids, words_of
from services.retriever.store import Deadline, Parts, PassageStore, PointId, Row, point_id

MAX_DOCUMENTS = 100
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Stated:
    """Outcome of replacing."""

    missing: Sequence[str]
    """Ids of documents that do not exist."""
    changed: Sequence[str]
    """Ids of the passages that were written."""
    building: str
    """The version that is being built and has to follow; empty where there is none."""


class Statements:
    """Replaces the relations of stored documents."""

    def __init__(self, store: PassageStore, collections: Collections) -> None:
        self._store = store
        self._collections = collections

    async def replace(
        self, collection: str, said: Sequence[tuple[str, Relations]], deadline: Deadline = None
    ) -> Stated:
        """Let all passages of these documents say this from now on; their vectors stay.

        A document that is replaced or deleted at the same time stays as that call makes it.
        """
        relations = dict(said)
        check_ids(said, "documents", MAX_DOCUMENTS)
        for place, (document, _) in enumerate(said):
            check_document_id(f"documents[{place}].id", document)
        if len(relations) < len(said):
            raise InvalidArgument("documents", "holds a document twice; send each once", reason="DUPLICATE_ID")
        info = await self._collections.get(collection, deadline)
        while True:
            points = [point_id(document) for document in relations]
            keys = await self._store.read(info.version, points, Parts.KEYS, deadline)
            firsts = [row.passage for row in keys if row.passage.document_id == row.passage.id]
            passages = [point_id(passage_id) for first in firsts for passage_id in first.chunk_ids]
            changed: list[str] = []
            for start in range(0, len(passages), _ROWS_AT_ONCE):
                some = passages[start : start + _ROWS_AT_ONCE]
                changed += await self._write(info, some, relations, deadline)
            # As `Passages.upsert` does: it may be another version by now, or one that is to have keys.
            after = await self._collections.steady(collection, deadline)
            if (after.version, after.relations) == (info.version, info.relations):
                found = {first.id for first in firsts}
                return Stated([one for one in relations if one not in found], changed, after.building)
            info = after

    async def _write(
        self, info: CollectionInfo, points: Sequence[PointId], relations: dict[str, Relations], deadline: Deadline
    ) -> list[str]:
        read = await self._store.read(info.version, points, Parts.VECTOR, deadline)
        revision = uuid.uuid4().hex
        rows = await asyncio.to_thread(lambda: [_stating(row, relations, revision, info) for row in read])
        await self._store.write(info.version, rows, deadline, {row.id: row.revision for row in read})
        return [row.passage.id for row in rows]


def _stating(row: Row, relations: dict[str, Relations], revision: str, info: CollectionInfo) -> Row:
    passage = replace(row.passage, relations=relations[row.passage.document_id])
    return Row(row.id, passage, revision, words_of(passage, info))
