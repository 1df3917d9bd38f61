"""Document frequencies of a version's terms, where Qdrant does not know them.

Qdrant multiplies by the IDF of each shard by itself: of several shards the scores are not those of one collection. So a
version of several shards is kept without that, and a query's terms are weighed here by a table of all its passages.

A table is made by reading the words of all passages, or of a sample where there are many: ids of points are hashes, so
those that follow any of them are chosen by chance. It is made again once enough has changed since, at the next search
where that takes no time worth mentioning, beside the searches otherwise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.chassis import logs
from services.chassis.errors import SluiceError
from services.retriever.lexical import SparseVector

SAMPLE = 50_000
"""Most passages of which a table is made."""
_SMALL = 2_000
"""Passages that are counted again at the search that follows any change."""
_CHANGED = 0.02
"""Share of the passages after whose change a larger table is made again."""
_OLD_SECONDS = 3600.0
"""Age of a table that is made again whatever has changed: others write, too."""

_log = logs.get_logger("retriever")


@dataclass(frozen=True, slots=True)
class Frequencies:
    """Numbers of passages that have a term."""

    total: int
    """Passages of the version that have terms."""
    counted: int
    """Those of them that were read."""
    terms: npt.NDArray[np.uint32]
    """Ascending."""
    numbers: npt.NDArray[np.int64]
    """Passages that have the term, of those that were read."""

    def weigh(self, words: SparseVector) -> SparseVector:
        """Return a query's words, each multiplied by the term's IDF."""
        wanted = np.asarray(words.indices, np.uint32)
        places = np.searchsorted(self.terms, wanted).clip(max=max(0, len(self.terms) - 1))
        found = np.zeros(len(wanted))
        if len(self.terms):
            found = np.where(self.terms[places] == wanted, self.numbers[places], 0).astype(np.float64)
        if self.counted < self.total:
            # One that is not in the sample may be in as many passages as the sample leaves out for each of its own.
            found = np.maximum(found, 0.5) * (self.total / max(1, self.counted))
        weights = np.log1p((self.total - found + 0.5).clip(min=0) / (found + 0.5))
        return SparseVector(words.indices, (np.asarray(words.values) * weights).tolist())


class FrequencyCount:
    """Counts terms of passages as they are read."""

    def __init__(self) -> None:
        self.read = 0
        """Number of passages."""
        self._with_terms = 0
        self._terms = np.empty(0, np.uint32)
        self._numbers = np.empty(0, np.int64)

    def add(self, passages: list[list[int]]) -> None:
        """Count the terms of some passages, which are not repeated within one."""
        self.read += len(passages)
        self._with_terms += sum(map(bool, passages))
        terms = np.fromiter((term for one in passages for term in one), np.uint32)
        new, numbers = np.unique(terms, return_counts=True)
        both = np.concatenate((self._terms, new))
        self._terms, places = np.unique(both, return_inverse=True)
        self._numbers = np.bincount(places, np.concatenate((self._numbers, numbers)), len(self._terms)).astype(np.int64)

    def table(self, total: int) -> Frequencies:
        """Return what was counted, for a version of so many passages."""
        share = self._with_terms / self.read if self.read else 0
        whole = round(total * share) if total > self.read else self._with_terms
        return Frequencies(whole, self._with_terms, self._terms, self._numbers)


Count = Callable[[], Awaitable[Frequencies]]


class Table:
    """The frequencies of one version, made again when they are out of date."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._made: Frequencies | None = None
        self._made_at = 0.0
        self._size: int | None = None
        self._changed = 0
        self._drift = 0
        self._counting: asyncio.Task[Frequencies] | None = None

    def changed(self, passages: int) -> None:
        """Note that so many passages were written or removed."""
        self._changed += passages

    def seen(self, size: int) -> None:
        """Note the size of the version, as Qdrant says it: about right, and the only sign of what others write."""
        if self._size is None:
            self._size = size
        self._drift = abs(size - self._size)

    async def current(self, count: Count) -> Frequencies:
        """Return the frequencies, counted now if need be."""
        made = self._made
        if made is None:
            return await self._count(count)
        changed = max(self._changed, self._drift)
        if made.total <= _SMALL and changed:
            return await self._count(count)
        old = self._clock() - self._made_at > _OLD_SECONDS
        if (changed > _CHANGED * made.total or old) and self._counting is None:
            self._begin(count)
        return made

    def close(self) -> None:
        """Stop counting."""
        if self._counting is not None:
            self._counting.cancel()

    async def _count(self, count: Count) -> Frequencies:
        """Count, or wait for the counting under way if it began after the last change."""
        while (counting := self._counting) is not None:
            await asyncio.wait((counting,))
            if not max(self._changed, self._drift) and self._made is not None:
                return self._made
        return await asyncio.shield(self._begin(count))

    def _begin(self, count: Count) -> asyncio.Task[Frequencies]:
        self._changed, self._drift, self._size = 0, 0, None
        self._counting = task = asyncio.get_running_loop().create_task(self._made_by(count))
        # Nobody may wait for it any more when it fails.
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return task

    async def _made_by(self, count: Count) -> Frequencies:
        try:
            self._made = await count()
        except SluiceError as error:
            self._changed = max(self._changed, 1)
            _log.warning("frequencies of terms could not be counted", reason=error.reason)
            raise
        finally:
            self._counting = None
        self._made_at = self._clock()
        return self._made
