"""What the embedder is for: texts in, vectors out, whoever else is asking."""

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
from services.common.models.tokenization import TokenizedText
from services.common.scheduling import Lane, Scheduler, SchedulerLimits, SchedulerObserver, Work
from services.embedder.backends import EmbeddingBackend, TextKind

TOKENIZER_THREADS = 2
_WARM_UP_WORDS = (1, 8, 24, 60, 120, 240)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors and what became of each text, in the order of the texts."""

    vectors: bytes
    """Row-major little-endian float32, one row a text."""
    texts: Sequence[TokenizedText]
    tokenize_seconds: float
    compute_seconds: float
    """Waiting for the model included."""


class Encoder:
    """Embeds texts with one model, through one scheduler. Use as an async context manager."""

    def __init__(
        self,
        backend: EmbeddingBackend,
        limits: SchedulerLimits,
        observer: SchedulerObserver,
        died: asyncio.Event,
    ) -> None:
        self._backend = backend
        self._tokenizing = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenize")
        self._scheduler: Scheduler[TokenizedText, bytes] = Scheduler(
            self._compute, limits, observer, on_death=lambda _error: died.set()
        )

    @property
    def model(self) -> ModelInfo:
        """The model that serves."""
        return self._backend.model

    @property
    def ready(self) -> bool:
        """Whether texts can be embedded."""
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
            texts = [f"warm up {number} " + "word " * words for number in range(8)]
            for _ in range(2):
                await self.encode(texts, TextKind.DOCUMENT, lane=Lane.INTERACTIVE, caller="warm-up", deadline=None)

    async def encode(
        self, texts: Sequence[str], kind: TextKind, *, lane: Lane, caller: str, deadline: float | None
    ) -> Encoded:
        """Embeds texts by a moment on the monotonic clock. Raises what the scheduler raises."""
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        works = await loop.run_in_executor(self._tokenizing, self._works, texts, kind)
        tokenized = time.perf_counter()
        rows = await self._scheduler.submit(works, lane=lane, caller=caller, deadline=deadline)
        return Encoded(
            vectors=b"".join(rows),
            texts=[work.payload for work in works],
            tokenize_seconds=tokenized - started,
            compute_seconds=time.perf_counter() - tokenized,
        )

    def _works(self, texts: Sequence[str], kind: TextKind) -> list[Work[TokenizedText]]:
        fingerprint = self.model.fingerprint
        return [
            Work((fingerprint, _digest(text.ids)), text, text.token_count)
            for text in self._backend.tokenize(texts, kind)
        ]

    def _compute(self, texts: Sequence[TokenizedText]) -> list[bytes]:
        return [row.astype("<f4", copy=False).tobytes() for row in self._backend.embed(texts)]


def _digest(ids: Sequence[int]) -> bytes:
    # The model sees nothing but the ids, so the same ids are the same vector.
    return hashlib.blake2b(array("I", ids).tobytes(), digest_size=16).digest()
