"""How far an indexing run has come, so that one that was killed goes on where it stopped.

A checkpoint says: everything in the source up to this mark is stored, or written down as rejected. Batches end in any
order, so the mark is behind the first record that has not ended, and what was stored beyond it is stored again, which
changes nothing. It also says what the run was: another source, another collection or other options make another run.
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
from sluice_cli.records import BEGINNING, Mark

_MARKER = '{"sluice_checkpoint": 1'


@dataclass(frozen=True, slots=True)
class Counts:
    """What was stored."""

    documents: int = 0
    passages: int = 0
    truncated: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.documents + other.documents, self.passages + other.passages, self.truncated + other.truncated
        )


@dataclass(frozen=True, slots=True)
class Settled:
    """A part of the source, from its beginning, of which every record has come to its end."""

    mark: Mark = BEGINNING
    counts: Counts = Counts()


class Ledger:
    """Records that were taken from the source in its order, and end in any order."""

    def __init__(self, settled: Settled) -> None:
        self.settled = settled
        self._open: deque[Mark] = deque()
        self._ended: dict[int, Counts] = {}

    def take(self, mark: Mark) -> None:
        """The next record is under way."""
        self._open.append(mark)

    def pass_over(self, mark: Mark) -> None:
        """The next record is none that is stored."""
        if self._open and self._open[-1].place in self._ended:
            # However many there are in a row, one entry does for all.
            self._ended[mark.place] = self._ended.pop(self._open.pop().place)
        else:
            self._ended[mark.place] = Counts()
        self._open.append(mark)
        self._close()

    def end(self, places: Sequence[int], counts: Counts) -> None:
        """These records, all of them under way, have come to their end together."""
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
    """A file with the mark of one run. `run` tells the run from others: every value in it counts."""

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        self.path = path
        self.run = dict(run)

    def load(self) -> tuple[Settled, str]:
        """What is settled, and why that is nothing where there is a checkpoint all the same, or "".

        Raises Problem where the file is something else, which must not be overwritten.
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
        """Replaces the checkpoint, durably and at once: whoever reads it finds the old one or the new one. May raise
        OSError."""
        content = {"sluice_checkpoint": 1, "run": self.run, **asdict(settled)}
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
        """The run is at its end."""
        self.path.unlink(missing_ok=True)


_DIFFERENCES = {
    "state": "the source has changed since the checkpoint was written",
    "index": "the collection is another one than when the checkpoint was written",
}
