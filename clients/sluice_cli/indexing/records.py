"""Records of sources: documents, rejects and marks, and the reading of lines."""

from __future__ import annotations

import codecs
import contextlib
import lzma
import queue
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias, TypeVar

from sluice_cli.calls import Problem
from sluice_client import Document


class _Placed(Protocol):
    """An item of a source, with the amount of the source that was read with it."""

    @property
    def position(self) -> int: ...


ItemT = TypeVar("ItemT", bound=_Placed)

# Well below the limit of a message to the gateway.
MAX_RECORD_BYTES = 8 * 2**20
# Records that decide the types of a stream that can be read only once.
SAMPLE, SAMPLE_BYTES, SAMPLE_SECONDS = 1000, 4 * 2**20, 1.0
# What neither lays out a text nor colours it in a terminal.
_CONTROLS = bytes(set(range(32)) - set(b"\b\t\n\v\f\r\x1b"))
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
    lost: int = 0
    """Number of further lines that were lost with it."""

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
    passed_over: Mapping[str, int]
    """Numbers of files of other kinds, by the ends of their names."""
    said: list[str]
    """Sentences that a reader should know of the content; grows while it is read."""
    suspect: bool
    """True if what was read is probably not what was meant."""
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


def sampled(
    stream: BinaryIO,
    items: Callable[[BinaryIO], Iterator[ItemT]],
    look: Callable[[ItemT, int], None],
    decide: Callable[[], None],
) -> Iterator[ItemT]:
    """Iterate over all items of a stream, after a look at each of them, or at the first if it can be read only once.

    `decide` is called between.
    """
    if stream.seekable():
        beginning = stream.tell()
        for number, item in enumerate(items(stream)):
            look(item, number)
        stream.seek(beginning)
        decide()
        yield from items(stream)
        return
    ahead = _ahead(items(stream))
    first: list[ItemT] = []
    ends = time.monotonic() + SAMPLE_SECONDS
    # What comes slowly is not waited for: it is to be stored as it comes.
    with contextlib.suppress(queue.Empty):
        while len(first) < SAMPLE and (found := ahead(max(0.0, ends - time.monotonic()))) is not None:
            look(found, len(first))
            first.append(found)
            if found.position > SAMPLE_BYTES:
                break
    decide()
    yield from first
    while (following := ahead(None)) is not None:
        yield following


def _ahead(items: Iterator[ItemT]) -> Callable[[float | None], ItemT | None]:
    """Read an iterator in a thread of its own; return a function that waits so long for the next item, None at the end.

    It raises queue.Empty where none came in time, and what the iterator raised.
    """
    ready: queue.Queue[ItemT | Exception | None] = queue.Queue(16)

    def read() -> None:
        try:
            for item in items:
                ready.put(item)
            ready.put(None)
        except Exception as error:  # raised where the items are wanted
            ready.put(error)

    def following(seconds: float | None) -> ItemT | None:
        item = ready.get(timeout=seconds)
        if isinstance(item, Exception):
            raise item
        if item is None:
            ready.put(None)  # it stays the end
        return item

    threading.Thread(target=read, daemon=True).start()
    return following


@contextlib.contextmanager
def reading_problems(name: str) -> Iterator[None]:
    """Make a Problem of what can go wrong with a file while it is read."""
    try:
        yield
    except OSError as error:
        raise unreadable(name, error) from None
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise Problem(f"{name} is damaged: {error}", "compress it again, or unpack what is left of it") from None


def decoded(raw: bytes, length: int) -> str:
    """Decode the text of a record with this length. Raises Rejected."""
    if length > MAX_RECORD_BYTES:
        raise Rejected(f"is longer than {MAX_RECORD_BYTES // 2**20} MiB; split it")
    for mark, encoding in _OTHER_UNICODE.items():
        if raw.startswith(mark):
            raise Rejected(f"is in {encoding}, not UTF-8; convert it with iconv -f {encoding}")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise Rejected(f"is not UTF-8 (at byte {error.start}); convert it with iconv") from None
    if problem := _is_no_text(raw):
        raise Rejected(problem)
    return text


def _is_no_text(raw: bytes) -> str:
    """Return the reason why bytes are no text, though they may be valid UTF-8; "" if they are text."""
    controls = len(raw) - len(raw.translate(None, _CONTROLS))
    zeros = [raw[start::2].count(0) for start in (0, 1)]
    if max(zeros) > len(raw) / 8 and max(zeros) > 8 * min(zeros):
        encoding = "UTF-16LE" if zeros[1] > zeros[0] else "UTF-16BE"
        return f"looks like UTF-16 without a mark; convert it with iconv -f {encoding}"
    if any(zeros) or controls > len(raw) / 50:
        return "is no text: it holds characters that no text has"
    return ""


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
