"""Reduction to one result a document, where several of its chunks were found."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

ItemT = TypeVar("ItemT")


def best_of_each(ranked: Iterable[ItemT], group_of: Callable[[ItemT], Hashable]) -> list[ItemT]:
    """Keep the first, in a ranking the best, of every group."""
    best: dict[Hashable, ItemT] = {}
    for item in ranked:
        best.setdefault(group_of(item), item)
    return list(best.values())
