"""Tables as CSV or TSV: a row is a document."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO, TypeAlias

from sluice_cli.calls import Problem
from sluice_cli.indexing.records import (
    BEGINNING,
    MAX_RECORD_BYTES,
    Mark,
    Record,
    Reject,
    Rejected,
    SourceDocument,
    check_beginning,
    lines,
    unreadable,
)
from sluice_client import MetadataValue

# The type of a column follows from the values of the first rows.
_SAMPLE_ROWS = 1000
_SAMPLE_BYTES = 4 * 2**20
_SEPARATORS = ",;\t|"
_UNFIT_FOR_A_FIELD = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST_FIELD = 64

Reading: TypeAlias = Callable[[str], MetadataValue]
# Numbers with leading zeros are codes, not numbers.
_KINDS: Sequence[tuple[str, re.Pattern[str], Reading]] = (
    ("true or false", re.compile(r"true|false", re.IGNORECASE), lambda cell: cell.lower() == "true"),
    ("a whole number", re.compile(r"[+-]?(0|[1-9]\d{0,17})"), int),
    ("a number", re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d{1,2})?"), float),
)


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of columns; None is `id` (or `_id`), `title` or `text`."""

    id: str | None = None
    title: str | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class _Row:
    cells: Sequence[str]
    line: int
    """Its first line."""
    position: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Field:
    """A column of metadata."""

    place: int
    name: str
    kind: str
    pattern: re.Pattern[str] | None
    read: Reading

    def value(self, cell: str) -> MetadataValue:
        """Read a cell. Raises Rejected for another type."""
        if self.pattern is not None and not self.pattern.fullmatch(cell):
            raise Rejected(f"is not {self.kind} in column {self.name!r}, as those before it are")
        return self.read(cell)


class Table:
    """Rows under a header; cells of CSV may be quoted.

    The first rows of a column decide its type: true or false, whole numbers, numbers, text.
    """

    def __init__(
        self,
        name: str,
        stream: BinaryIO,
        size: int | None,
        state: str | None,
        *,
        delimiter: str | None,
        columns: Columns,
    ) -> None:
        """Without a delimiter it is CSV, with the header's most frequent separator."""
        self.name = name
        self.size = size
        self.passed_over = 0
        self.state = state
        self._stream = stream
        self._delimiter = delimiter
        self._columns = columns
        self._position = 0
        self._too_long = False

    def read(self, after: Mark = BEGINNING) -> Iterator[Record]:
        """Read the records; see Source."""
        try:
            with self._stream as stream:
                rows = self._rows(self._texts(stream))
                header = next(rows, None)
                if header is None:
                    raise Problem(f"{self.name} is empty", "give a table whose first row names its columns")
                if header.problem:
                    raise Problem(f"the header of {self.name} {header.problem}", "name the columns in the first row")
                places = self._places(header.cells)
                sample = self._sample(rows)
                fields = self._fields(header.cells, set(places), sample)
                for row in chain(sample, rows):
                    if row.line <= after.place:
                        continue
                    try:
                        yield _document(row, len(header.cells), places, fields)
                    except Rejected as rejected:
                        yield Reject(row.line, rejected.id, str(rejected), row.position)
        except OSError as error:
            raise unreadable(self.name, error) from None

    def _texts(self, stream: BinaryIO) -> Iterator[str]:
        """Iterate over lines; wrong bytes stay, for the row to be rejected."""
        for number, (raw, length) in enumerate(lines(stream)):
            if number == 0:
                check_beginning(self.name, raw)
            self._position += length
            self._too_long = self._too_long or length > MAX_RECORD_BYTES
            yield raw.decode("utf-8-sig" if number == 0 else "utf-8", errors="surrogateescape")

    def _rows(self, texts: Iterator[str]) -> Iterator[_Row]:
        first = next(texts, "")
        tabs = self._delimiter == "\t"
        csv.field_size_limit(MAX_RECORD_BYTES)
        reader = csv.reader(
            chain([first], texts),
            delimiter=self._delimiter or max(_SEPARATORS, key=first.count),
            quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
            strict=True,
        )
        while True:
            line = reader.line_num + 1
            self._too_long = False
            problem = ""
            cells: list[str] = []
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                problem = f"is no row of a table: {error}"
            if self._too_long:
                problem = f"is longer than {MAX_RECORD_BYTES // 2**20} MiB; split it"
            if cells or problem:
                yield _Row(cells, line, self._position, problem)

    def _places(self, header: Sequence[str]) -> tuple[int | None, int | None, int | None]:
        """Find the columns of id, title and text."""
        wanted, there = self._columns, f"the columns are: {', '.join(map(repr, header))}"

        def place(option: str, given: str | None, *usual: str) -> int | None:
            if given is not None and given not in header:
                raise Problem(f"{self.name} has no column {given!r}", f"correct {option}; {there}")
            return next((header.index(name) for name in ((given,) if given else usual) if name in header), None)

        identity = place("--id-column", wanted.id, "id", "_id")
        title = place("--title-column", wanted.title, "title")
        text = place("--text-column", wanted.text, "text")
        if identity is None:
            raise Problem(f"{self.name} has no column 'id'", f"say which one it is with --id-column; {there}")
        if text is None and title is None:
            raise Problem(f"{self.name} has no column 'text'", f"say which one it is with --text-column; {there}")
        return identity, title, text

    def _sample(self, rows: Iterator[_Row]) -> list[_Row]:
        sample: list[_Row] = []
        start = self._position
        while len(sample) < _SAMPLE_ROWS and self._position - start < _SAMPLE_BYTES and (row := next(rows, None)):
            sample.append(row)
        return sample

    def _fields(self, header: Sequence[str], taken: set[int | None], sample: Sequence[_Row]) -> list[_Field]:
        """Find the columns of metadata: those with a name."""
        fields: dict[str, _Field] = {}
        for place, title in enumerate(header):
            name = _UNFIT_FOR_A_FIELD.sub("_", title.strip())[:_LONGEST_FIELD]
            if place in taken or not title.strip():
                continue
            if name in fields:
                raise Problem(
                    f"{self.name} has two columns {name!r}", "rename one: letters, digits, '_' and '-' tell them apart"
                )
            cells = [row.cells[place].strip() for row in sample if len(row.cells) == len(header)]
            values = [cell for cell in cells if cell]
            for kind, pattern, read in _KINDS:
                if values and all(map(pattern.fullmatch, values)):
                    fields[name] = _Field(place, name, kind, pattern, read)
                    break
            else:
                fields[name] = _Field(place, name, "text", None, str)
        return list(fields.values())


def _document(
    row: _Row, width: int, places: tuple[int | None, int | None, int | None], fields: Sequence[_Field]
) -> SourceDocument:
    if row.problem:
        raise Rejected(row.problem)
    if len(row.cells) != width:
        raise Rejected(f"has {len(row.cells)} cells, and the header has {width}")
    identity, title, text = ("" if place is None else row.cells[place] for place in places)
    try:
        "\n".join(row.cells).encode()
    except UnicodeEncodeError:
        raise Rejected("is not UTF-8; convert it with iconv") from None
    if not identity.strip():
        raise Rejected("has no id")
    if not f"{title}{text}".strip():
        raise Rejected("has neither title nor text", identity)
    try:
        metadata = {field.name: field.value(cell) for field in fields if (cell := row.cells[field.place].strip())}
    except Rejected as rejected:
        raise Rejected(str(rejected), identity) from None
    return SourceDocument(identity.strip(), title, text, metadata, line=row.line, position=row.position)
