"""Lines of JSON that outlive a run: what one run has found out, the next one does not ask again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Kept:
    """A file of JSON lines below a first one with a key; one with another key is of no use, and is started again.

    A line is whole or not there: what a sudden end cut off is removed.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self.lines: list[dict[str, Any]] = []
        """In the order in which they came."""
        self._fresh = json.dumps({"key": key}).encode() + b"\n"
        self._whole = 0
        kept = path.read_bytes() if path.exists() else b""
        whole = kept[: kept.rfind(b"\n") + 1]
        if whole.startswith(self._fresh):
            self.lines = [json.loads(line) for line in whole.splitlines()[1:]]
            self._fresh, self._whole = b"", len(whole)

    def add(self, **content: Any) -> None:
        """Keep one more line. Until then the file stays as it is."""
        line = self._fresh + json.dumps(content).encode() + b"\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("r+b" if self._whole else "wb") as file:
            file.truncate(self._whole)
            file.seek(self._whole)
            file.write(line)
        self._fresh, self._whole = b"", self._whole + len(line)
        self.lines.append(content)
