"""Sentences of texts that answer a query best, by its words.

A sentence is worth the sum of the IDF of those of the query's terms that it has, as a share of that of all of them.
The IDF is that of the sentences looked at: it tells which of the query's words are common in this answer. Of each text
the best sentence is taken, then the one that adds most terms to it, and so on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from services.language.sentences import sentences
from services.retriever.lexical import Analyzer
from sluice.type.v1 import passage_pb2 as pb

MAX_TEXTS = 100
MOST_CHARACTERS = 16_384
"""Characters of a text that are looked at."""
_MOST_SENTENCES = 3


class Highlight(NamedTuple):
    """A sentence of a text: the characters from `start` up to `end`."""

    start: int
    end: int
    score: float
    """Above 0, at most 1."""

    def to_proto(self) -> pb.Highlight:
        """Write the sentence."""
        return pb.Highlight(start=self.start, end=self.end, score=self.score)


class _Sentence(NamedTuple):
    start: int
    end: int
    terms: frozenset[int]
    """Those of the query."""


def highlight(query: str, texts: Sequence[str], analyzer: Analyzer) -> list[list[Highlight]]:
    """Return the sentences of each text, in their order; none of a text without a word of the query."""
    terms = analyzer.terms(query)
    asked = frozenset(terms.telling or terms.further)
    if not asked:
        return [[] for _ in texts]
    found = [_sentences(text[:MOST_CHARACTERS], asked, analyzer) for text in texts]
    counts = Counter(chain.from_iterable(sentence.terms for some in found for sentence in some))
    total = sum(map(len, found))
    idf = {term: math.log(1 + (total - counts[term] + 0.5) / (counts[term] + 0.5)) for term in asked}
    return [_best(some, idf) for some in found]


def _sentences(text: str, asked: frozenset[int], analyzer: Analyzer) -> list[_Sentence]:
    return [
        _Sentence(start, end, asked.intersection(chain(*analyzer.terms(text[start:end]))))
        for start, end in sentences(text)
    ]


def _best(some: Sequence[_Sentence], idf: dict[int, float]) -> list[Highlight]:
    whole = sum(idf.values())
    chosen: list[_Sentence] = []
    covered: frozenset[int] = frozenset()
    while len(chosen) < _MOST_SENTENCES:
        gains = [sum(idf[term] for term in sentence.terms - covered) for sentence in some]
        best = max(range(len(some)), key=gains.__getitem__, default=None)
        if best is None or gains[best] <= 0:
            break
        chosen.append(some[best])
        covered |= some[best].terms
    return [
        Highlight(one.start, one.end, sum(idf[term] for term in one.terms) / whole)
        for one in sorted(chosen, key=lambda one: one.start)
    ]
