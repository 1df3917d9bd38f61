"""The first stage once more, in numpy, so that thousands of settings can be tried in minutes.

It ranks with the very vectors, terms and formula of the retriever; `tests/integration/test_simulation.py` holds it to
what Qdrant's own engine answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from services.retriever.lexical import Bm25, query_vector

Ranking = npt.NDArray[np.int64]
"""Places of documents in their corpus, best first."""


class FirstStage:
    """Searches of one corpus. Documents go by their place in it."""

    def __init__(self, texts: Sequence[str], vectors: npt.NDArray[np.float32]) -> None:
        """`vectors` are of unit length, a row a text."""
        self._vectors = vectors
        postings: dict[int, list[tuple[int, float]]] = defaultdict(list)
        lengths = []
        for place, text in enumerate(texts):
            terms = query_vector(text)
            lengths.append(sum(terms.values))
            for term, count in zip(*terms, strict=True):
                postings[term].append((place, count))
        self._lengths = np.array(lengths)
        self._postings = {term: np.array(entries).T for term, entries in postings.items()}

    @property
    def average_length(self) -> float:
        """Terms in a document, on average."""
        return float(self._lengths.mean())

    def dense(self, vector: npt.NDArray[np.float32], depth: int) -> Ranking:
        """The nearest documents by cosine."""
        return _best(self._vectors @ vector, depth)

    def lexical(self, query: str, bm25: Bm25, depth: int) -> Ranking:
        """The best documents by BM25; those without any of the words are left out."""
        scores = np.zeros(len(self._lengths))
        norms = bm25.k1 * (1 - bm25.b + bm25.b * self._lengths / bm25.average_length)
        for term, repeated in zip(*query_vector(query), strict=True):
            if term in self._postings:
                places, counts = self._postings[term][0].astype(int), self._postings[term][1]
                idf = np.log1p((len(self._lengths) - len(places) + 0.5) / (len(places) + 0.5))
                scores[places] += repeated * idf * counts * (bm25.k1 + 1) / (counts + norms[places])
        best = _best(scores, depth)
        return best[scores[best] > 0]


def fuse(searches: Sequence[tuple[Ranking, float]], k: float, depth: int) -> tuple[Ranking, npt.NDArray[np.float64]]:
    """Weighted reciprocal rank fusion as Qdrant does it (`services.retriever.index.to_query`): ranking and scores."""
    scores: dict[int, float] = defaultdict(float)
    for place, (ranking, weight) in enumerate(searches):
        settled = weight * (1 - place / 1000)
        for position, document in enumerate(ranking[:depth].tolist()):
            scores[document] += 1 / ((position + 1) / settled + k - 1)
    ordered = sorted(scores.items(), key=lambda item: -item[1])
    return np.array([item[0] for item in ordered], np.int64), np.array([item[1] for item in ordered])


def _best(scores: npt.NDArray[np.floating], depth: int) -> Ranking:
    depth = min(depth, len(scores))
    top = np.argpartition(-scores, depth - 1)[:depth]
    return top[np.argsort(-scores[top], kind="stable")]
