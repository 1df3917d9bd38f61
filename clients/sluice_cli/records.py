"""What sources are made of: documents, rejects, marks, and what all of them check in bytes."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

from sluice_cli.calls import Problem
from sluice_client import Document

# Well below what a gateway takes in one message.
MAX_RECORD_BYTES = 8 * 2**20
_OTHER_UNICODE = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


@dataclass(frozen=True, slots=True)
class Mark:
    """The end of a record in its source: reading can go on from there."""

    place: int
    """The record's line, from 1; in a folder, how many files there are up to it."""
    position: int
    """How much of the source was read with it, in the unit of the source's size."""


BEGINNING = Mark(0, 0)


@dataclass(frozen=True, slots=True)
class SourceDocument(Document):
    """A document, and where it stood."""

    line: int | None = None
    """Its line, from 1; None in a source without lines."""
    position: int = 0
    """How much of the source was read with it, in the unit of the source's size."""

    @property
    def mark(self) -> Mark:
        """Where it ends."""
        return Mark(self.position if self.line is None else self.line, self.position)


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that is no document, and why."""

    line: int | None
    id: str
    """Its id, as far as it is known."""
    reason: str
    position: int = 0
    """How much of the source was read with it, in the unit of the source's size."""

    @property
    def mark(self) -> Mark:
        """Where it ends."""
        return Mark(self.position if self.line is None else self.line, self.position)


Record: TypeAlias = SourceDocument | Reject


class Source(Protocol):
    """Something that documents can be read from, once."""

    name: str
    """For people."""
    size: int | None
    """How much there is to read; None where nobody knows."""
    passed_over: int
    """Files that are of no kind that can be read."""
    state: str | None
    """Another one whenever the content is another one; None where the source can be read only once."""

    def read(self, after: Mark = BEGINNING) -> Iterator[Record]:
        """The records, one after the other, from a mark that was read before in the same state. Raises Problem when
        there is no going on."""


class Rejected(Exception):
    """Why a record is no document."""

    def __init__(self, reason: str, identity: str = "") -> None:
        super().__init__(reason)
        self.id = identity


def state_of(path: Path) -> str:
    """What tells that a file was changed."""
    found = path.stat()
    return f"{found.st_size} bytes of {found.st_mtime_ns} ns"


def lines(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Every line and its length; of one that is too long only the beginning."""
    while beginning := stream.readline(MAX_RECORD_BYTES + 1):
        length, part = len(beginning), beginning
        while length > MAX_RECORD_BYTES and not part.endswith(b"\n") and (part := stream.readline(MAX_RECORD_BYTES)):
            length += len(part)
        yield beginning, length


def decoded(raw: bytes, length: int) -> str:
    """The text of a record with this length. Raises Rejected."""
    if length > MAX_RECORD_BYTES:
        raise Rejected(f"is longer than {MAX_RECORD_BYTES // 2**20} MiB; split it")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise Rejected(f"is not UTF-8 (at byte {error.start}); convert it with iconv") from None


def check_beginning(name: str, raw: bytes) -> None:
    """Raises Problem where a file that should be UTF-8 text begins like something else."""
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
    """What to say of a source that fails while it is read."""
    return Problem(f"{name} cannot be read: {error.strerror or error}", "check its path and that you may read it")
