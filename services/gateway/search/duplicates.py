"""Near-duplicates among results, collapsed into the best ranked of each kind.

Two texts are near-duplicates when their sets of 5-word shingles have a Jaccard similarity of at least 0.8. Shingles and
their resemblance are Broder's ("On the resemblance and containment of documents", 1997); length and threshold are
those by which Lee et al. found copies ("Deduplicating Training Data Makes Language Models Better", 2022). Words are
compared without case and punctuation. In 100 words that leaves room for two that differ; a sentence more or less is
another text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

SHINGLE_WORDS = 5
SIMILARITY = 0.8

_WORD = re.compile(r"\w+")


def collapse(texts: Sequence[str]) -> dict[int, int]:
    """Map each text that stays, by place, to its number of near-duplicates.

    A text that resembles none before it stays; of several that it resembles, the first stands for it.
    """
    stands_for: dict[int, int] = {}
    kept: dict[int, frozenset[str]] = {}
    places_by_shingle: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        shingles = _shingles(text)
        prefix = _prefix(shingles)
        near = {other for shingle in prefix for other in places_by_shingle.get(shingle, ())}
        first = next((other for other in sorted(near) if _similarity(shingles, kept[other]) >= SIMILARITY), None)
        if first is not None:
            stands_for[first] += 1
            continue
        stands_for[place] = 0
        kept[place] = shingles
        for shingle in prefix:
            places_by_shingle.setdefault(shingle, []).append(place)
    return stands_for


def _shingles(text: str) -> frozenset[str]:
    """All runs of five words; for a shorter text, the whole text."""
    words = _WORD.findall(text.casefold())
    if len(words) <= SHINGLE_WORDS:
        return frozenset([" ".join(words) or text])
    return frozenset(" ".join(words[start : start + SHINGLE_WORDS]) for start in range(len(words) - SHINGLE_WORDS + 1))


def _prefix(shingles: frozenset[str]) -> list[str]:
    """First shingles of a sorted set; similar sets have one of them in common.

    Only texts with such a shingle in common need to be compared (Bayardo, Ma and Srikant, "Scaling Up All Pairs
    Similarity Search", 2007).
    """
    at_least_shared = math.ceil(SIMILARITY * len(shingles) - 1e-9)  # 0.8 is a little more than 4/5
    return sorted(shingles)[: len(shingles) - at_least_shared + 1]


def _similarity(one: frozenset[str], other: frozenset[str]) -> float:
    both = len(one & other)
    return both / (len(one) + len(other) - both)
