"""From documents to an index: cut what is too long, embed, make the collection if there is none yet, store."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from services.chassis.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from services.gateway.search.stages import Chunk, Embedded, Passage, Upserted

# The retriever takes up to 1000 passages in a call.
UPSERT_SLICE = 512
MAX_ID_BYTES = 512


@dataclass(frozen=True, slots=True)
class Chunking:
    """How long documents are cut."""

    chunk_tokens: int
    """Most tokens of a chunk; 0 is the window of the model that serves."""
    overlap_tokens: int | None
    """Most tokens that a chunk shares with the one before; None leaves that to the embedder."""


@dataclass(frozen=True, slots=True)
class Indexed:
    """What was stored, and with what."""

    count: int
    truncated_ids: Sequence[str]
    index_version: str
    model: str
    passage_count: int


class DocumentEmbedder(Protocol):
    """Documents to vectors, in bulk, by the model that made a collection's."""

    async def split_documents(  # noqa: D102
        self,
        documents: Sequence[Passage],
        *,
        collection: str,
        chunk_tokens: int,
        overlap_tokens: int | None,
        deadline: float,
    ) -> Sequence[Sequence[tuple[int, int]]]: ...

    async def embed_documents(self, texts: Sequence[str], *, collection: str, deadline: float) -> Embedded: ...  # noqa: D102

    def forget(self, collection: str) -> None:
        """Looks anew, the next time, which model made a collection's vectors."""


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

    async def index(
        self, collection: str, documents: Sequence[Passage], *, chunking: Chunking | None = None, deadline: float
    ) -> Indexed:
        """Embeds and stores documents by a moment on the monotonic clock.

        A collection that does not exist is created for the model that serves. Raises InvalidArgument naming the
        field of a document that cannot be stored; nothing is stored then.
        """
        _check(documents)
        try:
            return await self._index(collection, documents, chunking, deadline)
        except FailedPrecondition as mismatch:
            if mismatch.reason != "MODEL_MISMATCH":
                raise
        # The collection was switched to another model between the look at it and the storing.
        self._embedder.forget(collection)
        return await self._index(collection, documents, chunking, deadline)

    async def _index(
        self, collection: str, documents: Sequence[Passage], chunking: Chunking | None, deadline: float
    ) -> Indexed:
        passages = (
            list(documents) if chunking is None else await self._chunks(collection, documents, chunking, deadline)
        )
        embedded = await self._embedder.embed_documents(
            [passage.reading for passage in passages], collection=collection, deadline=deadline
        )
        places = {document.id: place for place, document in enumerate(documents)}
        try:
            index_version = await self._upsert(collection, passages, embedded, places, deadline)
        except NotFound:
            # Where somebody else was first, theirs serves as well.
            with contextlib.suppress(AlreadyExists):
                await self._store.create_collection(collection, embedded, deadline=deadline)
            index_version = await self._upsert(collection, passages, embedded, places, deadline)
        truncated = {
            passage.document_id: None for passage, cut in zip(passages, embedded.truncated, strict=True) if cut
        }
        in_order = sorted(truncated, key=places.__getitem__)
        return Indexed(len(documents), in_order, index_version, embedded.model, len(passages))

    async def _chunks(
        self, collection: str, documents: Sequence[Passage], chunking: Chunking, deadline: float
    ) -> list[Passage]:
        """The documents, those that are too long cut: whole ones and first chunks before all others.

        So the first call to the store has something of every document, and finds what is wrong with any of them before
        anything is stored; and the chunk that says how many there are is there before the others.
        """
        ranges = await self._embedder.split_documents(
            documents,
            collection=collection,
            chunk_tokens=chunking.chunk_tokens,
            overlap_tokens=chunking.overlap_tokens,
            deadline=deadline,
        )
        first: list[Passage] = []
        others: list[Passage] = []
        for place, (document, parts) in enumerate(zip(documents, ranges, strict=True)):
            if len(parts) == 1:
                first.append(document)
                continue
            chunks = [
                replace(
                    document,
                    id=document.id if number == 1 else f"{document.id}#{number}",
                    text=document.text[start:end],
                    chunk=Chunk(document.id, number, len(parts), start, end),
                )
                for number, (start, end) in enumerate(parts, start=1)
            ]
            if len(chunks[-1].id.encode()) > MAX_ID_BYTES:
                raise InvalidArgument(
                    f"documents[{place}].id", "is too long for the number of a chunk to be added to it"
                )
            first.append(chunks[0])
            others += chunks[1:]
        return first + others

    async def _upsert(
        self,
        collection: str,
        passages: Sequence[Passage],
        embedded: Embedded,
        places: Mapping[str, int],
        deadline: float,
    ) -> str:
        """The index version that took them."""
        for start in range(0, len(passages), UPSERT_SLICE):
            part = passages[start : start + UPSERT_SLICE]
            try:
                stored = await self._store.upsert(
                    collection,
                    part,
                    embedded.vectors[start : start + UPSERT_SLICE],
                    model_fingerprint=embedded.fingerprint,
                    deadline=deadline,
                )
            except InvalidArgument as error:
                raise _in_callers_words(error, part, places) from None
        return stored.index_version


def _in_callers_words(
    error: InvalidArgument, passages: Sequence[Passage], places: Mapping[str, int]
) -> InvalidArgument:
    """The same error about the field that the gateway's caller knows."""
    found = re.match(r"passages\[(\d+)\]", error.field)
    if found is None:
        return error
    place = places[passages[int(found[1])].document_id]
    field = f"documents[{place}]{error.field[found.end() :]}"
    return InvalidArgument(field, error.problem, reason=error.reason)


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
