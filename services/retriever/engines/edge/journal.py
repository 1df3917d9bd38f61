"""A version's writes since its last flush, kept for the day when the engine's own log cannot be read.

A fault of the engine can leave an entry in its log at which every later reading fails, and with the log goes all that
was not flushed. A flush takes a fifth of a second at 20,000 passages, too long to make each write wait for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from services.retriever.engines.edge.wire import LENGTH, Packed, frame, message_of


class Journal:
    """Changes in their order: each is recorded when the engine has made it, and before it is acknowledged."""

    def __init__(self, path: Path) -> None:
        """Open the journal, or begin one; clear one that was found before going on in it."""
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return os.fstat(self._file).st_size

    def record(self, method: str, changes: Sequence[Packed | str]) -> None:
        """Keep a change. As with the engine's log, the death of the process does not lose it."""
        entry = memoryview(frame((method, changes)))
        before = self.size
        try:
            while entry:
                entry = entry[os.write(self._file, entry) :]
        except OSError:
            os.ftruncate(self._file, before)
            raise

    def changes(self) -> Iterator[Packed]:
        """Return what was recorded, in order; an entry that was cut off was not acknowledged."""
        with self._path.open("rb") as file:
            while len(head := file.read(LENGTH.size)) == LENGTH.size:
                [length] = LENGTH.unpack(head)
                if len(body := file.read(length)) < length:
                    return
                yield message_of(body)

    def clear(self) -> None:
        """Forget what a flush has put on disk."""
        if self.size:
            os.ftruncate(self._file, 0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
