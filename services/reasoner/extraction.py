"""Extractive answers: sentences of the passages, chained, with no model at all.

A sentence is read with its passage's title. All are scored by BM25 with the rarity of words among these sentences
(Robertson and Zaragoza, 2009). The best sentence then joins the question and all are scored again, so that what only
the first sentence names is found as well; half of each z-score counts. At most one sentence of a passage is taken.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
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
# Scripts without spaces between words are read in pairs of characters.
_WORD = regex.compile(
    r"(?P<unspaced>[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]+)|[\p{L}\p{M}\p{N}_]+"
)


@dataclass(frozen=True, slots=True)
class _Sentence:
    """A sentence of a passage, with the words of its title."""

    passage: int
    start: int
    end: int
    words: Counter[str]


def extract(question: str, passages: Sequence[Passage]) -> Answer:
    """Answer a question by at most three sentences, the best first."""
    found = [one for place, passage in enumerate(passages) for one in _sentences(place, passage)]
    asked = set(_words(question))
    rarity = _rarity(found, asked)
    first = _scores(found, asked, rarity)
    best = max(range(len(found)), key=first.__getitem__, default=None)
    if best is None or not first[best]:
        return _nothing()
    second = _scores(found, asked | found[best].words.keys(), rarity)
    chained = [one + other for one, other in zip(_standardised(first), _standardised(second), strict=True)]
    order = sorted(range(len(found)), key=lambda place: (place != best, -chained[place]))
    chosen: dict[int, _Sentence] = {}
    for place in order:
        if second[place] and len(chosen) < MOST_SENTENCES:
            chosen.setdefault(found[place].passage, found[place])
    covered = asked & {word for one in chosen.values() for word in one.words}
    known = _rarity(found, asked, others=_OTHER_SENTENCES)
    coverage = sum(map(known.__getitem__, covered)) / sum(map(known.__getitem__, asked))
    if coverage < LEAST_COVERAGE:
        return _nothing()
    citations = [_citation(passages[one.passage], one) for one in chosen.values()]
    text = " ".join(" ".join(citation.quote.split()) for citation in citations)
    return Answer(text, citations, confidence=coverage, in_sources=True, method=Method.EXTRACTIVE)


def _nothing() -> Answer:
    return Answer("", (), confidence=0.0, in_sources=False, method=Method.EXTRACTIVE)


def _citation(passage: Passage, sentence: _Sentence) -> Citation:
    return Citation(passage.id, passage.text[sentence.start : sentence.end], sentence.start, sentence.end)


def _sentences(place: int, passage: Passage) -> list[_Sentence]:
    title = Counter(_words(passage.title))
    text = passage.text[:_READ_CHARACTERS]
    return [_Sentence(place, start, end, title + Counter(_words(text[start:end]))) for start, end in sentences(text)]


def _words(text: str) -> list[str]:
    words: list[str] = []
    for match in _WORD.finditer(text.casefold()):
        word = match.group()
        if match["unspaced"]:
            words += [word[start : start + 2] for start in range(max(1, len(word) - 1))]
        else:
            words.append(word[:_STEM_CHARACTERS])
    return words


def _rarity(found: Sequence[_Sentence], asked: set[str], *, others: int = 0) -> Mapping[str, float]:
    """Weigh words by the sentences that have them, as if there were `others` more without any of them."""
    frequency = Counter(word for one in found for word in one.words)
    count, words = len(found) + others, asked | frequency.keys()
    return {word: math.log(1 + (count - frequency[word] + 0.5) / (frequency[word] + 0.5)) for word in words}


def _scores(found: Sequence[_Sentence], query: Set[str], rarity: Mapping[str, float]) -> list[float]:
    lengths = [one.words.total() for one in found]
    usual = fmean(lengths) if lengths else 1.0
    scores = []
    for one, length in zip(found, lengths, strict=True):
        damping = _K1 * (1 - _B + _B * length / (usual or 1.0))
        scores.append(
            sum(
                rarity[word] * one.words[word] * (_K1 + 1) / (one.words[word] + damping)
                for word in query
                if word in one.words
            )
        )
    return scores


def _standardised(scores: Sequence[float]) -> list[float]:
    mean, deviation = fmean(scores), pstdev(scores)
    return [(score - mean) / deviation if deviation else 0.0 for score in scores]
