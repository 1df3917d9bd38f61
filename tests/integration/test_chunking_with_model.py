"""Cutting by the tokens of a real model: what it says fits must fit."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from services.embedder.backends import EmbeddingBackend, TextKind
from services.embedder.encoder import Encoder, TitledText
from services.inference.scheduling import SchedulerLimits, SchedulerObserver
from tests.integration.conftest import ODD_TEXTS


@pytest.fixture(scope="module")
def long_texts(mixed_texts: list[str]) -> list[TitledText]:
    """Whatever the tests embed, run together to texts of up to some 2,000 words, some with titles."""
    chance = random.Random(3)
    joined = [" ".join(chance.sample(mixed_texts, 20)) for _ in range(6)]
    together = ["".join(chance.sample(mixed_texts, 20)) for _ in range(4)]
    return [
        TitledText(chance.choice(["", "A title", "naïve café 東京", "long " * 100]), text)
        for text in [*joined, *together, *mixed_texts[:40], *ODD_TEXTS]
    ]


@pytest.mark.parametrize(("chunk_tokens", "overlap_tokens"), [(256, 32), (128, 0), (32, 15), (200, 99)])
async def test_chunks_fit_the_model_as_counted_cover_the_text_and_overlap_as_asked(
    embedder: EmbeddingBackend, long_texts: list[TitledText], chunk_tokens: int, overlap_tokens: int
) -> None:
    async with Encoder(embedder, SchedulerLimits(), SchedulerObserver()) as encoder:
        split = await encoder.split(long_texts, chunk_tokens=chunk_tokens, overlap_tokens=overlap_tokens)
    (special,) = embedder.tokenize([""], TextKind.DOCUMENT)
    for titled, chunks in zip(long_texts, split, strict=True):
        (title,) = embedder.tokenize([titled.title], TextKind.DOCUMENT)
        assert (chunks[0].start, chunks[-1].end) == (0, len(titled.text))
        for before, after in pairwise(chunks):
            assert before.start < after.start <= before.end < after.end
            (shared,) = embedder.tokenize([titled.text[after.start : before.end]], TextKind.DOCUMENT)
            assert shared.token_count - special.token_count <= overlap_tokens
        for chunk in chunks:
            part = TitledText(titled.title, titled.text[chunk.start : chunk.end])
            (read,) = embedder.tokenize([part.whole], TextKind.DOCUMENT)
            assert read.token_count == min(chunk.token_count, embedder.model.max_token_count)
            if title.token_count <= chunk_tokens / 2:
                assert read.token_count <= chunk_tokens
                assert not read.truncated


async def test_a_chunk_ends_with_a_sentence_where_there_is_one(embedder: EmbeddingBackend) -> None:
    text = "The ship left the harbour at noon. A storm came up. " * 40
    async with Encoder(embedder, SchedulerLimits(), SchedulerObserver()) as encoder:
        (chunks,) = await encoder.split([TitledText("", text)], chunk_tokens=64, overlap_tokens=16)
    for chunk in chunks:
        assert text[chunk.start : chunk.end].rstrip().endswith(".")
        assert text[chunk.start] in "TA"
