"""Fusion of several rankings into one: a convex combination of their scores.

Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval" (2022): a score holds more than
its rank, once the scores of different searches are on one scale. Here a score counts as a share of the best one of its
search: a passage that is the best of every search has 1.

The mean depends on how deep the searches reach. So that all pages of a query are cut from one order, it is made in
blocks of fixed depths (`Order`): the places up to the first depth from all that was found down to it, the next ones
from all down to twice as deep, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

Id = TypeVar("Id", str, int)


class Found(NamedTuple, Generic[Id]):
    """The hits of one search."""

    scores: Sequence[tuple[Id, float]]
    """By id, best first, without duplicates."""
    weight: float
    """Above 0."""
    whole: bool
    """True if fewer hits than requested: missing ids score 0."""


class Fused(NamedTuple, Generic[Id]):
    """An id with its score, 0 to 1."""

    id: Id
    score: float


def fuse(searches: Sequence[Found[Id]], most: int | None = None) -> list[Fused[Id]]:
    """Return the weighted mean of each id's scores, best first; at most so many.

    An id that a search did not find has there the score of its last hit, or 0 if the search found all there is: asking
    for the true score would take another round trip, and gains nothing (docs/quality.md). Scores below 0 count as 0.
    Equal means are sorted by id, so every page is cut from the same order.
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
            means[found] = means.get(found, 0.0) + (share * score if score > 0 else 0.0) - last
    ranked = sorted([(-(mean + unseen), found) for found, mean in means.items()])
    return [Fused(found, -negative) for negative, found in ranked[:most]]


class Order(Generic[Id]):
    """One order of what searches find, made from the top in blocks; its beginning never changes."""

    def __init__(self) -> None:
        self._scores: dict[Id, float] = {}
        self._least = float("inf")

    def extend(self, block: Sequence[Fused[Id]], most: int | None) -> None:
        """Add what the next block brings, best first, up to this many in all; None adds all of it."""
        scores, least = self._scores, self._least
        for found, score in block:
            if most is not None and len(scores) >= most:
                break
            if found not in scores:
                # By a deeper block it may be worth more than what is before it; the order stays.
                least = min(least, score)
                scores[found] = least
        self._least = least

    def best(self, limit: int) -> list[Fused[Id]]:
        """Return the first ones."""
        return [Fused(found, score) for found, score in islice(self._scores.items(), limit)]

    def __len__(self) -> int:
        return len(self._scores)
