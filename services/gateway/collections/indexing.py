"""Indexing: cut long documents, embed, create the collection if there is none, store."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.chassis.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from services.chassis.validation import check_content, check_document_id
from services.gateway.collections.documents import Chunking, cut
from services.gateway.collections.embedders import Embedders
from services.gateway.collections.following import Writing
from services.gateway.collections.store import Store, Vectors, Written
from services.gateway.search.stages import Embedded, EmbeddedTokens, reading
from services.gateway.slices import slices
from sluice.gateway.v1 import documents_pb2
from sluice.type.v1 import passage_pb2

# Reasons of errors that a switch to a version by other models may cause.
_OTHER_MODELS = ("MODEL_MISMATCH", "TOKEN_MODEL_MISMATCH", "TOKEN_MODEL_NOT_SERVED")
# The retriever takes up to 1000 passages in a call.
UPSERT_SLICE = 512
# Bytes of a passage's token vectors, about: slices are cut before these are there.
_TOKENS_BYTES = 8_000


@dataclass(frozen=True, slots=True)
class Indexed:
    """Result of an indexing call."""

    count: int
    truncated_ids: Sequence[str]
    index_version: str
    model: str
    passage_count: int
    replaced_count: int = 0
    """Number of documents that replaced one of the same id."""

    def to_proto(self) -> documents_pb2.IndexDocumentsResponse:
        """Write the response."""
        return documents_pb2.IndexDocumentsResponse(
            indexed_count=self.count,
            truncated_ids=self.truncated_ids,
            index_version=self.index_version,
            model=self.model,
            passage_count=self.passage_count,
            replaced_count=self.replaced_count,
        )


class Indexing:
    """Stores documents. All documents of a call are stored or none."""

    def __init__(self, embedders: Embedders, store: Store, writing: Writing) -> None:
        self._embedders = embedders
        self._store = store
        self._writing = writing

    async def index(
        self,
        collection: str,
        documents: Sequence[passage_pb2.Passage],
        *,
        chunking: Chunking | None = None,
        deadline: float,
    ) -> Indexed:
        """Embed and store documents by a deadline on the monotonic clock.

        A collection that does not exist is created for the first embedder's model. Raises InvalidArgument naming the
        field of a document that cannot be stored; nothing is stored then.
        """
        _check(documents)
        try:
            return await self._index(collection, documents, chunking, deadline)
        except FailedPrecondition as error:
            if error.reason not in _OTHER_MODELS:
                raise
        # The collection was switched to other models between the embedding and the storing.
        self._embedders.forget(collection)
        return await self._index(collection, documents, chunking, deadline)

    async def _index(
        self,
        collection: str,
        documents: Sequence[passage_pb2.Passage],
        chunking: Chunking | None,
        deadline: float,
    ) -> Indexed:
        passages = documents if chunking is None else await self._chunks(collection, documents, chunking, deadline)
        places = {document.id: place for place, document in enumerate(documents)}
        texts = [reading(passage) for passage in passages]
        try:
            embedded = await self._embedders.embed_documents(texts, collection=collection, deadline=deadline)
            sizes = [
                passage.ByteSize() + len(vector) + _TOKENS_BYTES
                for passage, vector in zip(passages, embedded.vectors, strict=True)
            ]
            parts = list(slices(sizes, most=UPSERT_SLICE))
            tokens = await self._embedders.embed_document_tokens(
                texts[parts[0]], collection=collection, deadline=deadline
            )
        except InvalidArgument as error:
            raise _about_document(error, passages, places) from None
        try:
            stored = await self._store_all(collection, passages, parts, embedded, tokens, places, deadline)
        except NotFound:
            # If another call creates it first, that one serves as well.
            with contextlib.suppress(AlreadyExists):
                await self._store.create_collection(
                    collection, embedded.model, token_model=tokens.model if tokens else None, deadline=deadline
                )
            stored = await self._store_all(collection, passages, parts, embedded, tokens, places, deadline)
        truncated = {
            passage.document_id for passage, cut_off in zip(passages, embedded.truncated, strict=True) if cut_off
        }
        in_order = sorted(truncated, key=places.__getitem__)
        model = embedded.model.name
        return Indexed(len(documents), in_order, stored.index_version, model, len(passages), stored.replaced_count)

    async def _chunks(
        self, collection: str, documents: Sequence[passage_pb2.Passage], chunking: Chunking, deadline: float
    ) -> list[passage_pb2.Passage]:
        """Cut the documents; whole documents and first chunks come before all other chunks.

        So the chunk that holds the number of chunks is stored before the others.
        """
        ranges = await self._embedders.split_documents(documents, chunking, collection=collection, deadline=deadline)
        first: list[passage_pb2.Passage] = []
        others: list[passage_pb2.Passage] = []
        for document, parts in zip(documents, ranges, strict=True):
            chunks = cut(document, parts)
            first.append(chunks[0])
            others += chunks[1:]
        return first + others

    async def _store_all(
        self,
        collection: str,
        passages: Sequence[passage_pb2.Passage],
        parts: Sequence[slice],
        embedded: Embedded,
        tokens: EmbeddedTokens | None,
        places: Mapping[str, int],
        deadline: float,
    ) -> Written:
        """Store passages in slices; return the index version that took them, and what they replaced.

        One slice is stored or refused whole. Of several, all documents are checked before the first is stored. `tokens`
        are those of the first slice. Those of the others are made when it is their turn: of all, they would be several
        times as large as the call.
        """
        named = passages
        try:
            if len(parts) > 1:
                # The first passages of all documents; the others have their metadata.
                named = passages[: len(places)]
                await self._store.check(
                    collection, named, model_fingerprint=embedded.model.fingerprint, deadline=deadline
                )
            batch = uuid.uuid4().hex if len(parts) > 1 else ""
            replaced = 0
            for part in parts:
                named = passages[part]
                if part.start:
                    texts = [reading(passage) for passage in named]
                    tokens = await self._embedders.embed_document_tokens(
                        texts, collection=collection, deadline=deadline
                    )
                vectors = Vectors.of(embedded.vectors[part], embedded.model, tokens)
                stored = await self._writing.upsert(collection, named, vectors, batch=batch, deadline=deadline)
                replaced += stored.replaced_count
        except InvalidArgument as error:
            raise _about_document(error, named, places) from None
        return dataclasses.replace(stored, replaced_count=replaced)


def _about_document(
    error: InvalidArgument, passages: Sequence[passage_pb2.Passage], places: Mapping[str, int]
) -> InvalidArgument:
    """Name the field of the gateway's request instead of that of a stage."""
    found = re.match(r"(passages|texts)\[(\d+)\]", error.field)
    if found is None:
        return error
    place = places[passages[int(found[2])].document_id]
    field = ".text" if found[1] == "texts" else error.field[found.end() :]
    return InvalidArgument(f"documents[{place}]{field}", error.problem, reason=error.reason)


def _check(documents: Sequence[passage_pb2.Passage]) -> None:
    """Check what must hold before anything is embedded; the retriever checks the rest."""
    seen: dict[str, int] = {}
    for position, document in enumerate(documents):
        here = f"documents[{position}]"
        check_document_id(f"{here}.id", document.id)
        if document.id in seen:
            raise InvalidArgument(f"{here}.id", f"is the same as that of documents[{seen[document.id]}]")
        seen[document.id] = position
        check_content(here, document.title, document.text, document.metadata)
        if not reading(document).strip():
            raise InvalidArgument(f"{here}.text", "is empty, and so is the title; there is nothing to search for")
