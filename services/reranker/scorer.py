"""What the reranker is for: a query and passages in, scores out, whoever else is asking."""

from __future__ import annotations

import asyncio
import hashlib
import time
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from services.common.models.info import ModelInfo
from services.common.models.tokenization import TokenizedPair
from services.common.scheduling import Lane, Scheduler, SchedulerLimits, SchedulerObserver, Work
from services.reranker.backends import CrossEncoderBackend

TOKENIZER_THREADS = 2
_WARM_UP_WORDS = (4, 16, 50, 110, 220)


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores and what became of each passage, in the order of the passages."""

    scores: Sequence[float]
    """Logits: unbounded, higher is better."""
    pairs: Sequence[TokenizedPair]
    tokenize_seconds: float
    compute_seconds: float
    """Waiting for the model included."""


class Scorer:
    """Scores passages with one cross-encoder, through one scheduler. Use as an async context manager."""

    def __init__(
        self,
        backend: CrossEncoderBackend,
        limits: SchedulerLimits,
        observer: SchedulerObserver,
        died: asyncio.Event,
    ) -> None:
        self._backend = backend
        self._tokenizing = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenize")
        self._scheduler: Scheduler[TokenizedPair, float] = Scheduler(
            self._compute, limits, observer, on_death=lambda _error: died.set()
        )

    @property
    def model(self) -> ModelInfo:
        """The model that serves."""
        return self._backend.model

    @property
    def ready(self) -> bool:
        """Whether passages can be scored."""
        return self._scheduler.ready

    async def __aenter__(self) -> Self:
        await self._scheduler.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._scheduler.__aexit__(kind, error, trace)
        self._tokenizing.shutdown(wait=False)

    async def warm_up(self) -> None:
        """Runs the shapes that serve once, so that the first caller does not pay, and a rate is known."""
        for words in _WARM_UP_WORDS:
            passages = [f"{number} " + "word " * words for number in range(8)]
            await self.score("warm up", passages, lane=Lane.INTERACTIVE, caller="warm-up", deadline=None)

    async def score(
        self, query: str, passages: Sequence[str], *, lane: Lane, caller: str, deadline: float | None
    ) -> Scored:
        """Scores passages by a moment on the monotonic clock. Raises what the scheduler raises."""
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        works = await loop.run_in_executor(self._tokenizing, self._works, query, passages)
        tokenized = time.perf_counter()
        scores = await self._scheduler.submit(works, lane=lane, caller=caller, deadline=deadline)
        return Scored(
            scores=scores,
            pairs=[work.payload for work in works],
            tokenize_seconds=tokenized - started,
            compute_seconds=time.perf_counter() - tokenized,
        )

    def _works(self, query: str, passages: Sequence[str]) -> list[Work[TokenizedPair]]:
        fingerprint = self.model.fingerprint
        return [
            Work((fingerprint, _digest(pair)), pair, pair.token_count)
            for pair in self._backend.tokenize(query, passages)
        ]

    def _compute(self, pairs: Sequence[TokenizedPair]) -> list[float]:
        scores: list[float] = self._backend.score(pairs).tolist()
        return scores


def _digest(pair: TokenizedPair) -> bytes:
    # The model sees nothing but ids and types, so the same ids and types are the same score.
    digest = hashlib.blake2b(array("I", pair.ids).tobytes(), digest_size=16)
    digest.update(bytes(pair.type_ids))
    return digest.digest()
