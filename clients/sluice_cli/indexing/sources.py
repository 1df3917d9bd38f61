"""Sources of documents: folders, JSON lines, tables, standard input."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, TypeVar

from sluice_cli.calls import WRONG_COMMAND_LINE, Problem
from sluice_cli.indexing.markup import html_content, markdown_title
from sluice_cli.indexing.records import (
    BEGINNING,
    MAX_RECORD_BYTES,
    Mark,
    Record,
    Reject,
    Rejected,
    Source,
    SourceDocument,
    check_beginning,
    decoded,
    lines,
    state_of,
    unreadable,
)
from sluice_cli.indexing.tables import Columns, Table

MemberT = TypeVar("MemberT")

_HTML = {".html", ".htm"}
_MARKDOWN = {".md", ".markdown"}
_PLAIN = {".txt", ".text", ".rst"}
_KINDS = "text (.txt, .text, .rst), Markdown (.md, .markdown) or HTML (.html, .htm)"
Format: TypeAlias = Literal["jsonl", "csv", "tsv"]
_FORMATS: dict[str, Format] = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv"}


def open_source(argument: str, kind: Format | None = None, columns: Columns = Columns()) -> Source:  # noqa: B008  # frozen
    """Open a source, of the kind that its name tells. Raises Problem.

    A folder with a `corpus.jsonl` is a collection in BEIR's layout, and that file is the source.
    """
    path = Path(argument)
    try:
        if argument == "-":
            # A reader of its own: a thread that waits in the interpreter's would keep it from ending.
            return _opened("standard input", open(0, "rb", closefd=False), None, None, kind or "jsonl", columns)
        if path.is_dir() and (path / "corpus.jsonl").is_file():
            path = path / "corpus.jsonl"
        if path.is_dir():
            return Folder(path)
        suffix = path.suffix.lower()
        if kind is None and suffix in _HTML | _MARKDOWN | _PLAIN:
            raise Problem(f"{path} is a single text file", f"name its folder: sluice index {path.parent}")
        kind = kind or _FORMATS.get(suffix, "jsonl")
        return _opened(str(path), path.open("rb"), path.stat().st_size, state_of(path), kind, columns)
    except OSError as error:
        raise unreadable(str(path), error) from None


def _opened(name: str, stream: BinaryIO, size: int | None, state: str | None, kind: Format, columns: Columns) -> Source:
    if kind != "jsonl":
        return Table(name, stream, size, state, delimiter="\t" if kind == "tsv" else None, columns=columns)
    if columns != Columns():
        raise Problem("JSON lines have no columns", "leave the names of columns out", exit_code=WRONG_COMMAND_LINE)
    return JsonLines(name, stream, size, state)


class JsonLines:
    """JSON lines with `id` (or `_id`), `title`, `text` and `metadata`."""

    def __init__(self, name: str, stream: BinaryIO, size: int | None, state: str | None) -> None:
        self.name = name
        self.size: int | None = size
        self.passed_over = 0
        self.state = state
        self._stream = stream

    def read(self, after: Mark = BEGINNING) -> Iterator[Record]:
        """Read the records; see Source."""
        position = after.position
        try:
            with self._stream as stream:
                if position:
                    stream.seek(position)
                for number, (raw, length) in enumerate(lines(stream), start=after.place + 1):
                    position += length
                    if number == 1:
                        check_beginning(self.name, raw)
                        self._check_beginning(raw)
                        raw = raw.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901  # the same line
                    if not raw.strip():
                        continue
                    try:
                        yield _document(_parsed(raw, length), number, position)
                    except Rejected as rejected:
                        yield Reject(number, rejected.id, str(rejected), position)
        except OSError as error:
            raise unreadable(self.name, error) from None

    def _check_beginning(self, raw: bytes) -> None:
        """Refuse a JSON array at once instead of every line of it."""
        if raw.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            raise Problem(
                f"{self.name} is one JSON array, not one object a line",
                "take it apart on the way: jq -c '.[]' FILE | sluice index -",
            )


class Folder:
    """The text, Markdown and HTML files below a folder, without hidden ones."""

    def __init__(self, root: Path) -> None:
        self.name = str(root)
        self._root = root
        self.passed_over = 0
        with os.scandir(root):  # fails here and now if it cannot be read
            pass
        size, digest = 0, hashlib.sha256()
        for found in self._walk():
            if isinstance(found, Reject):
                size += 1
            elif is_text_file(found):
                size += 1
                with contextlib.suppress(OSError):  # reported when it is read
                    digest.update(f"{found}: {state_of(found)}\n".encode(errors="surrogateescape"))
            else:
                self.passed_over += 1
        self.size: int | None = size
        self.state: str | None = digest.hexdigest()
        if not size:
            raise Problem(
                f"{root} holds no {_KINDS} file",
                "name another folder, or a file of JSON lines: sluice index FOLDER/FILE.jsonl",
            )

    def read(self, after: Mark = BEGINNING) -> Iterator[Record]:
        """Read the records; see Source."""
        readable = (found for found in self._walk() if isinstance(found, Reject) or is_text_file(found))
        for position, found in enumerate(readable, start=1):
            if position <= after.position:
                continue
            if isinstance(found, Reject):
                yield replace(found, position=position)
            else:
                identity = found.relative_to(self._root).as_posix()
                try:
                    title, text = _content(found)
                except OSError as error:
                    yield Reject(None, identity, f"cannot be read: {error.strerror}", position)
                except Rejected as rejected:
                    yield Reject(None, identity, str(rejected), position)
                else:
                    yield SourceDocument(identity, title, text, position=position)

    def _walk(self) -> Iterator[Path | Reject]:
        """Iterate over files in a fixed order, and over unreadable folders."""
        unreadable: list[OSError] = []
        for folder, folders, files in os.walk(self._root, onerror=unreadable.append):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))
        for error in unreadable:
            name = Path(os.fsdecode(error.filename)).relative_to(self._root).as_posix()
            yield Reject(None, name, f"this folder cannot be read: {error.strerror}")


def is_text_file(path: Path) -> bool:
    """True if a file of a folder is read."""
    return path.suffix.lower() in _HTML | _MARKDOWN | _PLAIN and path.is_file()


def _content(path: Path) -> tuple[str, str]:
    """Read title and text of a file."""
    with path.open("rb") as stream:
        raw = stream.read(MAX_RECORD_BYTES + 1)
    text = decoded(raw, len(raw)).removeprefix("\ufeff")
    title = ""
    if path.suffix.lower() in _HTML:
        title, text = html_content(text)
    elif path.suffix.lower() in _MARKDOWN:
        title = markdown_title(text)
    if not text.strip():
        raise Rejected("holds no text")
    return title or path.name, text


def _parsed(raw: bytes, length: int) -> dict[str, Any]:
    try:
        record = json.loads(decoded(raw, length))
    except (ValueError, RecursionError) as error:
        raise Rejected(f"is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise Rejected("is not a JSON object")
    return record


def _document(record: dict[str, Any], line: int, position: int) -> SourceDocument:
    identity = record.get("id", record.get("_id"))
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    if not isinstance(identity, str) or not identity:
        raise Rejected('has no "id" (or "_id"): a string or a whole number')
    title = _member(record, "title", str, identity) or ""
    text = _member(record, "text", str, identity) or ""
    metadata = _member(record, "metadata", dict, identity) or {}
    if not f"{title}{text}".strip():
        raise Rejected("has neither title nor text", identity)
    known = {name: value for name, value in metadata.items() if value is not None}
    return SourceDocument(identity, title, text, known, line=line, position=position)


def _member(record: dict[str, Any], name: str, kind: type[MemberT], identity: str) -> MemberT | None:
    """Read a member of a record; null counts as missing."""
    value = record.get(name)
    if value is None or isinstance(value, kind):
        return value
    raise Rejected(f'has a "{name}" that is no {"object" if kind is dict else "string"}', identity)
