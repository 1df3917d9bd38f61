"""Turns of runs to be analysed: together they take a small share of the time, and a long one delays no other. Pure."""

from __future__ import annotations

from collections.abc import Collection

LARGEST_SHARE = 0.1
"""Most of the time that is spent on analyses."""


class Turns:
    """The times from which on runs are due again, in seconds by any clock."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}

    def keep(self, run_ids: Collection[str]) -> None:
        """Forget all other runs; new ones are due at once."""
        self._due = {run_id: self._due.get(run_id, 0.0) for run_id in run_ids}

    def due(self, run_id: str, now: float) -> bool:
        """True if it is the run's turn."""
        return now >= self._due[run_id]

    def took(self, run_id: str, seconds: float, now: float) -> None:
        """Note that the analysis of a run has ended, and how long it took."""
        # Each run has its part of the share, so that a new one never waits for the others.
        self._due[run_id] = now + seconds * (len(self._due) / LARGEST_SHARE - 1)
