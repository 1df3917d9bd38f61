"""Scores of passages for a query, by one cross-encoder that all callers share."""

from __future__ import annotations

from collections.abc import Sequence

from services.inference.models.tokenization import TokenizedPair
from services.inference.scheduling import Lane, SchedulerLimits, SchedulerObserver
from services.inference.served_model import Computed, ServedModel
from services.reranker.backends import CrossEncoderBackend

Scored = Computed[TokenizedPair, float]
"""Pairs as the model read them, and a logit for each: unbounded, higher is better."""


class Scorer(ServedModel[TokenizedPair, float]):
    """Scores passages with one cross-encoder. An async context manager."""

    def __init__(self, backend: CrossEncoderBackend, limits: SchedulerLimits, observer: SchedulerObserver) -> None:
        def compute(pairs: Sequence[TokenizedPair]) -> list[float]:
            scores: list[float] = backend.score(pairs).tolist()
            return scores

        super().__init__(
            backend,
            compute,
            lambda texts: backend.tokenize("warm up", texts),
            limits,
            observer,
            row_field="passages",
            text_tokens=backend.passage_tokens,
        )
        self._backend = backend

    @property
    def passage_tokens(self) -> int:
        """Most tokens of a passage that the model reads."""
        return self._backend.passage_tokens

    async def score(
        self,
        query: str,
        passages: Sequence[str],
        *,
        lane: Lane,
        caller: str,
        deadline: float | None,
        partial: bool = False,
    ) -> Scored:
        """Score passages, see `ServedModel.run`."""
        return await self.run(
            passages,
            lambda texts: self._backend.tokenize(query, texts),
            lane=lane,
            caller=caller,
            deadline=deadline,
            partial=partial,
        )
