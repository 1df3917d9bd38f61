"""The searches of the first stage once more, in numpy, so that thousands of settings can be tried in minutes.

They score with the very vectors, terms and formula of the retriever, whose own `fusion` then joins them;
`tests/integration/test_simulation.py` holds that to what Qdrant's own engine answers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from services.retriever.lexical import Analyzer, Bm25

Scored = list[tuple[int, float]]
"""Documents, by their places in the corpus, with their scores, best first."""


class FirstStage:
    """Searches of one corpus. Documents go by their place in it."""

    def __init__(self, documents: Sequence[tuple[str, str]], vectors: npt.NDArray[np.float32]) -> None:
        """`documents` are titles and texts; `vectors` are of unit length, a row a document."""
        analyzer = Analyzer()
        self._vectors = vectors
        postings: dict[int, list[tuple[int, float, float]]] = defaultdict(list)
        lengths = []
        for place, document in enumerate(documents):
            found = [analyzer.terms(part) for part in document]
            lengths.append([len(terms.telling) for terms in found])
            in_title, in_text = (Counter([*terms.telling, *terms.further]) for terms in found)
            for term in in_title | in_text:
                postings[term].append((place, float(in_title[term]), float(in_text[term])))
        self._title_lengths, self._text_lengths = np.array(lengths).T
        self._postings = {term: np.array(entries).T for term, entries in postings.items()}

    @property
    def average_length(self) -> float:
        """Terms in a document, on average."""
        return float((self._title_lengths + self._text_lengths).mean())

    def dense(self, vector: npt.NDArray[np.float32], depth: int) -> Scored:
        """The nearest documents by cosine."""
        return _best(self._vectors @ vector, depth)

    def lexical(self, query: str, bm25: Bm25, depth: int) -> Scored:
        """The best documents by BM25; those without any of the words are left out."""
        lengths = bm25.title_weight * self._title_lengths + self._text_lengths
        scores = np.zeros(len(lengths))
        norms = bm25.k1 * (1 - bm25.b + bm25.b * lengths / bm25.average_length)
        for term, repeated in zip(*bm25.query_vector(query), strict=True):
            if term in self._postings:
                places = self._postings[term][0].astype(int)
                counts = bm25.title_weight * self._postings[term][1] + self._postings[term][2]
                idf = np.log1p((len(lengths) - len(places) + 0.5) / (len(places) + 0.5))
                scores[places] += repeated * idf * counts * (bm25.k1 + 1) / (counts + norms[places])
        return [found for found in _best(scores, depth) if found[1] > 0]


def _best(scores: npt.NDArray[np.floating], depth: int) -> Scored:
    depth = min(depth, len(scores))
    top = np.argpartition(-scores, depth - 1)[:depth]
    top = top[np.argsort(-scores[top], kind="stable")]
    return list(zip(top.tolist(), scores[top].tolist(), strict=True))
