"""Vectors and chunks of texts, by one embedding model that all callers share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from services.embedder.backends import EmbeddingBackend, TextKind
from services.embedder.chunking import Chunk, cut
from services.inference.engine import Engine
from services.inference.models.tokenization import TokenizedText
from services.inference.scheduling import Compute, Lane, SchedulerLimits, SchedulerObserver
from services.inference.served_model import Computed, Row, ServedModel

# Longer than any window: texts beyond it are cut without asking the tokenizer if they fit.
_BEYOND_ANY_WINDOW = 16_384

RowT = TypeVar("RowT", bound=Row)
Tokenized_co = TypeVar("Tokenized_co", bound=Row, covariant=True)


class TextBackend(Engine, Protocol[Tokenized_co]):
    """A loaded model of texts that have a role."""

    def tokenize(self, texts: Sequence[str], kind: TextKind) -> Sequence[Tokenized_co]:
        """Tokens of each text as the model reads them, cut to its window."""


class TextEncoder(ServedModel[RowT, bytes]):
    """Turns texts into bytes with one model. An async context manager."""

    def __init__(
        self,
        backend: TextBackend[RowT],
        compute: Compute[RowT, bytes],
        limits: SchedulerLimits,
        observer: SchedulerObserver,
    ) -> None:
        super().__init__(
            backend,
            compute,
            lambda texts: backend.tokenize(texts, TextKind.DOCUMENT),
            limits,
            observer,
            row_field="texts",
        )
        self._tokenize = backend.tokenize

    async def encode(
        self, texts: Sequence[str], kind: TextKind, *, lane: Lane, caller: str, deadline: float | None
    ) -> Computed[RowT, bytes]:
        """Return texts as the model read them, and the bytes of each; see `ServedModel.run`."""
        return await self.run(
            texts, lambda texts: self._tokenize(texts, kind), lane=lane, caller=caller, deadline=deadline
        )


@dataclass(frozen=True, slots=True)
class TitledText:
    """A text and its title, which is embedded on a line before each of its chunks."""

    title: str
    text: str

    @property
    def whole(self) -> str:
        """Title and text together."""
        return f"{self.title}\n{self.text}" if self.title else self.text


class Encoder(TextEncoder[TokenizedText]):
    """Makes a vector of each text, little-endian float32 values, and cuts texts. An async context manager."""

    def __init__(self, backend: EmbeddingBackend, limits: SchedulerLimits, observer: SchedulerObserver) -> None:
        def compute(texts: Sequence[TokenizedText]) -> list[bytes]:
            return [row.astype("<f4", copy=False).tobytes() for row in backend.embed(texts)]

        super().__init__(backend, compute, limits, observer)
        self._backend = backend

    async def split(self, texts: Sequence[TitledText], *, chunk_tokens: int, overlap_tokens: int) -> list[list[Chunk]]:
        """Cut each text into chunks of at most `chunk_tokens`, title and special tokens included.

        A title that is longer than half a chunk still leaves the text half a chunk; the chunks are then longer.
        """
        return await asyncio.to_thread(lambda: [self._cut(text, chunk_tokens, overlap_tokens) for text in texts])

    def _cut(self, text: TitledText, chunk_tokens: int, overlap_tokens: int) -> list[Chunk]:
        if len(text.whole) <= _BEYOND_ANY_WINDOW:
            (row,) = self._backend.tokenize([text.whole], TextKind.DOCUMENT)
            if not row.truncated and row.token_count <= chunk_tokens:
                return [Chunk(0, len(text.text), row.token_count)]
        empty, title = self._backend.tokenize(["", text.title[:_BEYOND_ANY_WINDOW]], TextKind.DOCUMENT)
        room = max(chunk_tokens - title.token_count, (chunk_tokens - empty.token_count) // 2)
        chunks = cut(
            text.text,
            self._backend.words(text.text),
            room=room,
            overlap=overlap_tokens,
            count=self._backend.count,
            lead="\n" if text.title else "",
        )
        return [replace(chunk, token_count=title.token_count + chunk.token_count) for chunk in chunks]
