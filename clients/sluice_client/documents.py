"""What is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

MetadataValue: TypeAlias = str | int | float | bool | list[str]
"""The first value that is stored for a field fixes the type of that field in its collection."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document to store; one with the same id is replaced."""

    id: str
    """Unique in its collection, 1 to 512 bytes."""
    title: str = ""
    """Searched together with the text."""
    text: str = ""
    """May be empty only where the title says it all."""
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    """To filter on, and to get back with the results."""


@dataclass(frozen=True, slots=True)
class Chunking:
    """How documents that are too long for one vector are cut. What fits into one chunk is stored whole."""

    chunk_tokens: int = 0
    """Most tokens of a chunk, by the embedding model's tokenizer, the title that goes with it included: 32 up to the
    model's window; 0 is the window."""
    overlap_tokens: int | None = None
    """Most tokens that a chunk shares with the one before, below half of a chunk; None is an eighth of a chunk."""


@dataclass(frozen=True, slots=True)
class Indexed:
    """What became of a batch of documents: all of it is stored, durably."""

    count: int
    truncated_ids: Sequence[str]
    """Documents whose end did not fit the model's window: found by words whole, by vector in part."""
    index_version: str
    model: str
    passage_count: int = 0
    """Passages stored for them: more than documents where some were cut into chunks."""
