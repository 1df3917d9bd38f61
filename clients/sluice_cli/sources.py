"""Where documents come from: folders, JSONL files, standard input. Read as they are wanted, in bounded memory."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias, TypeVar

from sluice_cli.calls import Problem
from sluice_cli.markup import html_content, markdown_title
from sluice_client import Document

MemberT = TypeVar("MemberT")

# Well below what a gateway takes in one message.
MAX_RECORD_BYTES = 8 * 2**20
_HTML = {".html", ".htm"}
_MARKDOWN = {".md", ".markdown"}
_PLAIN = {".txt", ".text", ".rst"}
_KINDS = "text (.txt, .text, .rst), Markdown (.md, .markdown) or HTML (.html, .htm)"
_OTHER_UNICODE = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


@dataclass(frozen=True, slots=True)
class SourceDocument(Document):
    """A document, and where it stood."""

    line: int | None = None
    """Its line, from 1; None in a source without lines."""
    position: int = 0
    """How much of the source was read with it, in the unit of the source's size."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that is no document, and why."""

    line: int | None
    id: str
    """Its id, as far as it is known."""
    reason: str


Record: TypeAlias = SourceDocument | Reject


class Source(Protocol):
    """Something that documents can be read from, once."""

    name: str
    """For people."""
    size: int | None
    """How much there is to read; None where nobody knows."""
    passed_over: int
    """Files that are of no kind that can be read."""

    def read(self) -> Iterator[Record]:
        """The records, one after the other. Raises Problem when there is no going on."""


class _Rejected(Exception):
    """Why a record is no document."""

    def __init__(self, reason: str, identity: str = "") -> None:
        super().__init__(reason)
        self.id = identity


def open_source(argument: str) -> Source:
    """The source that a command line names. Raises Problem when it cannot be read."""
    if argument == "-":
        # A reader of our own: a thread that waits in the interpreter's would keep it from ending.
        return JsonLines("standard input", open(0, "rb", closefd=False), None)
    path = Path(argument)
    try:
        if path.is_dir():
            return Folder(path)
        if path.suffix.lower() in _HTML | _MARKDOWN | _PLAIN:
            raise Problem(f"{path} is a single text file", f"name its folder: sluice index {path.parent}")
        return JsonLines(str(path), path.open("rb"), path.stat().st_size)
    except OSError as error:
        raise _unreadable(str(path), error) from None


class JsonLines:
    """One JSON object a line, with `id` (or `_id`), `title`, `text` and `metadata`."""

    def __init__(self, name: str, stream: BinaryIO, size: int | None) -> None:
        self.name = name
        self.size: int | None = size
        self.passed_over = 0
        self._stream = stream

    def read(self) -> Iterator[Record]:
        """See Source."""
        position = 0
        try:
            with self._stream as stream:
                for number, (raw, length) in enumerate(_lines(stream), start=1):
                    position += length
                    if number == 1:
                        self._check_beginning(raw)
                        raw = raw.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901  # the same line
                    if not raw.strip():
                        continue
                    try:
                        yield _document(_parsed(raw, length), number, position)
                    except _Rejected as rejected:
                        yield Reject(number, rejected.id, str(rejected))
        except OSError as error:
            raise _unreadable(self.name, error) from None

    def _check_beginning(self, raw: bytes) -> None:
        """Tells at once what would otherwise be told for every line."""
        if raw.startswith(b"\x1f\x8b"):
            raise Problem(f"{self.name} is compressed", "unpack it on the way: zcat FILE | sluice index -")
        for mark, encoding in _OTHER_UNICODE.items():
            if raw.startswith(mark):
                raise Problem(
                    f"{self.name} is in {encoding}, not UTF-8",
                    f"convert it on the way: iconv -f {encoding} -t UTF-8 FILE | sluice index -",
                )
        if b"\0" in raw:
            raise Problem(f"{self.name} is no text", "give a file of JSON objects, one a line, in UTF-8")
        if raw.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            raise Problem(
                f"{self.name} is one JSON array, not one object a line",
                "take it apart on the way: jq -c '.[]' FILE | sluice index -",
            )


class Folder:
    """The text, Markdown and HTML files below a folder. Hidden files and folders are left alone."""

    def __init__(self, root: Path) -> None:
        self.name = str(root)
        self._root = root
        self.passed_over = 0
        with os.scandir(root):  # fails here and now if it cannot be read
            pass
        size = 0
        for found in self._walk():
            if isinstance(found, Reject) or _is_text(found):
                size += 1
            else:
                self.passed_over += 1
        self.size: int | None = size
        if not size:
            raise Problem(
                f"{root} holds no {_KINDS} file",
                "name another folder, or a file of JSON lines: sluice index FOLDER/corpus.jsonl",
            )

    def read(self) -> Iterator[Record]:
        """See Source."""
        position = 0
        for found in self._walk():
            if isinstance(found, Reject):
                position += 1
                yield found
            elif _is_text(found):
                position += 1
                identity = found.relative_to(self._root).as_posix()
                try:
                    title, text = _content(found)
                except OSError as error:
                    yield Reject(None, identity, f"cannot be read: {error.strerror}")
                except _Rejected as rejected:
                    yield Reject(None, identity, str(rejected))
                else:
                    yield SourceDocument(identity, title, text, position=position)

    def _walk(self) -> Iterator[Path | Reject]:
        """Files in a fixed order, and folders that cannot be looked into."""
        unreadable: list[OSError] = []
        for folder, folders, files in os.walk(self._root, onerror=unreadable.append):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))
        for error in unreadable:
            name = Path(os.fsdecode(error.filename)).relative_to(self._root).as_posix()
            yield Reject(None, name, f"this folder cannot be read: {error.strerror}")


def _is_text(path: Path) -> bool:
    return path.suffix.lower() in _HTML | _MARKDOWN | _PLAIN and path.is_file()


def _content(path: Path) -> tuple[str, str]:
    """Title and text of a file."""
    with path.open("rb") as stream:
        raw = stream.read(MAX_RECORD_BYTES + 1)
    text = _decoded(raw, len(raw)).removeprefix("\ufeff")
    title = ""
    if path.suffix.lower() in _HTML:
        title, text = html_content(text)
    elif path.suffix.lower() in _MARKDOWN:
        title = markdown_title(text)
    if not text.strip():
        raise _Rejected("holds no text")
    return title or path.name, text


def _lines(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Every line and its length; of one that is too long only the beginning."""
    while beginning := stream.readline(MAX_RECORD_BYTES + 1):
        length, part = len(beginning), beginning
        while length > MAX_RECORD_BYTES and not part.endswith(b"\n") and (part := stream.readline(MAX_RECORD_BYTES)):
            length += len(part)
        yield beginning, length


def _parsed(raw: bytes, length: int) -> dict[str, Any]:
    try:
        record = json.loads(_decoded(raw, length))
    except (ValueError, RecursionError) as error:
        raise _Rejected(f"is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise _Rejected("is not a JSON object")
    return record


def _decoded(raw: bytes, length: int) -> str:
    if length > MAX_RECORD_BYTES:
        raise _Rejected(f"is longer than {MAX_RECORD_BYTES // 2**20} MiB; split it")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise _Rejected(f"is not UTF-8 (at byte {error.start}); convert it with iconv") from None


def _document(record: dict[str, Any], line: int, position: int) -> SourceDocument:
    identity = record.get("id", record.get("_id"))
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    if not isinstance(identity, str) or not identity:
        raise _Rejected('has no "id" (or "_id"): a string or a whole number')
    title = _member(record, "title", str, identity) or ""
    text = _member(record, "text", str, identity) or ""
    metadata = _member(record, "metadata", dict, identity) or {}
    if not f"{title}{text}".strip():
        raise _Rejected("has neither title nor text", identity)
    known = {name: value for name, value in metadata.items() if value is not None}
    return SourceDocument(identity, title, text, known, line=line, position=position)


def _member(record: dict[str, Any], name: str, kind: type[MemberT], identity: str) -> MemberT | None:
    """A member of a record; null is as good as not there."""
    value = record.get(name)
    if value is None or isinstance(value, kind):
        return value
    raise _Rejected(f'has a "{name}" that is no {"object" if kind is dict else "string"}', identity)


def _unreadable(name: str, error: OSError) -> Problem:
    return Problem(f"{name} cannot be read: {error.strerror or error}", "check its path and that you may read it")
