"""A record of acknowledged writes that outlives whoever writes them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

Changes = Mapping[str, str | None]
"""New revisions by passage; None where it is removed."""


class Ledger:
    """For every passage the revisions that it may have: the acknowledged one, and later ones under way."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.possible: dict[str, set[str | None]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                kind, changes = json.loads(line)
            except ValueError:
                continue  # cut off by a kill, and so not begun
            self._apply(kind, changes)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def intend(self, changes: Changes) -> None:
        """Record changes before they are asked for."""
        self._record("intended", changes)

    def done(self, changes: Changes) -> None:
        """Record that they were acknowledged."""
        self._record("done", changes)

    def wrong(self, actual: Mapping[str, str]) -> list[str]:
        """Return the passages that are not as they may be, and take what is there as what was acknowledged."""
        wrong = [name for name, may in self.possible.items() if actual.get(name) not in may]
        wrong += [name for name in actual if name not in self.possible]
        self.done({name: actual.get(name) for name in {*self.possible, *actual}})
        return wrong

    def settled(self) -> dict[str, str]:
        """Return the passages that are known to be there, with their revisions."""
        return {name: one for name, may in self.possible.items() if len(may) == 1 for one in may if one is not None}

    def _record(self, kind: str, changes: Changes) -> None:
        os.write(self._file, f"{json.dumps([kind, changes])}\n".encode())
        self._apply(kind, changes)

    def _apply(self, kind: str, changes: Changes) -> None:
        for name, revision in changes.items():
            if kind == "done":
                self.possible[name] = {revision}
            else:
                self.possible.setdefault(name, {None}).add(revision)
