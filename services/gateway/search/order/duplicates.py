"""Near-duplicates among results, collapsed into the best ranked of each kind.

Two texts are near-duplicates when their sets of 5-word shingles have a Jaccard similarity of at least 0.8, and their
telling words are the same. Shingles and their resemblance are Broder's ("On the resemblance and containment of
documents", 1997); length and threshold are those by which Lee et al. found copies ("Deduplicating Training Data Makes
Language Models Better", 2022). In 100 words that leaves room for two that differ; a sentence more or less is another
text. Telling words are numbers, operators, names like C++, and negations: two texts that differ in one of them may say
opposite things, however long they are.

Words are what stands between blanks, without case, and without the punctuation at their edges that a writer sets at
will. Each sign of a script without blanks is a word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SHINGLE_WORDS = 5
SIMILARITY = 0.8

_BEFORE = "\"'`\u201c\u201d\u201e\u2018\u2019\u201a\u00ab\u00bb\u2039\u203a\u00a1\u00bf"
_AFTER = "\"'`\u201c\u201d\u201e\u2018\u2019\u201a\u00ab\u00bb\u2039\u203a.,;:!?\u2026"
_DASHES = re.compile(r"(?<!\S)--+(?!\S)|[\u2010-\u2015]+|\.\.+|…")
_UNSPACED = r"\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_SIGN = re.compile(rf"[{_UNSPACED}]|[^{_UNSPACED}]+")
_OPERATOR = re.compile(
    r"[-<>=+*#%^&|~!$]|[\u2260\u2264\u2265\u00b1\u2212\u00d7\u00f7\u2030\u00ac\u00b0\u20ac\u00a3\u00a5]|\d[.,:]\d"
)
_NUMBER = re.compile(r"[\W_]*\d[\W\d_]*")
_COMPOUND = re.compile(r"[^\W\d]+([-'\u2019][^\W\d]+)+")
_NEGATIONS = frozenset(
    """
    no not nor never none without cannot nicht kein keine keinen keiner keines nie niemals ohne pas jamais sans aucun
    aucune nunca sin não nem sem mai non senza niet geen не нет без никогда
    """.split()  # noqa: SIM905  a paragraph is easier to check than forty quoted strings
)
_NEGATED = ("n't", "n\u2019t")


@dataclass(frozen=True, slots=True)
class Signature:
    """The part of a text that decides which others it resembles."""

    shingles: npt.NDArray[np.int64]
    """Hashes of all runs of five words, sorted; for a shorter text, of the whole text."""
    telling: int
    """Hash of the telling words."""

    @classmethod
    def of(cls, text: str) -> Signature:
        """Make the signature of a text."""
        words = list(_words(text))
        if len(words) <= SHINGLE_WORDS:
            hashes = [hash(tuple(words) or text)]
        else:
            runs = (words[start : start + SHINGLE_WORDS] for start in range(len(words) - SHINGLE_WORDS + 1))
            hashes = [hash(tuple(run)) for run in runs]
        return cls(np.unique(np.array(hashes, np.int64)), hash(frozenset(filter(_is_telling, words))))

    def resembles(self, other: Signature) -> bool:
        """True if one may stand for the other."""
        both = np.intersect1d(self.shingles, other.shingles, assume_unique=True).size
        return bool(both >= SIMILARITY * (self.shingles.size + other.shingles.size - both) - 1e-9)

    @property
    def prefix(self) -> list[tuple[int, int]]:
        """First shingles, each with the telling words; similar texts have one of them in common.

        Only texts with such a shingle in common need to be compared (Bayardo, Ma and Srikant, "Scaling Up All Pairs
        Similarity Search", 2007).
        """
        at_least_shared = math.ceil(SIMILARITY * self.shingles.size - 1e-9)  # 0.8 is a little more than 4/5
        return [(self.telling, int(one)) for one in self.shingles[: self.shingles.size - at_least_shared + 1]]


class Kinds:
    """Texts of which none resembles another, numbered from 0."""

    def __init__(self) -> None:
        self._signatures: list[Signature] = []
        self._numbers_by_shingle: dict[tuple[int, int], list[int]] = {}

    def like(self, signature: Signature) -> int | None:
        """Return the number of the first that a text resembles."""
        near = {number for shingle in signature.prefix for number in self._numbers_by_shingle.get(shingle, ())}
        return next((number for number in sorted(near) if signature.resembles(self._signatures[number])), None)

    def add(self, signature: Signature) -> None:
        """Add a text that resembles none of them."""
        for shingle in signature.prefix:
            self._numbers_by_shingle.setdefault(shingle, []).append(len(self._signatures))
        self._signatures.append(signature)


def collapse(signatures: Sequence[Signature]) -> dict[int, int]:
    """Map each text that stays, by place, to its number of near-duplicates.

    A text that resembles none before it stays; of several that it resembles, the first stands for it.
    """
    kinds = Kinds()
    stands_for: dict[int, int] = {}
    stay: list[int] = []
    for place, signature in enumerate(signatures):
        first = kinds.like(signature)
        if first is not None:
            stands_for[stay[first]] += 1
            continue
        kinds.add(signature)
        stay.append(place)
        stands_for[place] = 0
    return stands_for


def _words(text: str) -> list[str]:
    return [
        sign
        for part in _DASHES.sub(" ", text.casefold()).split()
        if (word := part.lstrip(_BEFORE).rstrip(_AFTER))
        for sign in _SIGN.findall(word)
    ]


def _is_telling(word: str) -> bool:
    if word in _NEGATIONS or word.endswith(_NEGATED):
        return True
    if _COMPOUND.fullmatch(word):
        return False
    return _NUMBER.fullmatch(word) is not None or _OPERATOR.search(word) is not None
