"""Documents to store, and the passages that are stored of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sluice.gateway.v1 import documents_pb2
from sluice.type.v1 import passage_pb2
from sluice_client.messages import MetadataValue, Received, Sent


@dataclass(frozen=True, slots=True)
class Relations(Sent, proto=passage_pb2.Relations):
    """Relations of a document to others, as it says itself, beside those that are found in its title and its text."""

    aliases: Sequence[str] = ()
    """Other names of what it is about."""
    mentions: Sequence[str] = ()
    """Names that it mentions."""
    links: Sequence[str] = ()
    """Ids of documents that it links to, or paths to them as seen from its own id."""


@dataclass(frozen=True, slots=True)
class Document(Sent, proto=documents_pb2.Document):
    """A document to store; one with the same id is replaced."""

    id: str
    """Unique in its collection, 1 to 512 bytes."""
    title: str = ""
    """Searched together with the text."""
    text: str = ""
    """May be empty only where the title says it all."""
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    """Values to filter on; they come back with the results."""
    relations: Relations | None = None


@dataclass(frozen=True, slots=True)
class Chunking(Sent, proto=documents_pb2.Chunking):
    """Lengths at which long documents are cut into chunks."""

    chunk_tokens: int = 0
    """Most tokens of a chunk, its title included: 32 up to the embedding model's window; 0 is the window."""
    overlap_tokens: int | None = None
    """Most tokens that a chunk shares with the one before, below half of a chunk; None is an eighth of a chunk."""


@dataclass(frozen=True, slots=True)
class Indexed(Received, proto=documents_pb2.IndexDocumentsResponse):
    """Outcome of a batch of documents: all of it is stored."""

    indexed_count: int
    truncated_ids: Sequence[str]
    """Documents of which the end did not fit the model's window: found by words whole, by vector in part."""
    index_version: str
    model: str
    passage_count: int = 0
    """Passages stored for them: more than documents where some were cut into chunks."""
    replaced_count: int = 0
    """Documents that replaced one of the same id."""


@dataclass(frozen=True, slots=True)
class Chunk(Received, proto=passage_pb2.Chunk):
    """Position of a passage in its document: characters `start` to `end`."""

    number: int
    """Its place among the document's chunks, from 1."""
    count: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Passage(Received, proto=passage_pb2.Passage):
    """A document, or a chunk of one, as it is stored."""

    id: str
    """The document's; of chunks beyond the first, that with "##" and the chunk's number."""
    document_id: str
    title: str
    text: str
    metadata: Mapping[str, MetadataValue]
    chunk: Chunk | None = None
    """None where it is the whole document."""
    relations: Relations | None = None
    """Relations that its document tells itself."""


@dataclass(frozen=True, slots=True)
class StoredDocument(Received, proto=documents_pb2.StoredDocument):
    """A document as it is stored."""

    document: Document
    """As it was given."""
    chunks: Sequence[Chunk]
    """Empty where it is stored whole."""


@dataclass(frozen=True, slots=True)
class FoundDocuments(Received, proto=documents_pb2.GetDocumentsResponse):
    """Documents that were asked for by id."""

    documents: Sequence[StoredDocument]
    """Those that exist, in the order of the request."""
    missing_ids: Sequence[str]
    """The ids that do not exist, in the order of the request."""
