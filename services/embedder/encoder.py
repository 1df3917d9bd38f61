"""What the embedder is for: texts in, vectors out, whoever else is asking."""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

from services.common.inference import Computed, Inference, least_tokens
from services.common.models.info import ModelInfo
from services.common.models.tokenization import TokenizedText
from services.common.scheduling import Lane, SchedulerLimits, SchedulerObserver
from services.embedder.backends import EmbeddingBackend, TextKind

_WARM_UP_WORDS = (1, 8, 24, 60, 120, 240)

Encoded = Computed[TokenizedText, bytes]
"""Texts as the model read them, and a vector for each: its float32 values, little-endian."""


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


def _key(text: TokenizedText) -> bytes:
    # The model sees nothing but the ids, so the same ids are the same vector.
    return hashlib.blake2b(array("I", text.ids).tobytes(), digest_size=16).digest()
