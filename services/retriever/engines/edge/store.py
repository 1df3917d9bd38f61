"""Passages in Qdrant Edge, embedded: one process of its own, one folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from services.chassis.errors import FailedPrecondition, StartupError
from services.late.codes import Codes
from services.retriever.engines.edge import catalogue
from services.retriever.engines.edge.process import ChildProcess
from services.retriever.engines.edge.wire import pack_rows, unpack_rows
from services.retriever.fields import ALL, Filter, Scalar, Schema
from services.retriever.layout import Layout
from services.retriever.lexical import SparseVector
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings
from services.retriever.store import (
    PLAIN,
    Catalogue,
    Deadline,
    Description,
    Hit,
    Notes,
    Parts,
    PointId,
    Query,
    Revisions,
    Row,
)

# Token vectors take some 0.3 ms a passage, and other calls wait for a reading.
_WHOLE_ROWS_AT_ONCE = 64
OLD_INDEX = "meta.json"
"""File of the engine of earlier releases, which wrote to `collection/`."""


class EdgeStore:
    """Passages in the embedded engine; see `PassageStore`. A write survives the death of the process."""

    def __init__(self, index: Path, child: ChildProcess) -> None:
        """Use `open`."""
        self._index = index
        self._child = child

    @classmethod
    async def open(
        cls, settings: RetrieverSettings, metrics: RetrieverMetrics, *, beside_old_data: bool = False
    ) -> EdgeStore:
        """Open the data folder that the settings name, or create it. Raises StartupError if it cannot be had.

        `beside_old_data` opens one where an earlier release's data have not been imported yet.
        """
        folder = settings.qdrant_path
        if (folder / OLD_INDEX).exists() and not beside_old_data:
            raise StartupError(
                f"QDRANT_PATH: {folder} holds data of an earlier release, which this one cannot serve as they are",
                remedy=f"Import them, once: `python -m services.retriever.importing {folder}`.",
            )
        child = ChildProcess(folder, settings.qdrant_free_bytes, metrics)
        await child.start()
        return cls(folder / catalogue.FILE, child)

    @property
    def pid(self) -> int | None:
        """Id of the process that computes; None while it is being started again."""
        return self._child.pid

    async def check(self, deadline: Deadline) -> None:
        """Look for the process and for its catalogue: a call would only queue behind the work."""
        if (problem := self._child.problem) is not None:
            raise problem
        if not self._index.is_file():
            raise FailedPrecondition(
                f"{self._index} is gone, so nothing that is stored will be found after a restart; put it back from a "
                "backup",
                reason="INDEX_LOST",
            )

    async def close(self) -> None:
        """Wait for the work under way and free the folder."""
        await self._child.close()

    async def catalogue(self, deadline: Deadline) -> Catalogue:
        return Catalogue(*await self._call("catalogue", deadline))

    async def describe(self, name: str, deadline: Deadline) -> Description:
        return Description(*await self._call("describe", deadline, name))

    async def create(
        self,
        version: str,
        dimension: int,
        layout: Layout,
        notes: Notes,
        deadline: Deadline,
        token_dimension: int = 0,
    ) -> None:
        # Repeated, it would not know its own version from another's.
        arguments = (version, dimension, layout, dict(notes), token_dimension)
        await self._child.call("create_collection", "create", deadline, arguments, again=False)

    async def tune(self, version: str, layout: Layout, deadline: Deadline) -> None:
        await self._call("tune", deadline, version, layout)

    async def note(self, version: str, notes: Notes, deadline: Deadline) -> None:
        await self._call("note", deadline, version, dict(notes))

    async def drop(self, version: str, deadline: Deadline) -> None:
        await self._call("drop", deadline, version)

    async def point(self, alias: str, version: str, deadline: Deadline) -> None:
        await self._call("point", deadline, alias, version)

    async def declare(self, version: str, schema: Schema, deadline: Deadline, tenant: str = "") -> None:
        await self._call("declare", deadline, version, dict(schema), tenant)

    async def write(
        self, version: str, rows: Sequence[Row], deadline: Deadline, still: Revisions | None = None
    ) -> None:
        arguments = (version, pack_rows(rows), None if still is None else dict(still))
        await self._child.call("upsert", "write", deadline, arguments)

    async def replace_words(
        self, version: str, words: Mapping[PointId, SparseVector], still: Revisions, deadline: Deadline
    ) -> None:
        await self._call("replace_words", deadline, version, dict(words), dict(still))

    async def remove(
        self, version: str, ids: Sequence[PointId], deadline: Deadline, still: Revisions | None = None
    ) -> None:
        arguments = (version, list(ids), None if still is None else dict(still))
        await self._child.call("delete", "remove", deadline, arguments)

    async def search(
        self,
        version: str,
        searches: Sequence[Query],
        limit: int,
        condition: Filter,
        deadline: Deadline,
        layout: Layout = PLAIN,
    ) -> Sequence[Sequence[Hit]]:
        found = await self._call("search", deadline, version, list(searches), limit, condition, layout)
        return [[(point, score) for point, score in hits] for hits in found]

    async def holders(
        self,
        version: str,
        terms: Sequence[int],
        limit: int,
        condition: Filter,
        deadline: Deadline,
        among: Sequence[PointId] = (),
    ) -> Sequence[Sequence[PointId]]:
        arguments = (version, list(terms), limit, condition, list(among))
        found: list[list[PointId]] = await self._call("holders", deadline, *arguments)
        return found

    async def compare(
        self, version: str, tokens: Codes, points: Sequence[PointId], deadline: Deadline
    ) -> Mapping[PointId, float]:
        found: Mapping[PointId, float] = await self._call("compare", deadline, version, tokens, list(points))
        return found

    async def read(
        self,
        version: str,
        ids: Sequence[PointId],
        parts: Parts,
        deadline: Deadline,
        keys: Sequence[PointId] = (),
    ) -> Sequence[Row]:
        rows: list[Row] = []
        step = _WHOLE_ROWS_AT_ONCE if parts is Parts.VECTOR else max(1, len(ids))
        for start in range(0, max(1, len(ids)), step):
            arguments = (version, list(ids[start : start + step]), parts.value, list(keys) if start == 0 else [])
            rows += unpack_rows(await self._child.call("retrieve", "read", deadline, arguments))
        return rows

    async def scroll(
        self, version: str, start: PointId | None, limit: int, parts: Parts, deadline: Deadline, condition: Filter = ALL
    ) -> tuple[Sequence[Row], PointId | None]:
        rows, following = await self._call("scroll", deadline, version, start, limit, parts.value, condition)
        return unpack_rows(rows), following

    async def count(self, version: str, deadline: Deadline, condition: Filter = ALL) -> int:
        found: int = await self._call("count", deadline, version, condition)
        return found

    async def facet(
        self, version: str, field: str, limit: int, condition: Filter, deadline: Deadline
    ) -> Sequence[tuple[Scalar, int]]:
        found = await self._call("facet", deadline, version, field, limit, condition)
        return [(value, count) for value, count in found]

    async def _call(self, method: str, deadline: Deadline, *arguments: Any) -> Any:
        return await self._child.call(method, method, deadline, arguments)
