"""Faster parts for Qdrant's embedded engine (qdrant-client 1.20), which is slow in three places.

It writes each point in a transaction of its own, with the disk flushed three times: about a hundred points a second.
It scores sparse vectors in a Python loop over every passage, 350 ms for one variant of a query among 20,000 passages.
And it copies all dense vectors to double precision for every query, which takes 50 ms where the product takes 4.

The engine has no setting for these, so three names that it uses are replaced in its module. Sparse scores stay the
same to the last bit, dense ones to the seventh digit (`tests/integration/test_retriever_embedded.py`); what changes is
that a power failure, though not the death of the process, may take the last writes with it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from qdrant_client.http import models
from qdrant_client.http.models import Distance, SparseVector
from qdrant_client.local import local_collection
from qdrant_client.local.distances import calculate_distance
from qdrant_client.local.persistence import STORAGE_FILE_NAME, CollectionPersistence

_COLLECTIONS_KEPT = 4


def tune() -> None:
    """Replace all three; collections that are open already keep the slow storage."""
    # mypy holds that the names of other modules are not for us to change.
    local_collection.CollectionPersistence = Storage  # type: ignore[attr-defined]
    local_collection.calculate_distance = dense_scores  # type: ignore[attr-defined, assignment]
    local_collection.calculate_distance_sparse = Postings.scores_of_all  # type: ignore[attr-defined]


class Storage(CollectionPersistence):
    """The engine's storage with a write-ahead log: a commit no longer waits for the disk.

    A file that cannot be read is left as it is, and noted in `damaged`; the engine gets an empty storage instead.
    """

    damaged: ClassVar[dict[Path, str]] = {}
    """Folders of collections whose file is damaged, with the problem."""

    def __init__(self, location: str, *args: Any, **kwargs: Any) -> None:
        folder = Path(location)
        if problem := self.damaged.pop(folder, ""):
            self._stand_in(folder, problem)
            return
        file = folder / STORAGE_FILE_NAME
        if file.exists() and not file.stat().st_size:
            self._stand_in(folder, "its file is empty")
            return
        try:
            super().__init__(location, *args, **kwargs)
            self.storage.execute("PRAGMA journal_mode = WAL")
            self.storage.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            self._stand_in(folder, f"its file is no database: {error}")

    def load(self) -> Iterable[models.PointStruct]:
        """Load all points; none further after one that cannot be read."""
        try:
            yield from super().load()
        except Exception as error:  # unpickling raises anything
            self.damaged[self.location.parent] = f"a row of its file cannot be read: {type(error).__name__}"

    def _stand_in(self, folder: Path, problem: str) -> None:
        self.damaged[folder] = problem
        self.location = folder / STORAGE_FILE_NAME
        self.storage = sqlite3.connect(":memory:")
        self._legacy_keys = {}
        self._ensure_table()


def dense_scores(query: npt.NDArray[Any], vectors: npt.NDArray[Any], distance: Distance) -> npt.NDArray[Any]:
    """Replace `calculate_distance`: dot products in the precision of the vectors."""
    if distance is Distance.DOT and query.ndim == 1:
        scores: npt.NDArray[Any] = vectors @ query.astype(vectors.dtype)
        return scores
    return calculate_distance(query, vectors, distance)


class Postings:
    """Sparse vectors of a collection, inverted: for each term the passages that have it."""

    _kept: list[Postings] = []  # noqa: RUF012  the engine's thread is the only one here

    def __init__(self, vectors: Sequence[SparseVector]) -> None:
        self._vectors = list(vectors)
        sizes = np.fromiter((len(vector.indices) for vector in vectors), np.int64, len(vectors))
        entries = int(sizes.sum())
        terms = np.fromiter(chain.from_iterable(vector.indices for vector in vectors), np.uint32, entries)
        values = np.fromiter(chain.from_iterable(vector.values for vector in vectors), np.float64, entries)
        passages = np.repeat(np.arange(len(vectors), dtype=np.int32), sizes)
        order = np.argsort(terms, kind="stable")
        self._terms, self._passages, self._values = terms[order], passages[order], values[order]

    @classmethod
    def scores_of_all(
        cls, query: SparseVector, vectors: Sequence[SparseVector], empty_is_zero: bool = False
    ) -> npt.NDArray[np.float32]:
        """Replace `calculate_distance_sparse`: dot products; -inf or zero where no term is shared.

        Kept postings hold if the vectors are equal. That is cheap to see, as comparing lists begins with comparing
        identities, and it cannot miss a write.
        """
        postings = next((kept for kept in cls._kept if kept._vectors == vectors), None)
        if postings is None:
            postings = cls(vectors)
        else:
            cls._kept.remove(postings)
        cls._kept = [postings, *cls._kept[: _COLLECTIONS_KEPT - 1]]
        return postings.scores(query, 0.0 if empty_is_zero else -np.inf)

    def scores(self, query: SparseVector, without: float) -> npt.NDArray[np.float32]:
        """Return the scores of all passages; `without` where no term is shared."""
        scores = np.zeros(len(self._vectors))
        shared = np.zeros(len(self._vectors), dtype=bool)
        for term, weight in zip(query.indices, query.values, strict=True):
            start, end = (np.searchsorted(self._terms, np.uint32(term), side) for side in ("left", "right"))
            passages = self._passages[start:end]
            scores[passages] += weight * self._values[start:end]
            shared[passages] = True
        return np.where(shared, scores, without).astype(np.float32)
