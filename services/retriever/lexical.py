"""Text to sparse vectors, so that the dot product of a query's and a passage's is their BM25 score.

BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009, section 3.4), split in
three so that a vector index can serve it:

    score(q, p) = sum over the terms t of q:  count(t in q)  *  idf(t)  *      tf * (k1 + 1)
                                                                          -----------------------------
                                                                          tf + k1 * (1 - b + b * |p|/L)

The first factor is the query's vector, the last one the passage's (tf = count of t in p, |p| = number of terms in p,
L = average length, fixed when a collection is created); idf depends on the whole collection and is multiplied in by
the store (ln(1 + (N - n + 0.5) / (n + 0.5))). A term of the title counts as several, in tf and in |p|
(Robertson, Zaragoza and Taylor, "Simple BM25 Extension to Multiple Weighted Fields", 2004).

Terms are found in three steps: Unicode words in lower case, English stop words left out, English stems (Snowball).
Identifiers yield their parts *and* themselves, so that both `submit` and the whole
`concurrent.futures.ThreadPoolExecutor.submit` find it; what is itself an identifier is not stemmed.

A term's index is the first 32 bits of its BLAKE2b hash: the same in every process and release. Two terms that collide
count as one: among 100,000 different terms about one pair does, among a million about 116.
"""

from __future__ import annotations

import hashlib
import re
import threading
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import snowballstemmer  # type: ignore[import-untyped]  # ships no types

# Recorded with every collection. Change it whenever the same text would yield other terms: passages indexed by
# another analyzer cannot be found by their words.
ANALYZER = "english-1"

STOP_WORDS = frozenset(
    """
    a about am an and any are as at be been but by can could did do does for from had has have he her his how i if in
    into is it its me my no not of on or our she should so some such than that the their them then there these they
    this those to was we were what when where which who whom whose why will with would you your
    """.split()  # noqa: SIM905  a paragraph is easier to check than ninety quoted strings
)

# Words joined by dots; an English ending after an apostrophe is dropped ("Python's", "don't").
_TOKEN = re.compile(r"(\w+(?:\.\w+)*)(?:['\u2019](?:s|t|re|ve|ll|d|m)\b)?")
# Between the words of CamelCase: fooBar, HTTPServer.
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# Longer tokens are encoded data, not words.
_LONGEST_TOKEN = 128

_stemmer = snowballstemmer.stemmer("english")
_stemmer_lock = threading.Lock()


class SparseVector(NamedTuple):
    """Values by term index; the indices ascend and none is repeated."""

    indices: list[int]
    values: list[float]


@dataclass(frozen=True, slots=True)
class Bm25:
    """Parameters of BM25; a collection keeps those it was created with."""

    k1: float
    b: float
    average_length: float
    """Length of a typical passage, in terms."""
    title_weight: float = 1.0
    """Number of times that a term of the title counts."""

    def __str__(self) -> str:
        return (
            f"{ANALYZER}, k1 {self.k1:g}, b {self.b:g}, average length {self.average_length:g}, "
            f"title {self.title_weight:g} times"
        )

    def passage_vector(self, text: str, title: str = "") -> SparseVector:
        """Return the passage's side of the score; empty if title and text have no terms."""
        weights: defaultdict[int, float] = defaultdict(float)
        for part, weight in ((text, 1.0), (title, self.title_weight)):
            for term in _terms(part):
                weights[term] += weight
        norm = self.k1 * (1 - self.b + self.b * sum(weights.values()) / self.average_length)
        counts = sorted(weights.items())
        return SparseVector(
            [term for term, _ in counts], [count * (self.k1 + 1) / (count + norm) for _, count in counts]
        )


def query_vector(text: str) -> SparseVector:
    """Return the query's side of the score; empty if the text has no terms, or only stop words."""
    counts = sorted(Counter(_terms(text)).items())
    return SparseVector([term for term, _ in counts], [float(count) for _, count in counts])


def _terms(text: str) -> list[int]:
    """Return the indices of all terms of a text, repeated as often as they occur."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return list(chain.from_iterable(map(_terms_of_token, _TOKEN.findall(text))))


@lru_cache(maxsize=65_536)
def _terms_of_token(token: str) -> tuple[int, ...]:
    if len(token) > _LONGEST_TOKEN:
        return ()
    return tuple(_index(word) for word in _words_of_token(token))


def _words_of_token(token: str) -> Iterator[str]:
    """Split a token: `os.path.isFile` gives os.path.isfile, os, path, isfile, file; "files" gives file."""
    segments = token.split(".")
    if len(segments) > 1:
        yield token.lower()
        if all(segment.isdecimal() for segment in segments):
            return  # a number or a version: its digits alone mean nothing
    for segment in segments:
        words = [word for part in segment.split("_") if part for word in _HUMP.split(part)]
        if len(words) > 1 or (words and words[0] != segment):
            yield segment.lower()
        for word in map(str.lower, words):
            if word not in STOP_WORDS:
                yield _stem(word)


def _stem(word: str) -> str:
    # The stemmer keeps the word it works on in itself; passages are analysed in worker threads.
    with _stemmer_lock:
        return str(_stemmer.stemWord(word))


def _index(term: str) -> int:
    return int.from_bytes(hashlib.blake2b(term.encode(), digest_size=4).digest(), "little")
