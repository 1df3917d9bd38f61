"""Lines of JSON that outlive a run: what one run has found out, the next one does not ask again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Kept:
    """A file of JSON lines below a first one with a key; one with another key is of no use, and starts anew.

    A line is whole or not there: what a sudden end cut off is removed.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self.lines: list[dict[str, Any]] = []
        """In the order in which they came."""
        whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
        first, *others = [json.loads(line) for line in whole.split(b"\n")] if whole else [{}]
        path.parent.mkdir(parents=True, exist_ok=True)
        if first == {"key": key}:
            self.lines = others
            with path.open("r+b") as file:
                file.truncate(len(whole) + 1)
        else:
            path.write_text(json.dumps({"key": key}) + "\n", encoding="utf-8")

    def add(self, **content: Any) -> None:
        """Keeps one more line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")
        self.lines.append(content)
