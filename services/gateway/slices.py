"""Slices of batches, so that every message between stages has room for its slice; and texts cut for a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from services.chassis.validation import MAX_TEXT_BYTES

SLICE_BYTES = 4 * 2**20
"""Bytes of a slice of more than one item."""
# Bytes of text for each token of a model's window: several times as many as tokens have in any script.
_BYTES_A_TOKEN = 32


def slices(sizes: Sequence[int], *, most: int) -> Iterator[slice]:
    """Divide items of these sizes, in bytes, into slices of at most `most` items; an item may be larger than one."""
    start = filled = 0
    for place, size in enumerate(sizes):
        if place > start and (place - start == most or filled + size > SLICE_BYTES):
            yield slice(start, place)
            start, filled = place, 0
        filled += size
    if start < len(sizes):
        yield slice(start, len(sizes))


def room_of(window: int) -> int:
    """Bytes of a text that a model with a window of this many tokens may need to fill it."""
    return min(MAX_TEXT_BYTES, window * _BYTES_A_TOKEN)


def fitted(text: str, most_bytes: int) -> str:
    """Cut a text at its end to this many bytes. Blanks at its start go first."""
    if len(text) * 4 <= most_bytes or len(text.encode()) <= most_bytes:
        return text
    return text.lstrip().encode()[:most_bytes].decode(errors="ignore")
