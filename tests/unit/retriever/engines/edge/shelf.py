"""Passages for tests of the embedded engine."""

import time

import numpy as np

from services.retriever.documents import Passage
from services.retriever.lexical import SparseVector
from services.retriever.store import Row, point_id

DIMENSION = 8


def row(number, revision="r", words=(7,), vector=None, tokens=None, **metadata):
    """Return a passage whose vector is its own."""
    if vector is None:
        vector = np.random.default_rng(number).normal(size=DIMENSION).astype(np.float32)
    passage = Passage(f"p{number}", f"text {number}", "title", metadata, vector, tokens=tokens)
    return Row(point_id(passage.id), passage, revision, SparseVector(list(words), [1.0] * len(words)))


def ids(rows):
    """Return the points of passages."""
    return [one.id for one in rows]


def settle(shard):
    """Let a shard's housekeeping come to its end."""
    for _ in range(3000):
        if not shard.idle():
            if shard.settled:
                return
            time.sleep(0.01)
    raise AssertionError("housekeeping does not end")
