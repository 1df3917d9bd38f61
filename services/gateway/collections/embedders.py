"""Choice of the embedder that serves the model of a collection's live version.

The model of a collection is cached for a few seconds. A stale entry does no harm: the retriever refuses vectors of
another model than that of the version that it searches or writes, and then the entry is dropped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from services.chassis.errors import FailedPrecondition, NotFound, SluiceError
from services.gateway.collections.documents import Chunking
from services.gateway.collections.store import Store
from services.gateway.search.stages import Embedded, EmbeddedTokens, QueryTokens
from sluice.type.v1 import collection_pb2, model_pb2, passage_pb2

# Time that the model of a collection is cached, and that a model without an embedder is not looked for again.
TRUSTED_SECONDS = 5.0
UNSERVED_SECONDS = 1.0

TokensT = TypeVar("TokensT", QueryTokens, EmbeddedTokens)

Ranges = Sequence[Sequence[tuple[int, int]]]
"""Start and end of the chunks of every document, in characters."""


class ModelEmbedder(Protocol):
    """An embedder of one model."""

    async def embed_queries(self, texts: Sequence[str], *, deadline: float) -> Embedded:
        """Embed queries."""

    async def embed_query_tokens(self, query: str, *, deadline: float) -> QueryTokens:
        """Make vectors of the tokens of a query."""

    async def embed_documents(self, texts: Sequence[str], *, deadline: float) -> Embedded:
        """Embed documents, with the priority of a job."""

    async def embed_document_tokens(self, texts: Sequence[str], *, deadline: float) -> EmbeddedTokens:
        """Make vectors of the tokens of documents, with the priority of a job.

        Raises FailedPrecondition (NO_TOKEN_MODEL) where it has no model for them any more.
        """

    async def split_documents(
        self, documents: Sequence[passage_pb2.Passage], chunking: Chunking, *, deadline: float
    ) -> Ranges:
        """Cut documents into chunks by the tokens of the model."""

    async def model(self, *, deadline: float) -> model_pb2.ModelInfo:
        """Describe the model."""

    async def token_model(self, *, deadline: float) -> model_pb2.ModelInfo:
        """Describe the model of token vectors; without a fingerprint where there is none."""


class _Served:
    """The models of one kind that the embedders serve, by the place of the embedder."""

    def __init__(
        self,
        embedders: Sequence[ModelEmbedder],
        model: Callable[[ModelEmbedder, float], Awaitable[model_pb2.ModelInfo]],
    ) -> None:
        """Take the call that describes a model by a deadline."""
        self._embedders = embedders
        self._model = model
        self._known: dict[int, model_pb2.ModelInfo] = {}
        self._unserved: dict[str, float] = {}

    @property
    def known(self) -> list[model_pb2.ModelInfo]:
        """The models as they were seen last."""
        return list(self._known.values())

    def forget(self) -> None:
        """Drop what was seen."""
        self._known.clear()

    async def look(self, deadline: float) -> list[SluiceError]:
        """Ask all embedders; return the errors of those that did not answer."""
        answers = await asyncio.gather(
            *(self._model(embedder, deadline) for embedder in self._embedders), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, SluiceError):
                raise answer
        self._known = {
            place: answer
            for place, answer in enumerate(answers)
            if isinstance(answer, model_pb2.ModelInfo) and answer.fingerprint
        }
        return [answer for answer in answers if isinstance(answer, SluiceError)]

    async def place(self, fingerprint: str, deadline: float) -> int | None:
        """Find the embedder of a model; None if none serves it. Raises the error of one that may."""
        for _ in range(2):
            for place, model in self._known.items():
                if model.fingerprint == fingerprint:
                    return place
            if time.monotonic() - self._unserved.get(fingerprint, 0.0) < UNSERVED_SECONDS:
                break
            unreachable = await self.look(deadline)
            if all(model.fingerprint != fingerprint for model in self._known.values()):
                if unreachable:
                    raise unreachable[0]
                self._unserved[fingerprint] = time.monotonic()
        return None


class Embedders:
    """All embedders of a gateway; the first one serves new collections."""

    def __init__(self, embedders: Sequence[ModelEmbedder], store: Store, *, token_vectors: bool = True) -> None:
        """`token_vectors` is True if new collections get token vectors, where the first embedder makes such."""
        self._embedders = embedders
        self._store = store
        self._token_vectors = token_vectors
        self._seen: dict[str, tuple[float, collection_pb2.CollectionVersion]] = {}
        self._forgotten = 0
        self._models = _Served(embedders, lambda one, until: one.model(deadline=until))
        self._token_models = _Served(embedders, lambda one, until: one.token_model(deadline=until))

    async def embed_queries(self, texts: Sequence[str], *, collection: str, deadline: float) -> Embedded:
        """Embed queries to a collection.

        Raises FailedPrecondition (MODEL_MISMATCH) where no embedder serves the collection's model.
        """
        return await self._embed(
            lambda embedder: embedder.embed_queries(texts, deadline=deadline), collection, deadline
        )

    async def embed_query_tokens(self, query: str, *, collection: str, deadline: float) -> QueryTokens:
        """Make vectors of the tokens of a query to a collection.

        Raises FailedPrecondition: NO_TOKEN_VECTORS where the collection has none, TOKEN_MODEL_NOT_SERVED where no
        embedder serves their model.
        """
        wanted = await self.live(collection, deadline=deadline)
        if wanted is None or not wanted.HasField("token_model"):
            raise FailedPrecondition(
                f"{collection!r} has no token vectors; `sluice reindex --late` adds them", reason="NO_TOKEN_VECTORS"
            )
        return await self._embed_tokens(
            lambda embedder: embedder.embed_query_tokens(query, deadline=deadline), wanted, deadline
        )

    async def embed_documents(self, texts: Sequence[str], *, collection: str, deadline: float) -> Embedded:
        """Embed documents for a collection. Raises as `embed_queries` does."""
        return await self._embed(
            lambda embedder: embedder.embed_documents(texts, deadline=deadline), collection, deadline
        )

    async def embed_document_tokens(
        self, texts: Sequence[str], *, collection: str, deadline: float
    ) -> EmbeddedTokens | None:
        """Make vectors of the tokens of documents for a collection; None where it has none, or will have none.

        Raises FailedPrecondition (TOKEN_MODEL_NOT_SERVED) where no embedder serves its token model.
        """
        if (wanted := await self.live(collection, deadline=deadline)) is None:
            if await self.new_token_model(deadline=deadline) is None:
                return None
            return await self._embedders[0].embed_document_tokens(texts, deadline=deadline)
        if not wanted.HasField("token_model"):
            return None
        return await self._embed_tokens(
            lambda embedder: embedder.embed_document_tokens(texts, deadline=deadline), wanted, deadline
        )

    async def split_documents(
        self, documents: Sequence[passage_pb2.Passage], chunking: Chunking, *, collection: str, deadline: float
    ) -> Ranges:
        """Cut documents into chunks by the tokens of a collection's model."""
        embedder = self._embedders[0]
        if (wanted := await self.live(collection, deadline=deadline)) is not None:
            embedder = await self._serving(wanted, deadline)
        return await embedder.split_documents(documents, chunking, deadline=deadline)

    async def live(self, collection: str, *, deadline: float) -> collection_pb2.CollectionVersion | None:
        """Describe the live version as it was seconds ago; None if the next call has to find out."""
        seen, version = self._seen.get(collection, (0.0, None))
        if version is not None and time.monotonic() - seen < TRUSTED_SECONDS:
            return version
        forgotten = self._forgotten
        try:
            version = await self._store.collection(collection, deadline=deadline)
        except NotFound:
            self.forget(collection)
            return None
        except SluiceError:
            # Without the retriever there is no search; until it is back, the old entry may do.
            return version
        if forgotten == self._forgotten:  # else the answer may be older than the order to forget
            self._seen[collection] = (time.monotonic(), version)
        return version

    def forget(self, collection: str) -> None:
        """Drop the cached model of a collection."""
        self._forgotten += 1
        self._seen.pop(collection, None)

    async def model_named(self, name: str, *, deadline: float) -> model_pb2.ModelInfo:
        """Find a served model by its short or whole name, or raise MODEL_NOT_SERVED."""
        served, unreachable = await self.served(deadline=deadline)
        for model in served:
            if name in (model.name, model.name.rpartition("/")[2]):
                return model
        names = ", ".join(model.name for model in served) or "none"
        away = f" ({len(unreachable)} cannot be reached)" if unreachable else ""
        raise FailedPrecondition(
            f"no embedder of this gateway serves {name!r}; they serve: {names}{away}. Start an embedder with "
            f"EMBEDDING_MODEL={name} and name it in the gateway's EMBEDDER_ADDITIONAL_ADDRESSES",
            reason="MODEL_NOT_SERVED",
        )

    async def first_model(self, *, deadline: float) -> model_pb2.ModelInfo:
        """Describe the model of the first embedder."""
        return await self._embedders[0].model(deadline=deadline)

    async def token_model_like(self, fingerprint: str, *, deadline: float) -> model_pb2.ModelInfo:
        """Describe the token model with this fingerprint if it is served, or else the first that is.

        Raises FailedPrecondition (TOKEN_MODEL_NOT_SERVED) where none is.
        """
        unreachable = await self._token_models.look(deadline)
        served = self._token_models.known
        for model in served:
            if model.fingerprint == fingerprint:
                return model
        if served:
            return served[0]
        if unreachable:
            raise unreachable[0]
        raise FailedPrecondition(
            "no embedder of this gateway makes token vectors; start one with TOKEN_MODEL=answerai-colbert-small-v1, or "
            "do without them (`--no-late`)",
            reason="TOKEN_MODEL_NOT_SERVED",
        )

    async def new_token_model(self, *, deadline: float) -> model_pb2.ModelInfo | None:
        """Describe the token model of a new collection of which nothing else is said; None for none."""
        if not self._token_vectors:
            return None
        model = await self._embedders[0].token_model(deadline=deadline)
        return model if model.fingerprint else None

    async def served(self, *, deadline: float) -> tuple[list[model_pb2.ModelInfo], list[SluiceError]]:
        """List the models that are served now, and the errors of the other embedders."""
        unreachable = await self._models.look(deadline)
        return self._models.known, unreachable

    async def served_tokens(self, *, deadline: float) -> list[model_pb2.ModelInfo]:
        """List the token models that are served now."""
        await self._token_models.look(deadline)
        return self._token_models.known

    async def _embed(
        self, call: Callable[[ModelEmbedder], Awaitable[Embedded]], collection: str, deadline: float
    ) -> Embedded:
        if (wanted := await self.live(collection, deadline=deadline)) is None:
            return await call(self._embedders[0])
        for _ in range(2):
            embedded = await call(await self._serving(wanted, deadline))
            if embedded.model.fingerprint == wanted.model.fingerprint:
                return embedded
            self._models.forget()  # that embedder has been given another model
        raise _unserved(wanted, [])

    async def _embed_tokens(
        self,
        call: Callable[[ModelEmbedder], Awaitable[TokensT]],
        wanted: collection_pb2.CollectionVersion,
        deadline: float,
    ) -> TokensT:
        for _ in range(2):
            place = await self._token_models.place(wanted.token_model.fingerprint, deadline)
            if place is None:
                break
            try:
                made = await call(self._embedders[place])
            except FailedPrecondition as error:
                if error.reason != "NO_TOKEN_MODEL":
                    raise
            else:
                if made.model.fingerprint == wanted.token_model.fingerprint:
                    return made
            self._token_models.forget()  # that embedder has been given another model, or none
        raise _no_tokens(wanted, self._token_models.known)

    async def _serving(self, wanted: collection_pb2.CollectionVersion, deadline: float) -> ModelEmbedder:
        place = await self._models.place(wanted.model.fingerprint, deadline)
        if place is None:
            raise _unserved(wanted, self._models.known)
        return self._embedders[place]


def _unserved(wanted: collection_pb2.CollectionVersion, served: Sequence[model_pb2.ModelInfo]) -> FailedPrecondition:
    return FailedPrecondition(
        f"{wanted.version!r} holds vectors of {_named([wanted.model])}, and no embedder of this gateway serves that; "
        f"they serve: {_named(served)}. Name one that does in EMBEDDER_ADDITIONAL_ADDRESSES",
        reason="MODEL_MISMATCH",
        collection=wanted.version,
        collection_fingerprint=wanted.model.fingerprint,
    )


def _no_tokens(wanted: collection_pb2.CollectionVersion, served: Sequence[model_pb2.ModelInfo]) -> FailedPrecondition:
    return FailedPrecondition(
        f"{wanted.version!r} holds token vectors of {_named([wanted.token_model])}, and no embedder of this gateway "
        f"serves that; they serve: {_named(served)}. Set TOKEN_MODEL of one of them, or run `sluice reindex "
        f"{wanted.collection} {'--late' if served else '--no-late'}`",
        reason="TOKEN_MODEL_NOT_SERVED",
        collection=wanted.version,
        collection_fingerprint=wanted.token_model.fingerprint,
    )


def _named(models: Sequence[model_pb2.ModelInfo]) -> str:
    return ", ".join(f"{model.name} (fingerprint {model.fingerprint[:12]})" for model in models) or "none"
