"""What the embedder is for: texts in, vectors out, whoever else is asking."""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Self

from services.embedder.backends import EmbeddingBackend, TextKind
from services.embedder.chunking import Chunk, cut
from services.inference.models.info import ModelInfo
from services.inference.models.tokenization import TokenizedText
from services.inference.passes import Computed, Inference, least_tokens
from services.inference.scheduling import Lane, SchedulerLimits, SchedulerObserver

_WARM_UP_WORDS = (1, 8, 24, 60, 120, 240)
# Far more than any window holds: what comes after it in a title or a text is not looked at to see whether it fits.
_BEYOND_ANY_WINDOW = 16_384

Encoded = Computed[TokenizedText, bytes]
"""Texts as the model read them, and a vector for each: its float32 values, little-endian."""


@dataclass(frozen=True, slots=True)
class TitledText:
    """A text, and what stands on a line before each of its chunks when they are embedded."""

    title: str
    text: str

    @property
    def reading(self) -> str:
        """Both together."""
        return f"{self.title}\n{self.text}" if self.title else self.text


class Encoder:
    """Embeds texts with one model."""

    def __init__(
        self, backend: EmbeddingBackend, inference: Inference[TokenizedText, bytes], limits: SchedulerLimits
    ) -> None:
        """Use `open`."""
        self._backend = backend
        self._limits = limits
        self.inference = inference

    @classmethod
    @asynccontextmanager
    async def open(
        cls, backend: EmbeddingBackend, limits: SchedulerLimits, observer: SchedulerObserver
    ) -> AsyncIterator[Self]:
        """An encoder that works until the context is left."""

        def compute(texts: Sequence[TokenizedText]) -> list[bytes]:
            return [row.astype("<f4", copy=False).tobytes() for row in backend.embed(texts)]

        async with Inference(compute, _key, backend.width, limits, observer) as inference:
            yield cls(backend, inference, limits)

    @property
    def model(self) -> ModelInfo:
        """The model that serves."""
        return self._backend.model

    async def warm_up(self) -> None:
        """Runs the shapes that serve once, so that the first caller does not pay, and a rate is known."""
        await asyncio.to_thread(self._backend.warm_up, self._limits.batch_tokens)
        for words in _WARM_UP_WORDS:
            texts = [f"warm up {number} " + "word " * words for number in range(8)]
            await self.encode(texts, TextKind.DOCUMENT, lane=Lane.INTERACTIVE, caller="warm-up", deadline=None)

    async def encode(
        self, texts: Sequence[str], kind: TextKind, *, lane: Lane, caller: str, deadline: float | None
    ) -> Encoded:
        """Embeds texts by a moment on the monotonic clock. Raises what `Scheduler.submit` raises."""
        return await self.inference.run(
            lambda: self._backend.tokenize(texts, kind),
            least_tokens=least_tokens(texts, self.model.max_token_count),
            lane=lane,
            caller=caller,
            deadline=deadline,
        )

    async def split(self, texts: Sequence[TitledText], *, chunk_tokens: int, overlap_tokens: int) -> list[list[Chunk]]:
        """Cuts each text into chunks of at most `chunk_tokens`, title and special tokens included.

        A title longer than half a chunk leaves the text half a chunk all the same; then they are longer together.
        """
        return await asyncio.to_thread(lambda: [self._cut(text, chunk_tokens, overlap_tokens) for text in texts])

    def _cut(self, text: TitledText, chunk_tokens: int, overlap_tokens: int) -> list[Chunk]:
        if len(text.reading) <= _BEYOND_ANY_WINDOW:
            (whole,) = self._backend.tokenize([text.reading], TextKind.DOCUMENT)
            if not whole.truncated and whole.token_count <= chunk_tokens:
                return [Chunk(0, len(text.text), whole.token_count)]
        empty, title = self._backend.tokenize(["", text.title[:_BEYOND_ANY_WINDOW]], TextKind.DOCUMENT)
        room = max(chunk_tokens - title.token_count, (chunk_tokens - empty.token_count) // 2)
        chunks = cut(text.text, self._backend.words(text.text), room=room, overlap=overlap_tokens)
        return [replace(chunk, token_count=title.token_count + chunk.token_count) for chunk in chunks]


def _key(text: TokenizedText) -> bytes:
    # The model sees nothing but the ids, so the same ids are the same vector.
    return hashlib.blake2b(array("I", text.ids).tobytes(), digest_size=16).digest()
