from __future__ import annotations

from collections.abc import Sequence

import pytest

from services.common.errors import AlreadyExists, InvalidArgument, NotFound
from services.gateway.indexing import Indexing
from services.gateway.stages import Embedded, Passage, Upserted


class Shelf:
    """Embedder and store in one, in memory."""

    def __init__(self, *, exists: bool = True, taken_meanwhile: bool = False) -> None:
        self.exists = exists
        self.taken_meanwhile = taken_meanwhile
        self.stored: dict[str, bytes] = {}
        self.embedded = 0

    async def embed_documents(self, texts: Sequence[str], *, deadline: float) -> Embedded:
        self.embedded += len(texts)
        vectors = [text.encode() for text in texts]
        return Embedded(vectors, "mini", "f00d", 4, "fp32", False, [len(text) > 20 for text in texts])

    async def create_collection(self, collection: str, embedded: Embedded, *, deadline: float) -> None:
        self.exists = True
        if self.taken_meanwhile:
            raise AlreadyExists("taken")

    async def upsert(
        self,
        collection: str,
        passages: Sequence[Passage],
        vectors: Sequence[bytes],
        *,
        model_fingerprint: str,
        deadline: float,
    ) -> Upserted:
        if not self.exists:
            raise NotFound("no such collection")
        self.stored |= {passage.id: vector for passage, vector in zip(passages, vectors, strict=True)}
        return Upserted(len(passages), "docs-v1")


def documents(*ids: str) -> list[Passage]:
    return [Passage(identity, "", f"text of {identity}", {}) for identity in ids]


@pytest.mark.parametrize("taken_meanwhile", [False, True])
async def test_the_first_documents_create_the_collection(taken_meanwhile: bool) -> None:
    shelf = Shelf(exists=False, taken_meanwhile=taken_meanwhile)
    indexed = await Indexing(shelf, shelf).index("docs", documents("a", "b"), deadline=0)
    assert (indexed.count, set(shelf.stored)) == (2, {"a", "b"})


async def test_documents_that_did_not_fit_the_model_are_named() -> None:
    shelf = Shelf()
    indexed = await Indexing(shelf, shelf).index("docs", documents("a", "a-rather-long-id"), deadline=0)
    assert indexed.truncated_ids == ["a-rather-long-id"]


@pytest.mark.parametrize(
    ("batch", "field"),
    [
        (documents("a", ""), r"documents\[1\]\.id"),
        (documents("a", "b", "a"), r"documents\[2\]\.id.*documents\[0\]"),
        ([Passage("a", " ", "\n", {})], r"documents\[0\]\.text"),
    ],
    ids=["no id", "the same id twice", "nothing to search for"],
)
async def test_a_bad_document_is_named_and_nothing_is_computed_or_stored(batch: list[Passage], field: str) -> None:
    shelf = Shelf()
    with pytest.raises(InvalidArgument, match=field):
        await Indexing(shelf, shelf).index("docs", batch, deadline=0)
    assert (shelf.embedded, shelf.stored) == (0, {})
