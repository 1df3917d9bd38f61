"""Rows of any table as records. JSON is read as text, so that a damaged row does not take the others with it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic import TypeAdapter

from services.chassis import logs

_log = logs.get_logger("rollout")
RecordT = TypeVar("RecordT")


def text(table: sa.Table, *more: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Select a table with JSON as text: the driver's own reader would fail for all rows if one is damaged."""
    columns = (sa.cast(c, sa.Text).label(c.name) if isinstance(c.type, sa.JSON) else c for c in table.c)
    return sa.select(*columns, *more)


def parsed(row: Any, table: sa.Table) -> dict[str, Any]:
    """Values of a row. Raises ValueError where its JSON is damaged."""
    values = dict(row._mapping)
    for name in (column.name for column in table.c if isinstance(column.type, sa.JSON)):
        values[name] = json.loads(values[name]) if values[name] is not None else None
    return values


def readable(rows: Iterable[Any], table: sa.Table, adapter: TypeAdapter[RecordT]) -> list[RecordT]:
    """Records of the rows that can be read; a damaged one is left out and logged, and does not take others with it."""
    found = []
    for row in rows:
        try:
            found.append(adapter.validate_python(parsed(row, table)))
        except ValueError as error:
            _log.error("damaged row left out", table=table.name, problem=str(error).splitlines()[0])
    return found


def inserted_number(result: sa.CursorResult[Any]) -> int:
    """The number that the database gave a row."""
    return int((result.inserted_primary_key or (0,))[0])
