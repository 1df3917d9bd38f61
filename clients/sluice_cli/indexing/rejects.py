"""The file of records that could not be stored."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from sluice_cli.calls import Problem
from sluice_cli.indexing.records import BEGINNING, Mark, Reject
from sluice_cli.indexing.state import make_room


class Rejects:
    """A file of rejected records with reasons, as JSON lines.

    Rejects up to the mark, of an earlier run, are kept; all others are written again.
    """

    def __init__(self, path: Path, after: Mark) -> None:
        self.path = path
        self.count = 0
        self.lost_lines = 0
        self._after = after
        self._stream: TextIO | None = None

    def __enter__(self) -> Self:
        try:
            self._keep_earlier()
        except OSError as error:
            raise self._unwritable(error) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is None:
            return
        try:
            self._stream.close()
        except OSError as failure:
            if error is None:
                raise self._unwritable(failure) from None

    def add(self, reject: Reject) -> None:
        """Write a reject."""
        where = {"file": reject.position} if reject.line is None else {"line": reject.line}
        lost = {"lost_lines": reject.lost} if reject.lost > 0 else {}
        try:
            if self._stream is None:
                make_room(self.path)
                self._stream = self.path.open("a", encoding="utf-8")
            self._stream.write(json.dumps({**where, "id": reject.id, "reason": reject.reason, **lost}) + "\n")
        except OSError as error:
            raise self._unwritable(error) from None
        self.count += 1
        self.lost_lines += reject.lost

    def sync(self) -> None:
        """Make the rejects durable."""
        if self._stream is None:
            return
        try:
            self._stream.flush()
            if self.path.is_file():
                os.fsync(self._stream.fileno())
        except OSError as error:
            raise self._unwritable(error) from None

    def _keep_earlier(self) -> None:
        if not self.path.is_file():  # possibly /dev/null, which is to stay
            return
        if self._after == BEGINNING:
            self.path.unlink()  # rejects of an earlier run say nothing about this one
            return
        kept = self.path.with_name(f"{self.path.name}.new")
        with self.path.open(encoding="utf-8", errors="replace") as earlier, kept.open("w", encoding="utf-8") as stream:
            for line in earlier:
                with contextlib.suppress(ValueError, TypeError, AttributeError):  # the last one may be half written
                    reject = json.loads(line)
                    if reject.get("line", reject.get("file")) <= self._after.place:
                        stream.write(line)
                        self.count += 1
                        self.lost_lines += reject.get("lost_lines", 0)
            stream.flush()
            os.fsync(stream.fileno())
        if self.count:
            kept.replace(self.path)
        else:
            kept.unlink()
            self.path.unlink()

    def _unwritable(self, error: OSError) -> Problem:
        return Problem(f"{self.path} cannot be written: {error.strerror}", "name another file with --rejects")
