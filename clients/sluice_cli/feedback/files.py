"""Files of an export: JSON lines, OpenSearch's bulk format, Parquet.

Files are written under other names, and get their own at the end: a file that is there is whole.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

QUERIES, EVENTS = "ubi_queries", "ubi_events"
ROWS_IN_A_GROUP = 20_000


class Export(ABC):
    """Takes documents, each for one of the two indexes; used as `with ... as export:`."""

    @abstractmethod
    def add(self, index: str, identity: str, document: dict[str, Any]) -> None:
        """Write a document."""

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Bulk(Export):
    """OpenSearch's bulk format: a line that names index and id before each document. Loading it twice does no harm."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def add(self, index: str, identity: str, document: dict[str, Any]) -> None:
        """Write a document."""
        action = {"index": {"_index": index, "_id": identity}}
        self._stream.write(f"{json.dumps(action)}\n{json.dumps(document)}\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.flush()


class _Files(Export):
    """Two files in a folder."""

    def __init__(self, folder: Path, ending: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.paths = {index: folder / f"{index}.{ending}" for index in (QUERIES, EVENTS)}
        self._stack = ExitStack()

    def _unfinished(self, index: str) -> Path:
        path = self.paths[index]
        return path.with_name(f"{path.name}.part")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        for index, path in self.paths.items():
            if kind is None:
                self._unfinished(index).replace(path)
            else:
                self._unfinished(index).unlink(missing_ok=True)


class JsonLines(_Files):
    """`ubi_queries.jsonl` and `ubi_events.jsonl`: a document a line."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "jsonl")
        self._open = {
            index: self._stack.enter_context(self._unfinished(index).open("w", encoding="utf-8"))
            for index in self.paths
        }

    def add(self, index: str, identity: str, document: dict[str, Any]) -> None:
        """Write a document."""
        self._open[index].write(json.dumps(document) + "\n")


class Parquet(_Files):
    """`ubi_queries.parquet` and `ubi_events.parquet`: the same fields as columns, in groups of rows."""

    def __init__(self, folder: Path) -> None:
        import pyarrow as pa  # noqa: PLC0415  # an extra
        from pyarrow import parquet  # noqa: PLC0415  # an extra

        super().__init__(folder, "parquet")
        self._table = pa.Table
        self._schemas = _schemas(pa)
        self._rows: Mapping[str, list[dict[str, Any]]] = {QUERIES: [], EVENTS: []}
        self._writers = {
            index: self._stack.enter_context(parquet.ParquetWriter(self._unfinished(index), schema, compression="zstd"))
            for index, schema in self._schemas.items()
        }

    def add(self, index: str, identity: str, document: dict[str, Any]) -> None:
        """Write a document."""
        rows = self._rows[index]
        rows.append({**document, "timestamp": datetime.fromisoformat(document["timestamp"])})
        if len(rows) >= ROWS_IN_A_GROUP:
            self._write(index)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            for index in self.paths:
                self._write(index)
        super().__exit__(kind, error, trace)

    def _write(self, index: str) -> None:
        if rows := self._rows[index]:
            self._writers[index].write_table(self._table.from_pylist(rows, schema=self._schemas[index]))
            rows.clear()


def _schemas(pa: Any) -> dict[str, Any]:
    text, time = pa.string(), pa.timestamp("ms", tz="UTC")
    exposure = pa.struct([("experiment", text), ("run_id", text), ("arm", text), ("teams", pa.list_(pa.int32()))])
    return {
        QUERIES: pa.schema(
            [
                ("application", text),
                ("query_id", text),
                ("client_id", text),
                ("user_query", text),
                ("query_response_id", text),
                ("query_response_object_ids", pa.list_(text)),
                ("object_id_field", text),
                (
                    "query_attributes",
                    pa.struct(
                        [
                            ("collection", text),
                            ("first_position", pa.int32()),
                            ("tenant", text),
                            ("ending", text),
                            ("seconds", pa.float64()),
                            ("model_tokens", pa.int64()),
                            ("experiments", pa.list_(exposure)),
                        ]
                    ),
                ),
                ("timestamp", time),
            ]
        ),
        EVENTS: pa.schema(
            [
                ("application", text),
                ("action_name", text),
                ("query_id", text),
                ("session_id", text),
                ("client_id", text),
                ("user_id", text),
                ("timestamp", time),
                (
                    "event_attributes",
                    pa.struct(
                        [
                            ("object", pa.struct([("object_id", text), ("object_id_field", text)])),
                            ("position", pa.struct([("ordinal", pa.int32())])),
                            ("event_id", text),
                            ("rating", pa.float64()),
                            ("aspect", text),
                            ("label", text),
                        ]
                    ),
                ),
            ]
        ),
    }
