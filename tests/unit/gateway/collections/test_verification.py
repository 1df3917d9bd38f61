from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from services.chassis.errors import FailedPrecondition
from services.gateway.collections.store import Sample, Sampled
from services.gateway.collections.verification import CheckKind, Verification
from services.gateway.search.stages import Candidate, Embedded, EmbeddedTokens, Retrieved, SearchVariant
from services.late.codes import encode
from sluice.type.v1 import collection_pb2, passage_pb2, tokens_pb2
from tests.unit.gateway.samples import embedded, model, passage


def vector(place: int) -> bytes:
    return array("f", [float(place == axis) for axis in range(8)]).tobytes()


def tokens_of(place: int) -> tokens_pb2.TokenVectors:
    """Some rows of a passage; a place beyond those of the passages has a row less."""
    vectors = np.random.default_rng(place).normal(size=(3 if place < 16 else 2, 96)).astype(np.float32)
    return tokens_pb2.TokenVectors(values=encode(vectors).tobytes(), row_count=len(vectors))


class Shelf:
    """Two versions of eight passages, and the embedder that made them; what is wrong with the second is told."""

    def __init__(
        self,
        *,
        missing: int = 0,
        wrong_vectors: bool = False,
        lost: int = 0,
        other_words: bool = False,
        wrong_tokens: int = 0,
        no_tokens: bool = False,
    ):
        self.stored = [passage(f"p{place}", "", f"word{place} and more") for place in range(8)]
        self.missing, self.wrong_vectors, self.lost, self.other_words = missing, wrong_vectors, lost, other_words
        self.wrong_tokens, self.no_tokens = wrong_tokens, no_tokens
        self.served = True
        self.counted = 0
        self.analyzers = dict.fromkeys(("docs", "docs-v1", "docs-v2"), "words-2 english")

    async def collection(self, name: str, *, deadline: float) -> collection_pb2.CollectionVersion:
        return collection_pb2.CollectionVersion(
            version="docs-v1" if name == "docs" else name,
            lexical_settings=f"{self.analyzers[name]}, k1 1.2",
            counted_passages=self.counted,
        )

    async def sample(self, collection: str, limit: int, *, deadline: float) -> Sample:
        sampled = [
            Sampled(passage, vector(place), None if self.no_tokens else tokens_of(place))
            for place, passage in enumerate(self.stored)
        ]
        return Sample(sampled[:limit], 8 - self.missing if collection == "docs-v2" else 8)

    async def passages_of(self, ids: Sequence[str]) -> AsyncIterator[passage_pb2.Passage]:
        for stored in self.stored:
            if stored.id in ids:
                yield stored

    def passages(self, collection: str, ids: Sequence[str], *, deadline: float) -> AsyncIterator[passage_pb2.Passage]:
        return self.passages_of(ids)

    async def search(self, collection: str, variants: Sequence[SearchVariant], **_: object) -> Retrieved:
        [variant] = variants
        axis = array("f", variant.vector).index(1.0) if variant.vector else int(variant.text[4])
        first = self.stored[axis]
        if collection == "docs-v2" and axis < self.lost and variant.vector:
            return Retrieved([Candidate(self.stored[7], 0.5)], collection)
        if collection == "docs-v2" and self.other_words and not variant.vector:
            first = self.stored[(axis + 1) % 8]
        return Retrieved([Candidate(first, 1.0), Candidate(self.stored[7], 0.0)][: 1 + (axis != 7)], collection)

    async def embed_documents(self, texts: Sequence[str], *, collection: str, deadline: float) -> Embedded:
        axes = [int(text[4]) for text in texts]
        vectors = [vector((axis + self.wrong_vectors) % 8) for axis in axes]
        return embedded(vectors, model("m@1"))

    async def embed_document_tokens(
        self, texts: Sequence[str], *, collection: str, deadline: float
    ) -> EmbeddedTokens | None:
        return EmbeddedTokens([tokens_of(int(text[4]) + self.wrong_tokens) for text in texts], model("c01b"))

    async def embed_queries(self, texts: Sequence[str], *, collection: str, deadline: float) -> Embedded:
        if not self.served:
            raise FailedPrecondition("nobody", reason="MODEL_MISMATCH")
        return await self.embed_documents(texts, collection=collection, deadline=deadline)


async def failed(shelf: Shelf) -> list[CheckKind]:
    verification = Verification(shelf, shelf, query_of=lambda passage: passage.text, pause_seconds=0.0)  # type: ignore[arg-type]
    checks = await verification.verify("docs", "docs-v2", deadline=0)
    assert [check.kind for check in checks] == list(CheckKind)
    return [check.kind for check in checks if not check.passed]


@pytest.mark.parametrize(
    ("shelf", "expected"),
    [
        (Shelf(), []),
        (Shelf(missing=1), [CheckKind.COUNT]),
        (Shelf(wrong_vectors=True), [CheckKind.SAMPLED_VECTORS]),
        (Shelf(wrong_tokens=8), [CheckKind.SAMPLED_TOKENS]),
        (Shelf(wrong_tokens=16), [CheckKind.SAMPLED_TOKENS]),
        (Shelf(no_tokens=True), [CheckKind.SAMPLED_TOKENS]),
        (Shelf(lost=2), [CheckKind.SELF_RETRIEVAL]),
        (Shelf(other_words=True), [CheckKind.OVERLAP]),
    ],
    ids=[
        "nothing",
        "a passage",
        "other vectors",
        "other token vectors",
        "fewer rows",
        "no token vectors",
        "some not found",
        "other words",
    ],
)
async def test_what_is_wrong_with_a_version_fails_its_check(shelf: Shelf, expected: list[CheckKind]) -> None:
    assert await failed(shelf) == expected


async def test_a_live_version_whose_model_is_gone_is_compared_by_words_alone() -> None:
    shelf = Shelf()
    shelf.served = False
    assert await failed(shelf) == []


async def test_a_version_of_another_analyzer_may_find_other_passages_by_words() -> None:
    shelf = Shelf(other_words=True)
    shelf.analyzers["docs"] = "english-1"
    assert await failed(shelf) == []


@pytest.mark.parametrize(("counted", "expected"), [(0, []), (5, []), (8, []), (9, [CheckKind.COUNT])])
async def test_a_version_with_fewer_passages_than_were_written_down_fails_though_it_is_the_live_one(
    counted: int, expected: list[CheckKind]
) -> None:
    shelf = Shelf()
    shelf.counted = counted
    assert await failed(shelf) == expected


@pytest.mark.parametrize(("counted", "said"), [(0, "no number is written down"), (8, "8 were written down")])
async def test_a_live_version_is_compared_with_what_was_written_down_and_not_with_itself(
    counted: int, said: str
) -> None:
    shelf = Shelf()
    shelf.counted = counted
    verification = Verification(shelf, shelf, query_of=lambda passage: passage.text, pause_seconds=0.0)  # type: ignore[arg-type]
    checks = await verification.verify("docs", "docs-v1", deadline=0)
    assert CheckKind.OVERLAP not in {check.kind for check in checks}
    assert said in checks[0].detail
    assert "live version" not in checks[0].detail
