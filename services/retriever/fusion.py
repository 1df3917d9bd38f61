"""One ranking out of those of several searches: a convex combination of their scores.

Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval" (2022): what a score says beyond its rank
is worth keeping, once the scores of different searches are on one scale. Here a score counts as a share of the best
that its search found, so that a passage that is the best for every search has 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

Id = TypeVar("Id", str, int)


class Found(NamedTuple, Generic[Id]):
    """What one search found."""

    scores: Sequence[tuple[Id, float]]
    """By id, best first; none is repeated."""
    weight: float
    """Above 0."""
    whole: bool
    """Whether it found less than it was asked for, so that what is missing has nothing of what was searched for."""


class Fused(NamedTuple, Generic[Id]):
    """An id with its score, 0 to 1."""

    id: Id
    score: float


def fuse(searches: Sequence[Found[Id]]) -> list[Fused[Id]]:
    """The mean of what the searches say of each id, by their weights; best first.

    Of an id that a search did not find it says what it says of its last, or nothing if it found all there is: asking
    for the very score would take another round trip, and gains nothing (docs/quality.md). Scores below 0 count as 0.
    Equal means go by id, so that every page is cut from the same order.
    """
    total = sum(search.weight for search in searches)
    means: dict[Id, float] = {}
    unseen = 0.0
    for search in searches:
        best = search.scores[0][1] if search.scores else 0.0
        share = search.weight / total / best if best > 0 else 0.0
        last = 0.0 if search.whole else share * max(search.scores[-1][1], 0.0)
        unseen += last
        for found, score in search.scores:
            means[found] = means.get(found, 0.0) + share * max(score, 0.0) - last
    return sorted((Fused(found, mean + unseen) for found, mean in means.items()), key=lambda one: (-one.score, one.id))
