"""Extractive answers: sentences of the passages, chained, with no model at all.

A sentence is read with its passage's title. All are scored by BM25 with the rarity of words among these sentences
(Robertson and Zaragoza, 2009). The best sentence then joins the question and all are scored again, so that what only
the first sentence names is found as well; half of each z-score counts. At most one sentence of a passage is taken.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain
from statistics import fmean, pstdev

import regex

from services.language.sentences import sentences
from services.reasoner.answers import Answer, Citation, Method, Passage

MOST_SENTENCES = 3
# Characters of a passage that are looked at.
_READ_CHARACTERS = 16_384
# Share of the question's words, weighted by rarity, below which the answer is not in the passages.
LEAST_COVERAGE = 0.15
# A word that all of a few sentences have is not common for that.
_OTHER_SENTENCES = 20
_K1, _B = 1.2, 0.75
# Beginning of a word that stands for its forms, in any language (McNamee, Nicholas and Mayfield, 2009).
_STEM_CHARACTERS = 5
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}_]+")
# Scripts without spaces between words are read in pairs of characters.
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]+")


@dataclass(frozen=True, slots=True)
class _Sentence:
    """A sentence of a passage, with the words of its title."""

    passage: int
    start: int
    end: int
    words: Counter[str]
    length: int
    """Number of its words."""


def extract(question: str, passages: Sequence[Passage]) -> Answer:
    """Answer a question by at most three sentences, the best first."""
    found = [one for place, passage in enumerate(passages) for one in _sentences(place, passage)]
    asked = set(_words(question))
    frequency = Counter(chain.from_iterable(one.words.keys() for one in found))
    first = _scores(found, asked, frequency)
    best = max(range(len(found)), key=first.__getitem__, default=None)
    if best is None or not first[best]:
        return _nothing()
    second = _scores(found, asked | found[best].words.keys(), frequency)
    chained = [one + other for one, other in zip(_standardised(first), _standardised(second), strict=True)]
    order = sorted(range(len(found)), key=lambda place: (place != best, -chained[place]))
    chosen: dict[int, _Sentence] = {}
    for place in order:
        if second[place] and len(chosen) < MOST_SENTENCES:
            chosen.setdefault(found[place].passage, found[place])
    covered = asked & {word for one in chosen.values() for word in one.words}
    rarity = _rarity(asked, frequency, len(found) + _OTHER_SENTENCES)
    coverage = sum(rarity[word] for word in covered) / sum(rarity.values())
    if coverage < LEAST_COVERAGE:
        return _nothing()
    citations = [_citation(passages[one.passage], one) for one in chosen.values()]
    text = " ".join(" ".join(citation.quote.split()) for citation in citations)
    return Answer(text, citations, confidence=coverage, in_sources=True, method=Method.EXTRACTIVE)


def _nothing() -> Answer:
    return Answer("", (), confidence=0.0, in_sources=False, method=Method.EXTRACTIVE)


def _citation(passage: Passage, sentence: _Sentence) -> Citation:
    return Citation(passage.id, passage.text[sentence.start : sentence.end], sentence.start, sentence.end)


def _sentences(place: int, passage: Passage) -> Iterator[_Sentence]:
    title = _words(passage.title)
    text = passage.text[:_READ_CHARACTERS]
    for start, end in sentences(text):
        words = title + _words(text[start:end])
        yield _Sentence(place, start, end, Counter(words), len(words))


def _words(text: str) -> list[str]:
    text = text.casefold()
    if text.isascii() or not _UNSPACED.search(text):
        return [word[:_STEM_CHARACTERS] for word in _WORD.findall(text)]
    runs = _UNSPACED.findall(text)
    pairs = [run[start : start + 2] for run in runs for start in range(max(1, len(run) - 1))]
    return pairs + [word[:_STEM_CHARACTERS] for word in _WORD.findall(_UNSPACED.sub(" ", text))]


def _rarity(words: Set[str], frequency: Mapping[str, int], count: int) -> dict[str, float]:
    """Weigh words by the share of so many sentences that have them."""
    return {
        word: math.log(1 + (count - found + 0.5) / (found + 0.5))
        for word in words
        for found in [frequency.get(word, 0)]
    }


def _scores(found: Sequence[_Sentence], query: Set[str], frequency: Mapping[str, int]) -> list[float]:
    """Score sentences by BM25."""
    rarity = _rarity(query, frequency, len(found))
    usual = fmean(one.length for one in found) if found else 1.0
    scores = []
    for one in found:
        damping = _K1 * (1 - _B + _B * one.length / (usual or 1.0))
        common = query & one.words.keys()
        scores.append(sum(rarity[word] * (_K1 + 1) / (1 + damping / one.words[word]) for word in common))
    return scores


def _standardised(scores: Sequence[float]) -> list[float]:
    mean, deviation = fmean(scores), pstdev(scores)
    return [(score - mean) / deviation if deviation else 0.0 for score in scores]
