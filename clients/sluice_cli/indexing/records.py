"""Records of sources: documents, rejects and marks, and the reading of lines."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

from sluice_cli.calls import Problem
from sluice_client import Document

# Well below the limit of a message to the gateway.
MAX_RECORD_BYTES = 8 * 2**20
_OTHER_UNICODE = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


@dataclass(frozen=True, slots=True)
class Mark:
    """End of a record in its source; reading can continue there."""

    place: int
    """The record's line, from 1; in a folder, the number of files up to it."""
    position: int
    """Amount of the source that was read with it, in the unit of the source's size."""


BEGINNING = Mark(0, 0)


@dataclass(frozen=True, slots=True)
class SourceDocument(Document):
    """A document and its place in the source."""

    line: int | None = None
    """Its line, from 1; None in a source without lines."""
    position: int = 0
    """Amount of the source that was read with it, in the unit of the source's size."""

    @property
    def mark(self) -> Mark:
        """Mark of its end."""
        return Mark(self.position if self.line is None else self.line, self.position)


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that is no document, and the reason."""

    line: int | None
    id: str
    """Its id, if it is known."""
    reason: str
    position: int = 0
    """Amount of the source that was read with it, in the unit of the source's size."""

    @property
    def mark(self) -> Mark:
        """Mark of its end."""
        return Mark(self.position if self.line is None else self.line, self.position)


Record: TypeAlias = SourceDocument | Reject


class Source(Protocol):
    """A source of documents, to be read once."""

    name: str
    """Text to show."""
    size: int | None
    """Amount to read; None if unknown."""
    passed_over: int
    """Number of files of other kinds."""
    state: str | None
    """Changes with the content; None for a source that can be read only once."""

    def read(self, after: Mark = BEGINNING) -> Iterator[Record]:
        """Iterate over the records after a mark. Raises Problem."""


class Rejected(Exception):
    """Raised for a record that is no document."""

    def __init__(self, reason: str, identity: str = "") -> None:
        super().__init__(reason)
        self.id = identity


def state_of(path: Path) -> str:
    """Identify the content of a file by size and time."""
    found = path.stat()
    return f"{found.st_size} bytes of {found.st_mtime_ns} ns"


def lines(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Iterate over lines, cut at a limit, with their lengths."""
    while beginning := stream.readline(MAX_RECORD_BYTES + 1):
        length, part = len(beginning), beginning
        while length > MAX_RECORD_BYTES and not part.endswith(b"\n") and (part := stream.readline(MAX_RECORD_BYTES)):
            length += len(part)
        yield beginning, length


def decoded(raw: bytes, length: int) -> str:
    """Decode the text of a record with this length. Raises Rejected."""
    if length > MAX_RECORD_BYTES:
        raise Rejected(f"is longer than {MAX_RECORD_BYTES // 2**20} MiB; split it")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise Rejected(f"is not UTF-8 (at byte {error.start}); convert it with iconv") from None


def check_beginning(name: str, raw: bytes) -> None:
    """Check that a file begins like UTF-8 text. Raises Problem."""
    if raw.startswith(b"\x1f\x8b"):
        raise Problem(f"{name} is compressed", "unpack it on the way: zcat FILE | sluice index -")
    for mark, encoding in _OTHER_UNICODE.items():
        if raw.startswith(mark):
            raise Problem(
                f"{name} is in {encoding}, not UTF-8",
                f"convert it on the way: iconv -f {encoding} -t UTF-8 FILE | sluice index -",
            )
    if b"\0" in raw:
        raise Problem(f"{name} is no text", "give JSON objects, one a line, or a table, in UTF-8")


def unreadable(name: str, error: OSError) -> Problem:
    """Make the problem of a source that cannot be read."""
    return Problem(f"{name} cannot be read: {error.strerror or error}", "check its path and that you may read it")
