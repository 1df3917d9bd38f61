"""Token vectors of texts, by one late interaction model that all callers share."""

from __future__ import annotations

from collections.abc import Sequence

from services.embedder.backends import TextKind
from services.embedder.token_backends import TokenBackend
from services.inference.models.tokenization import LateText
from services.inference.scheduling import Lane, SchedulerLimits, SchedulerObserver
from services.inference.served_model import Computed, ServedModel

EncodedTokens = Computed[LateText, bytes]
"""Texts as the model read them, and the rows of bytes of each, one after the other."""


class TokenEncoder(ServedModel[LateText, bytes]):
    """Makes token vectors with one model. An async context manager."""

    def __init__(self, backend: TokenBackend, limits: SchedulerLimits, observer: SchedulerObserver) -> None:
        def compute(texts: Sequence[LateText]) -> list[bytes]:
            return [codes.tobytes() for codes in backend.embed(texts)]

        super().__init__(
            backend,
            compute,
            lambda texts: backend.tokenize(texts, TextKind.DOCUMENT),
            limits,
            observer,
            row_field="texts",
        )
        self._backend = backend

    async def encode(
        self, texts: Sequence[str], kind: TextKind, *, lane: Lane, caller: str, deadline: float | None
    ) -> EncodedTokens:
        """Make the token vectors of texts, see `ServedModel.run`."""
        return await self.run(
            texts,
            lambda texts: self._backend.tokenize(texts, kind),
            lane=lane,
            caller=caller,
            deadline=deadline,
        )
