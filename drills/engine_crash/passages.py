"""Passages that can be told from each other, and looked at for being whole."""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy as np

from services.retriever.documents import Passage, Vector
from services.retriever.engines.edge.store import EdgeStore
from services.retriever.lexical import SparseVector
from services.retriever.store import Parts, Row, point_id

DIMENSION = 64
_WORDS = 60


def row(name: str, revision: str) -> Row:
    """The passage of this name and revision; all of it follows from them."""
    chance = random.Random(f"{name} {revision}")
    terms = sorted(chance.sample(range(2000), 20))
    text = f"{name} {revision} " + " ".join(str(chance.random()) for _ in range(_WORDS))
    passage = Passage(name, text, f"title of {name}", {"revision": revision}, _vector(name, revision))
    return Row(point_id(name), passage, revision, SparseVector(terms, [1.0] * len(terms)))


async def found(store: EdgeStore, version: str) -> tuple[dict[str, str], int, int]:
    """Revisions by passage; the number of passages that are there twice; and of those that are of two revisions."""
    rows: list[Row] = []
    start = None
    while True:
        page, start = await store.scroll(version, start, 500, Parts.VECTOR, None)
        rows += page
        if start is None:
            break
    revisions = {one.passage.id: one.revision for one in rows}
    count = await store.count(version, None)
    return revisions, max(len(rows), count) - len(revisions), sum(map(_is_torn, rows))


def _vector(name: str, revision: str) -> Vector:
    chance = np.random.default_rng(list(f"{name} {revision}".encode()))
    vector = chance.standard_normal(DIMENSION).astype(np.float32)
    whole: Vector = vector / np.linalg.norm(vector)
    return whole


def _is_torn(one: Row) -> bool:
    whole = row(one.passage.id, one.revision)
    assert one.passage.vector is not None
    assert whole.passage.vector is not None
    return not (
        one.passage.text == whole.passage.text
        and np.allclose(one.passage.vector, whole.passage.vector, atol=1e-6)
        and one.words.indices == whole.words.indices
    )


def rows(names: Iterable[str], revision: str) -> list[Row]:
    """The passages of these names."""
    return [row(name, revision) for name in names]
