"""Tables as CSV or TSV: a row is a document."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

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
    reading_problems,
    sampled,
)
from sluice_cli.indexing.types import Cell, Kind, Types, field_name

_SEPARATORS = ",;\t|"
# Most lines of a cell that are looked at for rows.
_MOST_LINES = 10_000


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
    lost: int = 0
    """Number of lines after the first that a quote without end took with it."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Places of the columns."""

    header: Sequence[str]
    id: int
    title: int | None
    text: int | None
    fields: Mapping[str, int]
    """Columns of metadata by their field: those with a name."""

    def cells(self, row: _Row) -> dict[str, Cell]:
        """Return the metadata of a row; empty cells are missing."""
        if row.problem or len(row.cells) != len(self.header):
            return {}
        return {name: Cell(cell) for name, place in self.fields.items() if (cell := row.cells[place].strip())}

    def hidden_rows(self, row: _Row, delimiter: str) -> list[int]:
        """Return the lines within quoted cells of a row that look like rows."""
        if row.problem or len(row.cells) != len(self.header):
            return []
        found, line = [], row.line
        for cell in row.cells:
            for number, text in enumerate(cell.split("\n")[:_MOST_LINES]):
                line += number > 0
                parts = text.rstrip('"\r').split(delimiter)
                identity = parts[self.id].strip() if len(parts) > self.id else ""
                if number and len(parts) == len(self.header) and identity and len(identity.split()) == 1:
                    found.append(line)
        return found


class Table:
    """Rows under a header; cells of CSV may be quoted."""

    def __init__(
        self,
        name: str,
        stream: BinaryIO,
        size: int | None,
        state: str | None,
        *,
        delimiter: str | None,
        columns: Columns,
        types: Mapping[str, Kind] | None = None,
    ) -> None:
        """Without a delimiter it is CSV, with the header's most frequent separator."""
        self.name = name
        self.size = size
        self.passed_over: Mapping[str, int] = {}
        self.state = state
        self.said: list[str] = []
        self.suspect = False
        self._stream = stream
        self._delimiter = delimiter
        self._columns = columns
        self._types = Types(types or {}, "column")
        self._position = 0
        self._too_long = False

    def read(self, after: Mark = BEGINNING) -> Iterator[Record]:
        """Read the records; see Source."""
        with reading_problems(self.name), self._stream as stream:
            layout = None
            for row in sampled(stream, self._rows, self._sample, self._decide):
                if layout is None:
                    layout = self._layout(row)
                    continue
                if row.line <= after.place:
                    continue
                try:
                    yield self._document(row, layout)
                except Rejected as rejected:
                    yield Reject(row.line, rejected.id, str(rejected), row.position, row.lost)
            if layout is None:
                raise Problem(f"{self.name} is empty", "give a table whose first row names its columns")

    def _sample(self, row: _Row, number: int) -> None:
        if number == 0:
            self._sampled = self._layout(row)
        else:
            self._types.sample(self._sampled.cells(row), row.line)

    def _decide(self) -> None:
        self.said += self._types.decide()

    def _texts(self, stream: BinaryIO) -> Iterator[str]:
        """Iterate over lines; wrong bytes stay, for the row to be rejected."""
        for number, (raw, length) in enumerate(lines(stream)):
            if number == 0:
                check_beginning(self.name, raw)
            self._position += length
            self._too_long = self._too_long or length > MAX_RECORD_BYTES
            yield raw.decode("utf-8-sig" if number == 0 else "utf-8", errors="surrogateescape")

    def _rows(self, stream: BinaryIO) -> Iterator[_Row]:
        self._position = 0
        texts = self._texts(stream)
        first = next(texts, "")
        tabs = self._delimiter == "\t"
        csv.field_size_limit(MAX_RECORD_BYTES)
        self._separator = self._delimiter or max(_SEPARATORS, key=first.count)
        reader = csv.reader(
            chain([first], texts),
            delimiter=self._separator,
            quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
            strict=True,
        )
        while True:
            line = reader.line_num + 1
            self._too_long = False
            problem = ""
            lost = 0
            cells: list[str] = []
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                problem, lost = f"is no row of a table: {error}", reader.line_num - line
                if lost > 0:
                    problem += f"; a quote that begins in this line takes the {lost:,} lines after it"
            if self._too_long:
                problem = f"is longer than {MAX_RECORD_BYTES // 2**20} MiB; split it"
            if cells or problem:
                yield _Row(cells, line, self._position, problem, lost)

    def _layout(self, row: _Row) -> _Layout:
        """Find the columns. Raises Problem."""
        header = row.cells
        if row.problem:
            raise Problem(f"the header of {self.name} {row.problem}", "name the columns in the first row")
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
        fields: dict[str, int] = {}
        for number, column in enumerate(header):
            name = field_name(column)
            if number in {identity, title, text} or not column.strip():
                continue
            if name in fields:
                raise Problem(
                    f"{self.name} has two columns {name!r}", "rename one: letters, digits, '_' and '-' tell them apart"
                )
            fields[name] = number
        return _Layout(header, identity, title, text, fields)

    def _document(self, row: _Row, layout: _Layout) -> SourceDocument:
        if row.problem:
            raise Rejected(row.problem)
        if len(row.cells) != len(layout.header):
            raise Rejected(f"has {len(row.cells)} cells, and the header has {len(layout.header)}")
        identity, title, text = (
            "" if place is None else row.cells[place] for place in (layout.id, layout.title, layout.text)
        )
        try:
            "\n".join(row.cells).encode()
        except UnicodeEncodeError:
            raise Rejected("is not UTF-8; convert it with iconv") from None
        if not identity.strip():
            raise Rejected("has no id")
        if not f"{title}{text}".strip():
            raise Rejected("has neither title nor text", identity)
        try:
            metadata = self._types.values(layout.cells(row))
        except Rejected as rejected:
            raise Rejected(str(rejected), identity) from None
        if hidden := layout.hidden_rows(row, self._separator):
            self.suspect = True
            self.said.append(
                f"a quoted cell of the row in line {row.line} holds {len(hidden):,} lines that look like rows, "
                f"the first in line {hidden[0]}; is a quote missing?"
            )
        return SourceDocument(identity.strip(), title, text, metadata, line=row.line, position=row.position)
