"""Records of JSON: one object a line, or the objects of one array."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

from sluice_cli.indexing.records import (
    BEGINNING,
    MAX_RECORD_BYTES,
    Mark,
    Record,
    Reject,
    Rejected,
    SourceDocument,
    check_beginning,
    decoded,
    lines,
    reading_problems,
    sampled,
)
from sluice_cli.indexing.types import Kind, Types, field_name
from sluice_client import Relations

MemberT = TypeVar("MemberT")

_BETWEEN = re.compile(r"[\s,]*")
_RELATIONS = ("aliases", "mentions", "links")
_PART_BYTES = 2**16
_BEGINNING_BYTES = 1024


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line, or an element of an array; not yet parsed where it is bytes."""

    number: int
    content: Any
    length: int
    position: int
    problem: str = ""

    def record(self) -> dict[str, Any]:
        """Parse it. Raises Rejected."""
        if self.problem:
            raise Rejected(self.problem)
        record = self.content
        if isinstance(record, bytes):
            try:
                record = json.loads(decoded(record, self.length))
            except (ValueError, RecursionError) as error:
                raise Rejected(f"is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise Rejected("is not a JSON object")
        return record


class JsonLines:
    """JSON with `id` (or `_id`), `title`, `text`, `metadata` and `relations`; other keys are metadata, too."""

    def __init__(
        self,
        name: str,
        stream: BinaryIO,
        size: int | None,
        state: str | None,
        types: Mapping[str, Kind] | None = None,
    ) -> None:
        self.name = name
        self.size: int | None = size
        self.passed_over: Mapping[str, int] = {}
        self.state = state
        self.said: list[str] = []
        self.suspect = False
        self._stream = stream
        self._types = Types(types or {}, "field")
        self._left_out: Counter[str] = Counter()

    def read(self, after: Mark = BEGINNING) -> Iterator[Record]:
        """Read the records; see Source."""
        with reading_problems(self.name), self._stream as stream:
            for entry in sampled(stream, self._entries, self._sample, self._decide):
                if entry.number <= after.place:
                    continue
                try:
                    yield self._document(entry)
                except Rejected as rejected:
                    yield Reject(entry.number, rejected.id, str(rejected), entry.position)
        self.said += [
            f"{key!r} of {count:,} records is left out: metadata holds no objects, and lists of strings only"
            for key, count in sorted(self._left_out.items())
        ]

    def _entries(self, stream: BinaryIO) -> Iterator[_Entry]:
        beginning = _peek(stream)
        check_beginning(self.name, beginning.partition(b"\n")[0])
        if beginning.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            yield from _elements(stream)
            return
        position = 0
        for number, (raw, length) in enumerate(lines(stream), start=1):
            position += length
            content = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            if content.strip():
                yield _Entry(number, content, length, position)

    def _sample(self, entry: _Entry, _: int) -> None:
        try:
            record = entry.record()
            self._types.sample(self._metadata(record, record.get("id") is None), entry.number)
        except Rejected:
            pass
        self._left_out.clear()

    def _decide(self) -> None:
        self.said += self._types.decide()

    def _document(self, entry: _Entry) -> SourceDocument:
        record = entry.record()
        beir = record.get("id") is None
        identity = record.get("_id" if beir else "id")
        if isinstance(identity, int) and not isinstance(identity, bool):
            identity = str(identity)
        if not isinstance(identity, str) or not identity:
            raise Rejected('has no "id" (or "_id"): a string or a whole number')
        try:
            title = _member(record, "title", str) or ""
            text = _member(record, "text", str) or ""
            metadata = self._types.values(self._metadata(record, beir))
            relations = _relations(_member(record, "relations", dict))
        except Rejected as rejected:
            raise Rejected(str(rejected), identity) from None
        if not f"{title}{text}".strip():
            raise Rejected("has neither title nor text", identity)
        return SourceDocument(identity, title, text, metadata, relations, entry.number, entry.position)

    def _metadata(self, record: Mapping[str, Any], beir: bool) -> dict[str, Any]:
        """Return the metadata and the keys next to it, without nulls. Raises Rejected."""
        metadata = {
            name: value for name, value in (_member(record, "metadata", dict) or {}).items() if value is not None
        }
        for key, value in record.items():
            if key in ("id", "title", "text", "metadata", "relations") or (key == "_id" and beir) or value is None:
                continue
            name = field_name(key)
            if isinstance(value, dict) or not name or (isinstance(value, list) and not _are_texts(value)):
                self._left_out[key] += 1
            elif metadata.setdefault(name, value) is not value:
                raise Rejected(f"has {name!r} twice")
        return metadata


def _are_texts(items: list[Any]) -> bool:
    return all(isinstance(item, str) for item in items)


def _member(record: Mapping[str, Any], name: str, kind: type[MemberT]) -> MemberT | None:
    """Read a member of a record; null counts as missing."""
    value = record.get(name)
    if value is None or isinstance(value, kind):
        return value
    raise Rejected(f'has a "{name}" that is no {"object" if kind is dict else "string"}')


def _relations(said: dict[str, Any] | None) -> Relations | None:
    """Read what a record says of its relations. Raises Rejected."""
    for name, value in (said or {}).items():
        if name not in _RELATIONS:
            raise Rejected(f'has "relations" with {name!r}; they have {", ".join(_RELATIONS)}')
        if not isinstance(value, list) or not _are_texts(value):
            raise Rejected(f'has "relations" with a {name!r} that is no list of strings')
    return Relations(**said) if said else None


def _peek(stream: BinaryIO) -> bytes:
    """Return some bytes that are read next."""
    if not stream.seekable():
        peek = getattr(stream, "peek", None)
        return peek(_BEGINNING_BYTES)[:_BEGINNING_BYTES] if peek else b""
    beginning = stream.tell()
    found = stream.read(_BEGINNING_BYTES)
    stream.seek(beginning)
    return found


def _elements(stream: BinaryIO) -> Iterator[_Entry]:
    """Iterate over the elements of an array, with a part of it in memory."""
    decoder, scanner = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape"), json.JSONDecoder()
    text, place, position, ended = "", 0, 0, False
    number = 0
    inside = False
    while True:
        start = _BETWEEN.match(text, place).end()  # type: ignore[union-attr]  # it matches everywhere
        if not inside and text[start : start + 1] == "[":
            inside, start = True, start + 1
            start = _BETWEEN.match(text, start).end()  # type: ignore[union-attr]
        position += len(text[place:start])
        place = start
        if text[place : place + 1] == "]":
            return
        problem = "the array ends early"
        try:
            value, end = scanner.raw_decode(text, place) if place < len(text) else (None, place)
        except (ValueError, RecursionError) as error:
            value, end, problem = None, place, f"is not JSON: {error}"
        if place < end < len(text) or (end > place and ended):
            number += 1
            length = len(text[place:end].encode("utf-8", "surrogateescape"))
            position += length
            too_long = f"is longer than {MAX_RECORD_BYTES // 2**20} MiB; split it" if length > MAX_RECORD_BYTES else ""
            yield _Entry(number, value, length, position, too_long)
            place = end
            continue
        if ended or len(text) - place > 2 * MAX_RECORD_BYTES:
            yield _Entry(number + 1, None, 0, position, f"{problem}; what follows in the array is lost")
            return
        # As much again as there is, so that what is incomplete is scanned only a few times.
        raw = stream.read(max(_PART_BYTES, len(text) - place))
        ended = not raw
        text, place = text[place:] + decoder.decode(raw, ended), 0
