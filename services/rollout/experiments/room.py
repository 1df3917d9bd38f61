"""Room in a layer: the buckets that its running experiments leave free. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from services.chassis.errors import ResourceExhausted
from services.experiment.bucketing import BUCKETS

Range = tuple[int, int]
"""First bucket, and number of buckets."""


def free_ranges(taken: Iterable[Range]) -> list[Range]:
    """The ranges of buckets that are free, in their order."""
    free, start = [], 0
    for first, count in sorted(taken):
        if first > start:
            free.append((start, first - start))
        start = max(start, first + count)
    return [*free, (start, BUCKETS - start)] if start < BUCKETS else free


def first_fit(layer: str, taken: Iterable[Range], count: int) -> int:
    """The first bucket of the first free range that is large enough.

    Raises ResourceExhausted, reason LAYER_FULL, naming what is free.
    """
    free = free_ranges(taken)
    found = next((first for first, size in free if size >= count), None)
    if found is not None:
        return found
    largest, total = max((size for _, size in free), default=0), sum(size for _, size in free)
    apart = f", the largest free range {_percent(largest)}" if largest < total else ""
    raise ResourceExhausted(
        f"layer {layer!r} has {_percent(total)} of the users free{apart}, and {_percent(count)} are asked for: take a "
        "smaller share or another layer, or wait until an experiment of this layer ends",
        reason="LAYER_FULL",
        layer=layer,
        free_ppm=str(total),
        largest_free_ppm=str(largest),
    )


def _percent(buckets: int) -> str:
    return f"{buckets * 100 / BUCKETS:.4g} %"
