"""Sources of documents by their names: folders, files, standard input."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

from sluice_cli.calls import WRONG_COMMAND_LINE, Problem
from sluice_cli.indexing.files import Files, is_document
from sluice_cli.indexing.json_records import JsonLines
from sluice_cli.indexing.records import Source, state_of, unreadable
from sluice_cli.indexing.tables import Columns, Table
from sluice_cli.indexing.types import Kind

Format: TypeAlias = Literal["jsonl", "csv", "tsv"]
_FORMATS: dict[str, Format] = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv"}
_COMPRESSED: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def open_source(
    argument: str,
    kind: Format | None = None,
    columns: Columns = Columns(),  # noqa: B008  # frozen
    types: Mapping[str, Kind] | None = None,
) -> Source:
    """Open a source, of the kind that its name tells. Raises Problem.

    A folder with a `corpus.jsonl` is a collection in BEIR's layout, and that file is the source.
    """
    path = Path(argument)
    try:
        if argument == "-":
            # A reader of its own: a thread that waits in the interpreter's would keep it from ending.
            return _opened("standard input", open(0, "rb", closefd=False), None, None, kind or "jsonl", columns, types)
        if path.is_dir() and (path / "corpus.jsonl").is_file():
            path = path / "corpus.jsonl"
        if path.is_dir():
            return Files(path)
        if kind is None and is_document(path):
            return Files(path.parent, path)
        compressed = _COMPRESSED.get(path.suffix.lower())
        name = path.with_suffix("") if compressed else path
        kind = kind or _FORMATS.get(name.suffix.lower(), "jsonl")
        stream: BinaryIO = compressed(path) if compressed else path.open("rb")
        size = None if compressed else path.stat().st_size
        return _opened(str(path), stream, size, state_of(path), kind, columns, types)
    except OSError as error:
        raise unreadable(str(path), error) from None


def _opened(
    name: str,
    stream: BinaryIO,
    size: int | None,
    state: str | None,
    kind: Format,
    columns: Columns,
    types: Mapping[str, Kind] | None,
) -> Source:
    if kind != "jsonl":
        delimiter = "\t" if kind == "tsv" else None
        return Table(name, stream, size, state, delimiter=delimiter, columns=columns, types=types)
    if columns != Columns():
        raise Problem("JSON has no columns", "leave the names of columns out", exit_code=WRONG_COMMAND_LINE)
    return JsonLines(name, stream, size, state, types)
