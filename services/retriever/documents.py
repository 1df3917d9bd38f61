"""Documents as they are stored: each is one passage, or several that are its chunks.

Chunk 1 has the document's own id and holds the number of chunks; it is stored before the others and goes after them. So
a document never has a chunk that its first does not know of, and ids alone find them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from services.chassis.errors import FailedPrecondition, InvalidArgument
from services.chassis.validation import check_content, check_document_id, chunk_id
from services.late.codes import Codes
from services.retriever.fields import Value, set_value, value_from_proto
from sluice.type.v1 import passage_pb2 as pb
from sluice.type.v1.tokens_pb2 import TokenVectors

Vector = npt.NDArray[np.float32]

Owners = Sequence[tuple[str, str]]
"""Metadata by which a document is known to be of a party: fields with their values, all of which it must have."""

MAX_CHUNKS = 100_000
MAX_TOKEN_ROWS = 1024
MAX_NAMES, MAX_NAME_BYTES = 256, 1024
"""Names, or links, of one kind that a document gives, and the longest of them."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Position of a passage within its document: the characters from `start` up to `end`."""

    number: int
    """From 1."""
    count: int
    start: int
    end: int

    def to_proto(self) -> pb.Chunk:
        """Write the position."""
        return pb.Chunk(number=self.number, count=self.count, start=self.start, end=self.end)


@dataclass(frozen=True, slots=True)
class Relations:
    """Relations of a document as it says itself, beside those that are found in its text."""

    aliases: Sequence[str] = ()
    """Other names of what it is about."""
    mentions: Sequence[str] = ()
    """Names that it mentions."""
    links: Sequence[str] = ()
    """Ids of documents that it links to, or paths as seen from its own id."""

    @classmethod
    def of(cls, aliases: Iterable[str], mentions: Iterable[str], links: Iterable[str]) -> Relations:
        """Return the relations as they are stored, equal to those that were given."""
        return cls(tuple(aliases), tuple(mentions), tuple(links))

    def __bool__(self) -> bool:
        return bool(self.aliases or self.mentions or self.links)

    @classmethod
    def from_proto(cls, message: pb.Relations, path: str) -> Relations:
        """Read what a document says; InvalidArgument where it is too much."""
        said = cls.of(message.aliases, message.mentions, message.links)
        for name, values in (("aliases", said.aliases), ("mentions", said.mentions), ("links", said.links)):
            if len(values) > MAX_NAMES:
                raise InvalidArgument(f"{path}.{name}", f"has {len(values)} entries; send at most {MAX_NAMES}")
            for place, value in enumerate(values):
                if not 0 < len(value.encode()) <= MAX_NAME_BYTES:
                    raise InvalidArgument(
                        f"{path}.{name}[{place}]", f"is not of 1 to {MAX_NAME_BYTES} bytes; shorten it, or leave it out"
                    )
        return said

    def to_proto(self) -> pb.Relations:
        """Write what the document says."""
        return pb.Relations(aliases=self.aliases, mentions=self.mentions, links=self.links)


NO_RELATIONS = Relations()


@dataclass(frozen=True, slots=True)
class Passage:
    """A document, or a chunk of one, as it is stored and found."""

    id: str
    text: str = ""
    title: str = ""
    metadata: Mapping[str, Value] = field(default_factory=dict)
    vector: Vector | None = None
    """Required for storing; read back only on request."""
    chunk: Chunk | None = None
    """None where the passage is a whole document."""
    tokens: Codes | None = None
    """Vectors of its tokens, where the version has a token model; read back only on request."""
    relations: Relations = NO_RELATIONS

    @property
    def document_id(self) -> str:
        """Id of the document; the same as `id` but for chunks beyond the first."""
        if self.chunk is None or self.chunk.number == 1:
            return self.id
        return self.id.removesuffix(f"##{self.chunk.number}")

    @property
    def size(self) -> int:
        """Bytes of title, text and metadata."""
        size = _length(self.title) + _length(self.text)
        if said := self.relations:
            size += sum(map(len, (*said.aliases, *said.mentions, *said.links)))
        for name, value in self.metadata.items():  # a loop, as it runs for every passage of every answer
            size += len(name) + _size(value)
        return size

    @property
    def vectors_size(self) -> int:
        """Bytes of its vectors, as far as they were read."""
        return sum(numbers.nbytes for numbers in (self.vector, self.tokens) if numbers is not None)

    @property
    def chunk_ids(self) -> list[str]:
        """Ids of all passages of the document, of which this is the first."""
        return later_ids(self, 0)

    @classmethod
    def from_proto(
        cls, message: pb.Passage, path: str, vector: bytes = b"", tokens: TokenVectors | None = None
    ) -> Passage:
        """Read a passage; `path` is its place in the request, for errors. Without an id, it has that of its chunk."""
        check_content(path, message.title, message.text, message.metadata)
        passage = cls(
            message.id or chunk_id(message.document_id, message.chunk.number or 1),
            message.text,
            message.title,
            {name: value_from_proto(value, f"{path}.metadata.{name}") for name, value in message.metadata.items()},
            vector_from_bytes(vector, f"{path}.vector"),
            _chunk(message.chunk) if message.HasField("chunk") else None,
            None if tokens is None else tokens_from_proto(tokens, f"{path}.tokens"),
            Relations.from_proto(message.relations, f"{path}.relations")
            if message.HasField("relations")
            else NO_RELATIONS,
        )
        if message.document_id not in ("", passage.document_id):
            raise InvalidArgument(
                f"{path}.id", "must be that of the document; of chunks beyond the first, with ## and the chunk's number"
            )
        return passage

    def is_of(self, owners: Owners) -> bool:
        """True if its metadata have the value of each field."""
        return all(value in _texts(self.metadata.get(name)) for name, value in owners)

    def to_proto(self) -> pb.Passage:
        """Write the passage, without its vector."""
        message = pb.Passage()
        self.write(message)
        return message

    def write(self, message: pb.Passage) -> None:
        """Write the passage, without its vector, into an empty message: a part of a reply needs no copy of it."""
        message.id = self.id
        message.document_id = self.document_id
        message.title = self.title
        message.text = self.text
        for name, value in self.metadata.items():
            set_value(message.metadata[name], value)
        if self.chunk is not None:
            message.chunk.CopyFrom(self.chunk.to_proto())
        if self.relations:
            message.relations.CopyFrom(self.relations.to_proto())


def vector_from_bytes(raw: bytes, path: str) -> Vector | None:
    """Read a vector of little-endian float32; None where there are no bytes."""
    if len(raw) % 4:
        raise InvalidArgument(path, f"is {len(raw)} bytes long, which is no whole number of float32 values")
    return np.frombuffer(raw, dtype="<f4") if raw else None


def tokens_from_proto(message: TokenVectors, path: str) -> Codes:
    """Read token vectors; InvalidArgument unless they are 1 to 1024 whole rows."""
    rows, size = message.row_count, len(message.values)
    if not 1 <= rows <= MAX_TOKEN_ROWS:
        raise InvalidArgument(f"{path}.row_count", f"is {rows}; send 1 to {MAX_TOKEN_ROWS}")
    if not size or size % rows:
        raise InvalidArgument(f"{path}.values", f"are {size} bytes, which are no {rows} rows of one length")
    return np.frombuffer(message.values, np.uint8).reshape(rows, -1)


def tokens_to_proto(tokens: Codes | None) -> TokenVectors | None:
    """Write token vectors; None where there are none."""
    return None if tokens is None else TokenVectors(values=tokens.tobytes(), row_count=len(tokens))


def check_chunks(passages: Sequence[Passage]) -> None:
    """Raise InvalidArgument where a passage is no possible chunk, or has not the id of the chunk that it is."""
    for place, passage in enumerate(passages):
        check_document_id(f"passages[{place}].id", passage.document_id)
        if (chunk := passage.chunk) is None:
            continue
        if not (2 <= chunk.count <= MAX_CHUNKS and 1 <= chunk.number <= chunk.count):
            problem = f"is number {chunk.number} of {chunk.count}; send 1 to count of 2 to {MAX_CHUNKS}"
            raise InvalidArgument(f"passages[{place}].chunk", problem)
        if chunk.number > 1 and passage.document_id == passage.id:
            raise InvalidArgument(f"passages[{place}].id", f'must end with "##{chunk.number}" for this chunk')


def check_stored(passage: Passage) -> None:
    """Raise FailedPrecondition (CHUNK_IDS) for a chunk of which the id does not tell its document.

    Releases before the ids with "##" stored such. Their documents would be taken apart, and never be deleted whole.
    """
    if passage.chunk is not None and passage.chunk.number > 1 and passage.document_id == passage.id:
        raise FailedPrecondition(
            f"chunk {passage.id!r} was stored by a release that knew other ids of chunks; delete the collection, and "
            "index its documents again",
            reason="CHUNK_IDS",
        )


def later_ids(first: Passage, number: int = 1) -> list[str]:
    """Return the ids of a document's chunks after this number; `first` is its first passage."""
    last = first.chunk.count if first.chunk else 1
    return [chunk_id(first.id, later) for later in range(number + 1, last + 1)]


def outdated_ids(passages: Iterable[Passage], known: Mapping[str, Passage]) -> list[str]:
    """Return the ids of chunks that documents lose when these passages replace the known ones of their ids."""
    outdated: list[str] = []
    for passage in passages:
        before = known.get(passage.id)
        if before is not None and passage.id == passage.document_id:
            outdated += later_ids(before, passage.chunk.count if passage.chunk else 1)
    return outdated


def joined(passages: Sequence[Passage]) -> Passage:
    """Return a document as one passage, from its chunks in their order.

    Chunks overlap, and together they cover the text: each adds the characters that the ones before it do not hold.
    """
    first, text = passages[0], passages[0].text
    for passage in passages[1:]:
        assert passage.chunk is not None  # noqa: S101  only a chunk has others before it
        text += passage.text[max(0, len(text) - passage.chunk.start) :]
    return replace(first, text=text, chunk=None)


def _texts(value: Value | None) -> Sequence[str]:
    if isinstance(value, str):
        return (value,)
    return value if isinstance(value, Sequence) else ()


def _length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _size(value: Value) -> int:
    if isinstance(value, str):
        return _length(value)
    return 8 if isinstance(value, int | float) else sum(map(_length, value))


def _chunk(message: pb.Chunk) -> Chunk:
    return Chunk(message.number, message.count, message.start, message.end)
