"""What the reranker is for: a query and passages in, scores out, whoever else is asking."""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

from services.inference.models.info import ModelInfo
from services.inference.models.tokenization import TokenizedPair
from services.inference.passes import Computed, Inference, least_tokens
from services.inference.scheduling import Lane, SchedulerLimits, SchedulerObserver
from services.reranker.backends import CrossEncoderBackend

_WARM_UP_WORDS = (4, 16, 50, 110, 220)

Scored = Computed[TokenizedPair, float]
"""Pairs as the model read them, and a logit for each: unbounded, higher is better."""


class Scorer:
    """Scores passages with one cross-encoder."""

    def __init__(
        self, backend: CrossEncoderBackend, inference: Inference[TokenizedPair, float], limits: SchedulerLimits
    ) -> None:
        """Use `open`."""
        self._backend = backend
        self._limits = limits
        self.inference = inference

    @classmethod
    @asynccontextmanager
    async def open(
        cls, backend: CrossEncoderBackend, limits: SchedulerLimits, observer: SchedulerObserver
    ) -> AsyncIterator[Self]:
        """A scorer that works until the context is left."""

        def compute(pairs: Sequence[TokenizedPair]) -> list[float]:
            scores: list[float] = backend.score(pairs).tolist()
            return scores

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
            passages = [f"{number} " + "word " * words for number in range(8)]
            await self.score("warm up", passages, lane=Lane.INTERACTIVE, caller="warm-up", deadline=None)

    async def score(
        self, query: str, passages: Sequence[str], *, lane: Lane, caller: str, deadline: float | None
    ) -> Scored:
        """Scores passages by a moment on the monotonic clock. Raises what `Scheduler.submit` raises."""
        return await self.inference.run(
            lambda: self._backend.tokenize(query, passages),
            least_tokens=least_tokens(passages, self.model.max_token_count),
            lane=lane,
            caller=caller,
            deadline=deadline,
        )


def _key(pair: TokenizedPair) -> bytes:
    # The model sees nothing but ids and types, so the same ids and types are the same score.
    digest = hashlib.blake2b(array("I", pair.ids).tobytes(), digest_size=16)
    digest.update(bytes(pair.type_ids))
    return digest.digest()
