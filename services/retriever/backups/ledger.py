"""Points and revisions that a snapshot holds, in the order of the points: 24 bytes a passage in a temporary file."""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from collections.abc import Iterator
from typing import Self

from services.retriever.store import PointId, Row

_POINT, _RECORD = 16, 24
_RECORDS_AT_ONCE = 4096


def record_of(row: Row) -> bytes:
    """Return a row's record: its point, and the first bytes of the SHA-256 of its revision."""
    return uuid.UUID(row.id).bytes + hashlib.sha256(row.revision.encode()).digest()[: _RECORD - _POINT]


class Ledger:
    """Records in order, written once and read once."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed by `close`
        self._digest = hashlib.sha256()
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the file."""
        self._file.close()

    @property
    def sha256(self) -> str:
        """Digest of all records."""
        return self._digest.hexdigest()

    def add(self, record: bytes) -> None:
        """Add a record; its point is greater than all before."""
        self._file.write(record)
        self._digest.update(record)
        self.count += 1

    def records(self) -> Iterator[bytes]:
        """Read all records from the beginning."""
        self._file.seek(0)
        while block := self._file.read(_RECORD * _RECORDS_AT_ONCE):
            for start in range(0, len(block), _RECORD):
                yield block[start : start + _RECORD]


class Reading:
    """Reads a ledger beside rows that come in the same order."""

    def __init__(self, ledger: Ledger) -> None:
        self._records = ledger.records()
        self._next = next(self._records, b"")

    def before(self, record: bytes) -> list[PointId]:
        """Return the points that the ledger has before that of a record, and go on behind them."""
        points = []
        while self._next and self._next[:_POINT] < record[:_POINT]:
            points.append(self._point())
        return points

    def same(self, record: bytes) -> bytes:
        """Return the ledger's record of the same point, and go on behind it; empty where it has none."""
        if self._next[:_POINT] != record[:_POINT]:
            return b""
        found = self._next
        self._point()
        return found

    def rest(self) -> list[PointId]:
        """Return all further points."""
        points = []
        while self._next:
            points.append(self._point())
        return points

    def _point(self) -> PointId:
        point = str(uuid.UUID(bytes=self._next[:_POINT]))
        self._next = next(self._records, b"")
        return point
