"""Folder of a version: one generation of its data, the next one while it is built, and what Edge does not keep.

current           name of the generation that counts; replaced in one step
shard-1/          a generation: Edge's files
shard-1.json      dimension and layout of a generation, size of its graph
shard-2/          the next one, while it is built; removed at opening unless `current` names it
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.retriever.engines.edge.catalogue import replace_file, sync
from services.retriever.layout import Layout

_CURRENT = "current"
# Edge writes a segment anew before it removes the old one.
_ROOM = 2.5
_LOG, _LOG_ASIDE = "wal", "wal-aside"


class Damaged(Exception):
    """The folder cannot be read."""


@dataclass(frozen=True, slots=True)
class State:
    """Facts about a generation that Edge does not keep."""

    dimension: int
    layout: Layout
    """The one by which it was built."""
    wanted: Layout
    """The one by which the next one is built."""
    token_dimension: int = 0
    indexed: int = 0
    """Passages that the graph was built of; 0 without one."""

    @classmethod
    def from_json(cls, text: str) -> State:
        """Read the state; Damaged if it makes no sense."""
        try:
            said: dict[str, Any] = json.loads(text)
            layout, wanted = (Layout.from_notes({"layout": said[name]}) for name in ("layout", "wanted"))
            tokens = int(said.get("token_dimension", 0))
            return cls(int(said["dimension"]), layout, wanted, tokens, int(said["indexed"]))
        except (ValueError, TypeError, LookupError) as error:
            raise Damaged("its state cannot be read") from error

    def to_json(self) -> str:
        """Write the state."""
        layouts = {"layout": self.layout.to_notes(), "wanted": self.wanted.to_notes()}
        numbers = {"dimension": self.dimension, "token_dimension": self.token_dimension, "indexed": self.indexed}
        return json.dumps({**numbers, **layouts})


class Generations:
    """Names, makes and replaces generations in a version's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def current(self) -> Path:
        """The generation that counts; Damaged where none does."""
        try:
            name = (self._folder / _CURRENT).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise Damaged("the name of its data cannot be read") from error
        path = self._folder / name
        if not name.startswith("shard-") or not path.is_dir():
            raise Damaged("its data is missing")
        return path

    def next(self) -> Path:
        """Return a free path for the next generation."""
        numbers = [int(path.name.removeprefix("shard-")) for path in self._folder.glob("shard-*") if path.is_dir()]
        return self._folder / f"shard-{max(numbers, default=0) + 1}"

    def state(self, shard: Path) -> State:
        """Read the state of a generation."""
        try:
            return State.from_json(self._state_path(shard).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Damaged("its state cannot be read") from error

    def keep(self, shard: Path, state: State) -> None:
        """Write the state of a generation durably."""
        replace_file(self._state_path(shard), state.to_json())

    def switch(self, shard: Path) -> None:
        """Let a generation, which is on the disk, be the one that counts."""
        replace_file(self._folder / _CURRENT, shard.name)

    def has_room(self) -> bool:
        """True if the disk has room for another generation, and the files that building it takes."""
        size = sum(path.stat().st_size for path in self.current.rglob("*") if path.is_file())
        return shutil.disk_usage(self._folder).free > _ROOM * size

    def tidy(self) -> None:
        """Remove every generation but the current one."""
        current = self.current.name
        for path in self._folder.glob("shard-*"):
            if path.is_dir() and path.name != current:
                shutil.rmtree(path, ignore_errors=True)
            elif path.suffix == ".json" and path.stem != current:
                path.unlink(missing_ok=True)

    def set_log_aside(self) -> None:
        """Move the log of the current generation out of it."""
        log, aside = self.current / _LOG, self._folder / _LOG_ASIDE
        if log.exists():
            shutil.rmtree(aside, ignore_errors=True)
            log.rename(aside)
            sync(log.parent)

    def _state_path(self, shard: Path) -> Path:
        return self._folder / f"{shard.name}.json"
