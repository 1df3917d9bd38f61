"""Final order: a blend of the first stage's scores and the cross-encoder's.

Trusting the cross-encoder alone throws away what the fusion knows. Both scores are standardized over the candidates
that were read, and the weighted sum decides. Candidates that were not read count as the worst that was, which keeps
them, in their own order, below everything that was read.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Ranked(NamedTuple):
    """One candidate in the final order."""

    position: int
    """Position of the candidate in the order of the first stage, from 0."""
    score: float
    """Final score, higher is better, comparable within one answer."""
    rerank_score: float | None
    """The cross-encoder's logit; None where it did not read the candidate."""


def blend(retrieval: Sequence[float], rerank: Sequence[float], rerank_weight: float) -> list[Ranked]:
    """Order candidates, the best first.

    `retrieval` holds the first stage's scores in descending order; `rerank` the cross-encoder's for the head of that
    list, possibly none. `rerank_weight`, 0 to 1, is the share of the cross-encoder. Ties keep the first stage's order.
    """
    if not rerank:
        return [Ranked(position, score, None) for position, score in enumerate(retrieval)]
    head = len(rerank)
    center, spread = _moments(retrieval[:head])
    rerank_center, rerank_spread = _moments(rerank)
    worst = min(rerank)

    def ranked(position: int) -> Ranked:
        own = rerank[position] if position < head else None
        read = (worst if own is None else own) - rerank_center
        score = (1 - rerank_weight) * (retrieval[position] - center) / spread + rerank_weight * read / rerank_spread
        return Ranked(position, score, own)

    return sorted((ranked(position) for position in range(len(retrieval))), key=lambda item: -item.score)


def _moments(scores: Sequence[float]) -> tuple[float, float]:
    # Equal scores carry no information: with any spread but zero their share is zero.
    return statistics.fmean(scores), statistics.pstdev(scores) or 1.0
