"""Turns of those who write to one file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """One writer of a file at a time; the leader's decisions go before feedback.

    SQLite itself lets writers try again and again, so one that writes all the time would keep the others out.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy = False
        self._leaders = 0

    @property
    def decision_waiting(self) -> bool:
        """True if a decision waits for its turn."""
        return self._leaders > 0

    @contextmanager
    def first(self) -> Iterator[None]:
        """The turn of a decision."""
        with self._changed:
            self._leaders += 1
            self._changed.wait_for(lambda: not self._busy)
            self._busy = True
            self._leaders -= 1
        yield from self._held()

    @contextmanager
    def last(self) -> Iterator[None]:
        """The turn of feedback, when no decision waits."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy and not self._leaders)
            self._busy = True
        yield from self._held()

    def _held(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
