"""A version in a folder of its own, kept by Qdrant Edge; runs in the child process.

Nothing here waits, and nothing here knows asyncio, gRPC or qdrant-client: importing them would cost the child 2 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from services.retriever.fields import ALL, Filter, Scalar, Schema
from services.retriever.layout import Layout
from services.retriever.store import PLAIN, Hit, Parts, PointId, Query, Revisions, Row


class Damaged(Exception):
    """The folder cannot be read."""


class PoisonedLog(Damaged):
    """The folder can be read, but its log of what is not flushed cannot: load it with `without_log`."""


class Refused(Exception):
    """Rows or a query that the engine does not take; nothing was written."""


class Shard:
    """One version. Its calls raise `Refused`, and `Damaged` where only loading it again helps (the log is whole)."""

    @classmethod
    def create(cls, folder: Path, dimension: int, layout: Layout = PLAIN) -> Shard:
        """Create an empty version, durably, in a folder that does not exist yet."""
        raise NotImplementedError

    @classmethod
    def load(cls, folder: Path, *, without_log: bool = False) -> Shard:
        """Open a version and replay its log; `without_log` renames the log, so that what it held is lost."""
        raise NotImplementedError

    def write(self, rows: Sequence[Row], still: Revisions | None = None) -> None:
        """Write all passages or none (Refused), each only if it still has its revision in `still`; "" for absent."""
        raise NotImplementedError

    def remove(self, ids: Sequence[PointId], still: Revisions | None = None) -> None:
        """Remove passages, each only if it still has its revision in `still`, where that is given."""
        raise NotImplementedError

    def search(
        self, searches: Sequence[Query], limit: int, condition: Filter = ALL, layout: Layout = PLAIN
    ) -> list[list[Hit]]:
        """Return the best passages of each search, best first; see `PassageStore.search`."""
        raise NotImplementedError

    def read(self, ids: Sequence[PointId], parts: Parts, keys: Sequence[PointId] = ()) -> list[Row]:
        """Return the passages that exist; of those in `keys`, only their keys."""
        raise NotImplementedError

    def scroll(
        self, start: PointId | None, limit: int, parts: Parts, condition: Filter = ALL
    ) -> tuple[list[Row], PointId | None]:
        """Return matching passages from `start` on in the order of their points, and the start of the next ones."""
        raise NotImplementedError

    def count(self, condition: Filter = ALL) -> int:
        """Count matching passages exactly."""
        raise NotImplementedError

    def facet(self, field: str, limit: int, condition: Filter = ALL) -> list[tuple[Scalar, int]]:
        """Return the most frequent values of a declared field among matching passages, each with its number."""
        raise NotImplementedError

    def declare(self, schema: Schema, tenant: str = "") -> None:
        """Index fields for filters; of a field that has another type by now, index it again."""
        raise NotImplementedError

    def tune(self, layout: Layout) -> None:
        """Keep the version by another layout; it is rebuilt in the background (see `idle`)."""
        raise NotImplementedError

    def size(self) -> int:
        """Return the number of passages, without counting them."""
        raise NotImplementedError

    def flush(self) -> None:
        """Put on disk what was written."""
        raise NotImplementedError

    def idle(self) -> bool:
        """Do a slice of housekeeping (at most some 50 ms): flush, build the graph, vacuum. True if there is more."""
        raise NotImplementedError

    def close(self) -> None:
        """Flush and free the folder; a build that is under way is given up."""
        raise NotImplementedError
