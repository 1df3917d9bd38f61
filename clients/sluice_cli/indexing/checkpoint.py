"""Progress of an indexing run, saved to continue after a crash.

A checkpoint says: all records of the source up to this mark are stored or rejected. Batches end in any order, so the
mark stands before the first record that has not ended, and records that were stored beyond it are stored again, which
changes nothing. It also identifies the run: another source, another collection or other options make another run.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sluice_cli.calls import Problem
from sluice_cli.indexing.records import BEGINNING, Mark
from sluice_cli.indexing.state import make_room
from sluice_client import Config

_MARKER = '{"sluice_checkpoint": 1'


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of what was stored."""

    documents: int = 0
    passages: int = 0
    truncated: int = 0
    replaced: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.documents + other.documents,
            self.passages + other.passages,
            self.truncated + other.truncated,
            self.replaced + other.replaced,
        )


@dataclass(frozen=True, slots=True)
class Settled:
    """The first part of the source, of which all records have ended."""

    mark: Mark = BEGINNING
    counts: Counts = Counts()


class Ledger:
    """Account of records that begin in order and end in any order."""

    def __init__(self, settled: Settled) -> None:
        self.settled = settled
        self._open: deque[Mark] = deque()
        self._ended: dict[int, Counts] = {}

    def take(self, mark: Mark) -> None:
        """Note that the next record is under way."""
        self._open.append(mark)

    def pass_over(self, mark: Mark) -> None:
        """Note that the next record is not stored."""
        if self._open and self._open[-1].place in self._ended:
            # One entry stands for all of them in a row.
            self._ended[mark.place] = self._ended.pop(self._open.pop().place)
        else:
            self._ended[mark.place] = Counts()
        self._open.append(mark)
        self._close()

    def end(self, places: Sequence[int], counts: Counts) -> None:
        """Note that these records, all of them under way, have ended together."""
        self._ended |= dict.fromkeys(places, Counts())
        self._ended[places[-1]] = counts
        self._close()

    def _close(self) -> None:
        mark, counts = self.settled.mark, self.settled.counts
        while self._open and self._open[0].place in self._ended:
            mark = self._open.popleft()
            counts += self._ended.pop(mark.place)
        self.settled = Settled(mark, counts)


class Checkpoint:
    """A file with the mark of one run, identified by `run`."""

    def __init__(self, path: Path, run: Mapping[str, Any], *, needed: bool = False) -> None:
        """`needed` is true if a run must not begin without it."""
        self.path = path
        self.needed = needed
        self.run = dict(run)

    def load(self) -> tuple[Settled, str]:
        """Read the settled part, and the reason if there is none.

        Raises Problem for a file that is no checkpoint, which must not be overwritten.
        """
        try:
            content = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return Settled(), ""
        except OSError as error:
            raise Problem(
                f"the checkpoint {self.path} cannot be read: {error.strerror}", "name another file with --checkpoint"
            ) from None
        if content and not content.startswith(_MARKER):
            raise Problem(
                f"{self.path} is no checkpoint of sluice",
                "name another file with --checkpoint, or move this one out of the way",
            )
        try:
            written = json.loads(content)
            run, settled = written["run"], Settled(Mark(**written["mark"]), Counts(**written["counts"]))
        except (ValueError, KeyError, TypeError):
            return Settled(), f"the checkpoint {self.path} is damaged"
        if settled.mark == BEGINNING:
            return Settled(), ""
        for name, value in self.run.items():
            if run.get(name) != value:
                return Settled(), _DIFFERENCES.get(name, f"the checkpoint {self.path} is of another run ({name})")
        return settled, ""

    def save(self, settled: Settled) -> None:
        """Replace the checkpoint, durably and in one step. May raise OSError."""
        content = {"sluice_checkpoint": 1, "run": self.run, **asdict(settled)}
        make_room(self.path)
        fresh = self.path.with_name(f"{self.path.name}.new")
        with fresh.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(content))
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def clear(self) -> None:
        """Delete the checkpoint at the end of the run."""
        self.path.unlink(missing_ok=True)


_DIFFERENCES = {
    "state": "the source has changed since the checkpoint was written",
    "index": "the collection is another one than when the checkpoint was written",
}


def index_of(config: Config) -> str | None:
    """Identify a collection among those of its name; None without a collection."""
    found = config.collection
    return f"{found.version} of {found.create_time} by {found.model.fingerprint}" if found else None
