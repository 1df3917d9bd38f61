"""From documents to an index: embed, make the collection if there is none yet, store."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.common.errors import AlreadyExists, InvalidArgument, NotFound
from services.gateway.stages import Embedded, Passage, Upserted


@dataclass(frozen=True, slots=True)
class Indexed:
    """What was stored, and with what."""

    count: int
    truncated_ids: Sequence[str]
    index_version: str
    model: str


class DocumentEmbedder(Protocol):
    """Documents to vectors, in bulk."""

    async def embed_documents(self, texts: Sequence[str], *, deadline: float) -> Embedded: ...  # noqa: D102


class Store(Protocol):
    """Keeps passages."""

    async def create_collection(self, collection: str, embedded: Embedded, *, deadline: float) -> None: ...  # noqa: D102

    async def upsert(  # noqa: D102
        self,
        collection: str,
        passages: Sequence[Passage],
        vectors: Sequence[bytes],
        *,
        model_fingerprint: str,
        deadline: float,
    ) -> Upserted: ...


class Indexing:
    """Stores documents. All of a call are stored or none."""

    def __init__(self, embedder: DocumentEmbedder, store: Store) -> None:
        self._embedder = embedder
        self._store = store

    async def index(self, collection: str, documents: Sequence[Passage], *, deadline: float) -> Indexed:
        """Embeds and stores documents by a moment on the monotonic clock.

        A collection that does not exist is created for the model that serves. Raises InvalidArgument naming the
        field of a document that cannot be stored; nothing is stored then.
        """
        _check(documents)
        embedded = await self._embedder.embed_documents([document.reading for document in documents], deadline=deadline)
        try:
            stored = await self._upsert(collection, documents, embedded, deadline)
        except NotFound:
            # Where somebody else was first, theirs serves as well.
            with contextlib.suppress(AlreadyExists):
                await self._store.create_collection(collection, embedded, deadline=deadline)
            stored = await self._upsert(collection, documents, embedded, deadline)
        truncated = [document.id for document, cut in zip(documents, embedded.truncated, strict=True) if cut]
        return Indexed(stored.count, truncated, stored.index_version, embedded.model)

    async def _upsert(
        self, collection: str, documents: Sequence[Passage], embedded: Embedded, deadline: float
    ) -> Upserted:
        return await self._store.upsert(
            collection,
            documents,
            embedded.vectors,
            model_fingerprint=embedded.fingerprint,
            deadline=deadline,
        )


def _check(documents: Sequence[Passage]) -> None:
    """What must be known before the embedder is put to work; the retriever checks the rest."""
    seen: dict[str, int] = {}
    for position, document in enumerate(documents):
        here = f"documents[{position}]"
        if not document.id:
            raise InvalidArgument(f"{here}.id", "is empty; every document needs an id")
        if document.id in seen:
            raise InvalidArgument(f"{here}.id", f"is the same as that of documents[{seen[document.id]}]")
        seen[document.id] = position
        if not document.reading.strip():
            raise InvalidArgument(f"{here}.text", "is empty, and so is the title; there is nothing to search for")
