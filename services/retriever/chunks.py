"""Documents that are stored in parts: which passages belong to one document, and which are left over from before.

Chunk 1 has the document's own id and says how many chunks there are; it is stored before the others and goes after
them. So a document never has a chunk that its first does not know of, and ids alone find them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.chassis.errors import InvalidArgument

MAX_CHUNKS = 100_000


@dataclass(frozen=True, slots=True)
class Chunk:
    """Which part of a document a passage is: the characters of its text from `start` up to `end`."""

    document_id: str
    number: int
    """From 1."""
    count: int
    start: int
    end: int


class Part(Protocol):
    """A passage, as far as it matters here."""

    @property
    def id(self) -> str:
        """Its own id."""

    @property
    def chunk(self) -> Chunk | None:
        """Which part of a document it is; None where it is a whole one."""


def chunk_id(document_id: str, number: int) -> str:
    """The id of a chunk of a document."""
    return document_id if number == 1 else f"{document_id}#{number}"


def document_id(part: Part) -> str:
    """The id of the document that a passage is, or is a part of."""
    return part.chunk.document_id if part.chunk else part.id


def check(parts: Sequence[Part]) -> None:
    """Raises InvalidArgument where a passage is no possible chunk, or has not the id of the chunk that it is."""
    for position, part in enumerate(parts):
        chunk = part.chunk
        if chunk is None:
            continue
        path = f"passages[{position}]"
        if not (2 <= chunk.count <= MAX_CHUNKS and 1 <= chunk.number <= chunk.count):
            raise InvalidArgument(
                f"{path}.chunk", f"is number {chunk.number} of {chunk.count}; send 1 to count of 2 to {MAX_CHUNKS}"
            )
        wanted = chunk_id(chunk.document_id, chunk.number)
        if part.id != wanted:
            raise InvalidArgument(f"{path}.id", f"must be {wanted!r} for this chunk")


def later_ids(document: str, first: Chunk | None, number: int = 1) -> list[str]:
    """The ids of a document's chunks after this number; `first` is its first chunk, if it has any."""
    last = first.count if first else 1
    return [chunk_id(document, later) for later in range(number + 1, last + 1)]


def outdated_ids(parts: Sequence[Part], known: Mapping[str, Chunk | None]) -> list[str]:
    """The ids of chunks that documents had and have no more, when these passages replace what is known of their ids.

    Raises InvalidArgument where an id is that of a part of another document.
    """
    outdated: list[str] = []
    for position, part in enumerate(parts):
        if part.id not in known:
            continue
        before = known[part.id]
        owner = before.document_id if before else part.id
        if owner != document_id(part):
            raise InvalidArgument(
                f"passages[{position}].id",
                f"is taken by a part of document {owner!r}; choose another id",
                reason="ID_TAKEN",
            )
        if part.id == owner:
            outdated += later_ids(owner, before, part.chunk.count if part.chunk else 1)
    return outdated
