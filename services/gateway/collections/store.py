"""Port of the domain to the store of collections; the retriever's client implements it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

from services.gateway.search.stages import EmbeddedTokens, Retriever
from sluice.type.v1 import collection_pb2, model_pb2, passage_pb2, tokens_pb2


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vectors of passages: one each and, for a version with a token model, those of its tokens."""

    dense: Sequence[bytes]
    model_fingerprint: str
    tokens: Sequence[tokens_pb2.TokenVectors] = ()
    """As many as there are vectors, or none."""
    token_model_fingerprint: str = ""

    @classmethod
    def of(cls, dense: Sequence[bytes], model: model_pb2.ModelInfo, tokens: EmbeddedTokens | None) -> Self:
        """Put together what embedders have made of the same texts."""
        if tokens is None:
            return cls(dense, model.fingerprint)
        return cls(dense, model.fingerprint, tokens.vectors, tokens.model.fingerprint)

    def part(self, part: slice) -> Vectors:
        """Take those of some of the passages."""
        return replace(self, dense=self.dense[part], tokens=self.tokens[part])

    def sizes(self) -> Sequence[int]:
        """Return the bytes of each passage's vectors."""
        tokens = [len(one.values) for one in self.tokens] or [0] * len(self.dense)
        return [len(vector) + size for vector, size in zip(self.dense, tokens, strict=True)]


@dataclass(frozen=True, slots=True)
class Written:
    """Result of a write to a live version."""

    count: int
    index_version: str = ""
    building_version: str = ""
    """The version that has to follow; empty where there is none."""
    changed_ids: Sequence[str] = ()
    """Ids of the passages that have to follow."""
    replaced_count: int = 0
    """Number of documents that were there before."""
    missing_ids: Sequence[str] = ()
    """Ids of documents that do not exist."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A passage that differs between the live version and the one being built."""

    id: str
    passage: passage_pb2.Passage | None
    """The live version's passage; None where it has none."""
    revision: str
    building_revision: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """The differences among the passages that were compared."""

    differences: Sequence[Difference]
    compared: int
    next_cursor: str
    """Continues the comparison; empty at the end."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A version to fill, and the live version that it is filled from."""

    version: collection_pb2.CollectionVersion
    live: collection_pb2.CollectionVersion


@dataclass(frozen=True, slots=True)
class Switched:
    """Result of a switch of a collection."""

    live: collection_pb2.CollectionVersion
    previous: str
    """The version that was live before."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A passage with its vector, and its token vectors if there are such."""

    passage: passage_pb2.Passage
    vector: bytes
    tokens: tokens_pb2.TokenVectors | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """Passages chosen by chance, and the number of all passages."""

    passages: Sequence[Sampled]
    count: int


class Store(Retriever, Protocol):
    """Keeps collections and their versions.

    A name of a collection may also be that of a version.
    """

    async def collection(self, name: str, *, deadline: float) -> collection_pb2.CollectionVersion:
        """Describe the live version of a collection. Raises NotFound."""

    async def create_collection(
        self,
        collection: str,
        model: model_pb2.ModelInfo,
        *,
        token_model: model_pb2.ModelInfo | None = None,
        deadline: float,
    ) -> collection_pb2.CollectionVersion:
        """Create a collection for a model, and perhaps a token model. Raises AlreadyExists."""

    async def upsert(
        self,
        collection: str,
        passages: Sequence[passage_pb2.Passage],
        vectors: Vectors,
        *,
        batch: str = "",
        deadline: float,
    ) -> Written:
        """Store passages with their vectors; `batch` identifies those that take several calls."""

    async def check(
        self, collection: str, passages: Sequence[passage_pb2.Passage], *, model_fingerprint: str, deadline: float
    ) -> None:
        """Raise what storing these passages would raise, but for their vectors."""

    async def delete(self, collection: str, ids: Sequence[str], *, deadline: float) -> Written:
        """Delete documents by id."""

    async def relate(
        self, collection: str, said: Sequence[tuple[str, passage_pb2.Relations]], *, deadline: float
    ) -> Written:
        """Replace what stored documents say of their relations; count the passages."""

    async def sample(self, collection: str, limit: int, *, deadline: float) -> Sample:
        """Choose passages by chance."""

    async def create_version(
        self, collection: str, model: model_pb2.ModelInfo, *, token_model: model_pb2.ModelInfo | None, deadline: float
    ) -> Begun:
        """Create the version for a model and perhaps a token model, or continue with the one that was begun."""

    async def compare(
        self, collection: str, version: str, ids: Sequence[str], *, deadline: float
    ) -> Sequence[Difference]:
        """Compare passages by their ids."""

    async def compare_next(
        self, collection: str, version: str, *, building: bool, cursor: str, deadline: float
    ) -> Comparison:
        """Compare the next passages of the live version, or of the version being built."""

    async def copy(
        self,
        version: str,
        differences: Sequence[Difference],
        vectors: Vectors,
        gone: Sequence[Difference],
        *,
        deadline: float,
    ) -> None:
        """Write differences to a version that is being built."""

    async def records(
        self, version: str, ids: Sequence[str], *, deadline: float
    ) -> Sequence[passage_pb2.PassageRecord]:
        """Read passages of a version with their vectors and revisions; those that do not exist are left out."""

    async def complete_version(self, version: str, *, deadline: float) -> None:
        """Record that a version is complete."""

    async def abandon_version(self, version: str, *, deadline: float) -> None:
        """End the building of a version."""

    async def switch(self, collection: str, version: str, *, deadline: float) -> Switched:
        """Make a version live; an empty name means the version that was live before."""
