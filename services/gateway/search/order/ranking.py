"""Final order: a blend of the first stage's scores and those of a closer look.

Trusting the closer look alone throws away what the fusion knows. Both scores are standardized over the candidates that
were looked at, and the weighted sum decides. Candidates that were not looked at count as the worst that was, which
keeps them, in their own order, below everything that was.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Weights:
    """Weight of each kind of evidence. `GatewaySettings` has the defaults, tuned on train splits."""

    dense: float
    lexical: float
    late: float
    rerank: float


class Ranked(NamedTuple):
    """One candidate in the final order."""

    position: int
    """Position of the candidate in the order of the first stage, from 0."""
    score: float
    """Final score, higher is better, comparable within one answer."""


def blend(scores: Sequence[float], closer: Mapping[int, float], weight: float) -> list[float]:
    """Blend the scores of all candidates with those of a closer look at some, by position.

    `weight`, 0 to 1, is the share of the closer look. Without one the scores stay as they are.
    """
    if not closer:
        return list(scores)
    center, spread = _moments(scores[position] for position in closer)
    closer_center, closer_spread = _moments(closer.values())
    worst = min(closer.values())
    return [
        (1 - weight) * (score - center) / spread
        + weight * (closer.get(position, worst) - closer_center) / closer_spread
        for position, score in enumerate(scores)
    ]


def best_first(scores: Sequence[float], before: Sequence[float] = ()) -> list[Ranked]:
    """Order candidates by score; ties keep the order by the scores before, or else that of the first stage."""
    ties = before or [0.0] * len(scores)
    ranked = (Ranked(position, score) for position, score in enumerate(scores))
    return sorted(ranked, key=lambda item: (-item.score, -ties[item.position]))


def _moments(scores: Iterable[float]) -> tuple[float, float]:
    known = list(scores)
    # Equal scores carry no information: with any spread but zero their share is zero.
    return statistics.fmean(known), statistics.pstdev(known) or 1.0
