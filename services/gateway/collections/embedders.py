"""Which model embeds for which collection: always the one that made the vectors of its live version.

A collection is looked at every few seconds. That the look has grown old does no harm: the retriever refuses vectors of
another model than the version's that it searches or writes, and then the collection is looked at anew.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.chassis.errors import FailedPrecondition, NotFound, SluiceError
from services.gateway.search.stages import Embedded, Passage

# How long a look at a collection is trusted, and how long it is not looked at the embedders again in vain.
TRUSTED_SECONDS = 5.0
UNSERVED_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """What an embedder serves."""

    name: str
    fingerprint: str
    dimension: int
    precision: str
    runtime: str = ""
    """How it computes, for people."""
    pseudo: bool = False


@dataclass(frozen=True, slots=True)
class ModelOfIndex:
    """What made the vectors of a collection's live version, or of a version that is named."""

    version: str
    model: str
    fingerprint: str


class ModelEmbedder(Protocol):
    """An embedder of one model."""

    async def embed_queries(self, texts: Sequence[str], *, deadline: float) -> Embedded: ...  # noqa: D102

    async def embed_documents(self, texts: Sequence[str], *, deadline: float) -> Embedded: ...  # noqa: D102

    async def split_documents(  # noqa: D102
        self, documents: Sequence[Passage], *, chunk_tokens: int, overlap_tokens: int | None, deadline: float
    ) -> Sequence[Sequence[tuple[int, int]]]: ...

    async def model(self, *, deadline: float) -> EmbeddingModel: ...  # noqa: D102


class Collections(Protocol):
    """Knows the models of collections."""

    async def model_of(self, collection: str, *, deadline: float) -> ModelOfIndex:
        """Raises NotFound where there is no such collection."""


class Embedders:
    """All embedders of a gateway; the first one serves what has no collection yet."""

    def __init__(self, embedders: Sequence[ModelEmbedder], collections: Collections) -> None:
        self._embedders = embedders
        self._collections = collections
        self._seen: dict[str, tuple[float, ModelOfIndex]] = {}
        self._forgotten = 0
        self._models: dict[int, EmbeddingModel] = {}
        self._unserved: dict[str, float] = {}

    async def embed_queries(self, texts: Sequence[str], *, collection: str, deadline: float) -> Embedded:
        """Vectors of queries to a collection, somebody waiting.

        Raises FailedPrecondition (MODEL_MISMATCH) where no embedder serves the collection's model.
        """
        return await self._embed(
            lambda embedder: embedder.embed_queries(texts, deadline=deadline), collection, deadline
        )

    async def embed_documents(self, texts: Sequence[str], *, collection: str, deadline: float) -> Embedded:
        """Vectors of documents for a collection, in bulk. Raises as `embed_queries` does."""
        return await self._embed(
            lambda embedder: embedder.embed_documents(texts, deadline=deadline), collection, deadline
        )

    async def split_documents(
        self,
        documents: Sequence[Passage],
        *,
        collection: str,
        chunk_tokens: int,
        overlap_tokens: int | None,
        deadline: float,
    ) -> Sequence[Sequence[tuple[int, int]]]:
        """Start and end of the chunks of every document, by the tokens of a collection's model."""
        embedder = self._embedders[0]
        if (wanted := await self._wanted(collection, deadline)) is not None:
            embedder = await self._serving(wanted, deadline)
        return await embedder.split_documents(
            documents, chunk_tokens=chunk_tokens, overlap_tokens=overlap_tokens, deadline=deadline
        )

    def forget(self, collection: str) -> None:
        """Looks at a collection anew, the next time."""
        self._forgotten += 1
        self._seen.pop(collection, None)

    async def model_named(self, name: str, *, deadline: float) -> EmbeddingModel:
        """The model of this short or whole name; FailedPrecondition (MODEL_NOT_SERVED) where none serves it."""
        served, unreachable = await self.served(deadline=deadline)
        for model in served:
            if name in (model.name, model.name.rpartition("/")[2]):
                return model
        names = ", ".join(model.name for model in served) or "none"
        beside = f" ({len(unreachable)} cannot be reached)" if unreachable else ""
        raise FailedPrecondition(
            f"no embedder of this gateway serves {name!r}; they serve: {names}{beside}. Start an embedder with "
            f"EMBEDDING_MODEL={name} and name it in the gateway's EMBEDDER_ADDITIONAL_ADDRESSES",
            reason="MODEL_NOT_SERVED",
        )

    async def served(self, *, deadline: float) -> tuple[list[EmbeddingModel], list[SluiceError]]:
        """The models that are served now, and why the other embedders do not tell theirs."""
        answers = await asyncio.gather(
            *(embedder.model(deadline=deadline) for embedder in self._embedders), return_exceptions=True
        )
        self._models = {place: answer for place, answer in enumerate(answers) if isinstance(answer, EmbeddingModel)}
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, SluiceError):
                raise answer
        return list(self._models.values()), [answer for answer in answers if isinstance(answer, SluiceError)]

    async def _embed(
        self, call: Callable[[ModelEmbedder], Awaitable[Embedded]], collection: str, deadline: float
    ) -> Embedded:
        if (wanted := await self._wanted(collection, deadline)) is None:
            return await call(self._embedders[0])
        for _ in range(2):
            embedded = await call(await self._serving(wanted, deadline))
            if embedded.fingerprint == wanted.fingerprint:
                return embedded
            self._models.clear()  # another model serves there since
        raise _unserved(wanted, [])

    async def _wanted(self, collection: str, deadline: float) -> ModelOfIndex | None:
        """What made the collection's vectors; None where it is for the search or the storing to find out."""
        seen, model = self._seen.get(collection, (0.0, None))
        if model is not None and time.monotonic() - seen < TRUSTED_SECONDS:
            return model
        forgotten = self._forgotten
        try:
            model = await self._collections.model_of(collection, deadline=deadline)
        except NotFound:
            self.forget(collection)
            return None
        except SluiceError:
            # Without the retriever there will be no search; what was known may do until it is back.
            return model
        if forgotten == self._forgotten:  # what was looked at before may be what was to be forgotten
            self._seen[collection] = (time.monotonic(), model)
        return model

    async def _serving(self, wanted: ModelOfIndex, deadline: float) -> ModelEmbedder:
        for _ in range(2):
            for place, model in self._models.items():
                if model.fingerprint == wanted.fingerprint:
                    return self._embedders[place]
            if time.monotonic() - self._unserved.get(wanted.fingerprint, 0.0) < UNSERVED_SECONDS:
                break
            _, unreachable = await self.served(deadline=deadline)
            if not any(model.fingerprint == wanted.fingerprint for model in self._models.values()):
                if unreachable:
                    raise unreachable[0]
                self._unserved[wanted.fingerprint] = time.monotonic()
        raise _unserved(wanted, list(self._models.values()))


def _unserved(wanted: ModelOfIndex, served: Sequence[EmbeddingModel]) -> FailedPrecondition:
    names = ", ".join(f"{model.name} (fingerprint {model.fingerprint[:12]})" for model in served) or "none"
    return FailedPrecondition(
        f"{wanted.version!r} holds vectors of {wanted.model} (fingerprint {wanted.fingerprint[:12]}), and no embedder "
        f"of this gateway serves that; they serve: {names}. Name one that does in EMBEDDER_ADDITIONAL_ADDRESSES",
        reason="MODEL_MISMATCH",
        collection=wanted.version,
        collection_fingerprint=wanted.fingerprint,
    )
