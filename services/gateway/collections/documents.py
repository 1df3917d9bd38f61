"""Documents as callers give them, and the passages that they are stored as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from services.chassis.validation import chunk_id
from sluice.gateway.v1 import documents_pb2
from sluice.type.v1 import passage_pb2


@dataclass(frozen=True, slots=True)
class Chunking:
    """Lengths of chunks, in tokens."""

    chunk_tokens: int
    """Most tokens of a chunk; 0 is the window of the model."""
    overlap_tokens: int | None
    """Most tokens shared with the chunk before; None leaves it to the embedder."""

    @classmethod
    def from_proto(cls, message: documents_pb2.Chunking) -> Self:
        """Read the lengths."""
        return cls(message.chunk_tokens, message.overlap_tokens if message.HasField("overlap_tokens") else None)


def to_passage(document: documents_pb2.Document) -> passage_pb2.Passage:
    """Make the passage that stands for a whole document."""
    return passage_pb2.Passage(
        id=document.id,
        document_id=document.id,
        title=document.title,
        text=document.text,
        metadata=document.metadata,
        relations=document.relations if document.HasField("relations") else None,
    )


def cut(document: passage_pb2.Passage, ranges: Sequence[tuple[int, int]]) -> list[passage_pb2.Passage]:
    """Cut a document at ranges of its characters; one range leaves it whole."""
    if len(ranges) == 1:
        return [document]
    return [
        passage_pb2.Passage(
            id=chunk_id(document.id, number),
            document_id=document.id,
            title=document.title,
            text=document.text[start:end],
            metadata=document.metadata,
            chunk=passage_pb2.Chunk(number=number, count=len(ranges), start=start, end=end),
            relations=document.relations if document.HasField("relations") else None,
        )
        for number, (start, end) in enumerate(ranges, start=1)
    ]


def from_stored(passage: passage_pb2.Passage, chunks: Sequence[passage_pb2.Chunk]) -> documents_pb2.StoredDocument:
    """Make the answer's document from the passage that holds it whole, and its chunks."""
    return documents_pb2.StoredDocument(
        document=documents_pb2.Document(
            id=passage.document_id,
            title=passage.title,
            text=passage.text,
            metadata=passage.metadata,
            relations=passage.relations if passage.HasField("relations") else None,
        ),
        chunks=chunks,
    )
