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

Terms are found in these steps: compatibility forms are composed (NFKC) and invisible characters dropped; words are cut,
marks and the signs of `C++`, `C#` and `.NET` included; identifiers yield their parts and themselves, so that both
`submit` and the whole `concurrent.futures.ThreadPoolExecutor.submit` find it; other words are stemmed by the Snowball
stemmer of their script, in the collection's language. Scripts written without spaces yield pairs of neighbours.

Stop words, and single characters of such scripts, are in a passage's vector but not in its length; a query asks for
them if it has nothing else.

A term's index is the first 32 bits of its BLAKE2b hash: the same in every process and release. Two terms that collide
count as one: among 100,000 different terms about one pair does, among a million about 116.
"""

from __future__ import annotations

import hashlib
import re
import threading
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby, pairwise
from typing import Any, NamedTuple

import regex
import snowballstemmer  # type: ignore[import-untyped]  # ships no types

# Recorded with every collection. Another one whenever the same text would yield other terms: passages indexed by
# another analyzer cannot be found by their words. The older one serves the collections that it made.
_NEWEST, _ENGLISH_1 = "words-2", "english-1"

NO_LANGUAGE = "none"
LANGUAGES = (NO_LANGUAGE, *sorted(set(snowballstemmer.algorithms()) - {"porter", "dutch_porter"}))
"""Languages of stemmers; with "none" words count as written."""

_SCRIPTS = {
    "ARABIC": "arabic",
    "ARMENIAN": "armenian",
    "CYRILLIC": "russian",
    "DEVANAGARI": "hindi",
    "GREEK": "greek",
    "LATIN": "english",
    "TAMIL": "tamil",
}
"""Language of a script's words where the collection's language is written otherwise."""
_OTHER_SCRIPTS = {language: script for script, language in _SCRIPTS.items()} | {
    "nepali": "DEVANAGARI",
    "persian": "ARABIC",
    "serbian": "CYRILLIC",
    "yiddish": "HEBREW",
}
"""Script of a language that is not written in Latin letters."""

# Characters that readers do not see, and signs that writers of Arabic and Hebrew leave out.
_UNSEEN = regex.compile(
    r"[\p{Cf}\p{Default_Ignorable_Code_Point}\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640\u064b-\u0655\u0670]+"
)
_DIGIT = regex.compile(r"[\p{Nd}--0-9]", regex.VERSION1)
# Scripts without spaces between words, and Korean, whose particles follow without one; numbers are not part of a run.
_RUN = r"""[[\p{Han}\p{Hangul}\p{Bopomofo}\p{scx=Hiragana}\p{scx=Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}
    \p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}\p{Javanese}\p{Balinese}]&&[\p{L}\p{M}\p{Nl}]]"""
_LETTER = rf"[[\p{{L}}\p{{M}}\p{{N}}_]--{_RUN}]"
# An English ending after an apostrophe is dropped ("Python's", "don't").
_TOKEN = regex.compile(
    rf"""({_RUN}+)
    | ((?:(?<![.{_LETTER}])\.(?=\p{{L}}))? {_LETTER}+ (?:\.{_LETTER}+)* (?:\+\+|\#(?!{_LETTER}))?)
      (?:['\u2019](?:s|t|re|ve|ll|d|m)\b)?""",
    regex.VERSION1 | regex.VERBOSE,
)
# The same for ASCII alone, many times as fast.
_TOKEN_ASCII = re.compile(
    r"((?:(?<![.\w])\.(?=[A-Za-z]))?\w+(?:\.\w+)*(?:\+\+|#(?!\w))?)(?:'(?:s|t|re|ve|ll|d|m)\b)?", re.ASCII
)
_CLUSTER = regex.compile(r"\P{M}\p{M}*|\p{M}+")
# Between the words of CamelCase: fooBar, HTTPServer; not in the plural URLs.
_HUMP = regex.compile(r"(?<=[\p{Ll}\p{N}])(?=\p{Lu})|(?<=\p{Lu})(?=\p{Lu}\p{Ll})(?!\p{Lu}s(?!\p{Ll}))", regex.VERSION1)
# Longer tokens are encoded data, not words.
_LONGEST_TOKEN = 128

_STOP_WORDS = {
    language: frozenset(words.split())
    for language, words in {
        "danish": "af at da de dem den der det du en er et for fra har hun han i ikke jeg man med og om på som så "
        "til vi",
        "dutch": "aan als bij dan dat de die dit een en er het hij hoe ik in is je met naar niet of om op te van "
        "voor was wat we ze zijn",
        "english": "a about am an and any are as at be been but by can could did do does for from had has have he "
        "her his how i if in into is it its me my no not of on or our she should so some such than that "
        "the their them then there these they this those to was we were what when where which who whom "
        "whose why will with would you your",
        "french": "au aux avec ce ces cette comment d dans de des du elle en est et il ils je l la le les leur "
        "mais ne nous on ou par pas pour qu que qui sa se ses son sont sur un une vous à",
        "german": "als am an auch auf aus bei das dass dem den der des die du ein eine einem einen einer eines er "
        "es für hat ich im in ist mit nach nicht oder sich sie sind so um und von vor was wenn wie wir "
        "zu zum zur über",
        "italian": "a al alla che chi come con da dal dalla dei del della di e ha i il in io la le lo ma nel nella "
        "non o per più se si sono su un una è",
        "norwegian": "av at da de dem den der det du en er et for fra har hun han i ikke jeg man med og om på som så "
        "til vi",
        "portuguese": "a ao as com como da das de do dos e ela ele em eu mas na nas no nos não o os ou para por que "
        "se sem um uma é à",
        "russian": "а без бы в во вы для до если же за и из или к как ко мы на не но о об он она они от по при с "  # noqa: RUF001
        "со так то ты у что это я",  # noqa: RUF001
        "spanish": "a al como con de del el ella en es eso esta este la las le lo los más no o para pero por que "
        "se ser sin son su sus un una y",
        "swedish": "att av de den det du en ett för från han har hon hur i inte jag med när om på som så till vad "
        "vi är",
    }.items()
}
"""Words that tell little of a text, by language; they may change without another analyzer, see above."""

_stemmer_lock = threading.Lock()


class SparseVector(NamedTuple):
    """Values by term index; the indices ascend and none is repeated."""

    indices: list[int]
    values: list[float]


class Terms(NamedTuple):
    """Indices of a text's terms, repeated as often as they occur."""

    telling: Sequence[int]
    """Terms that a query asks for, and that a passage's length counts."""
    further: Sequence[int]
    """Terms that a query asks for if it has no others."""


@dataclass(frozen=True, slots=True)
class Analyzer:
    """Finds the terms of texts; a collection keeps the one that it was created with."""

    language: str = "english"
    """One of LANGUAGES."""
    name: str = _NEWEST

    @classmethod
    def parse(cls, text: str) -> Analyzer | None:
        """Read an analyzer as it is written; None for one of another release."""
        if text == _ENGLISH_1:
            return cls(name=_ENGLISH_1)
        name, _, language = text.partition(" ")
        return cls(language, name) if name == _NEWEST and language in LANGUAGES else None

    def __str__(self) -> str:
        return self.name if self.name == _ENGLISH_1 else f"{self.name} {self.language}"

    def terms(self, text: str) -> Terms:
        """Return the terms of a text.

        Numbers alone are kept of its words: collecting garbage among millions of objects would hold the process.
        """
        if self.name == _ENGLISH_1:
            return Terms(list(_english_1(text)), [])
        telling: list[int] = []
        further: list[int] = []
        for one in self._found(text):
            telling += one.telling
            further += one.further
        return Terms(telling, further)

    def _found(self, text: str) -> Iterator[Terms]:
        if text.isascii():
            yield from self._of_tokens(_TOKEN_ASCII.findall(text))
            return
        for plain, words in groupby(_seen(text).split(), str.isascii):
            if plain:
                yield from self._of_tokens(_TOKEN_ASCII.findall(" ".join(words)))
                continue
            for run, token in _TOKEN.findall(" ".join(words)):
                if run:
                    yield _pairs(run)
                else:
                    yield from self._of_tokens((token,))

    def _of_tokens(self, tokens: Iterable[str]) -> Iterator[Terms]:
        return (_terms(word, self.language) for token in tokens for word in _short(token))


@dataclass(frozen=True, slots=True)
class Bm25:
    """Parameters of BM25 and its analyzer; a collection keeps those it was created with."""

    k1: float
    b: float
    average_length: float
    """Length of a typical passage, in terms."""
    title_weight: float = 1.0
    """Number of times that a term of the title counts."""
    analyzer: Analyzer = Analyzer()

    def __str__(self) -> str:
        return (
            f"{self.analyzer}, k1 {self.k1:g}, b {self.b:g}, average length {self.average_length:g}, "
            f"title {self.title_weight:g} times"
        )

    def passage_vector(self, text: str, title: str = "") -> SparseVector:
        """Return the passage's side of the score; empty if title and text have no terms."""
        weights: defaultdict[int, float] = defaultdict(float)
        length = 0.0
        for part, weight in ((text, 1.0), (title, self.title_weight)):
            terms = self.analyzer.terms(part)
            length += weight * len(terms.telling)
            for term in chain(*terms):
                weights[term] += weight
        norm = self.k1 * (1 - self.b + self.b * length / self.average_length)
        counts = sorted(weights.items())
        return SparseVector(
            [term for term, _ in counts], [count * (self.k1 + 1) / (count + norm) for _, count in counts]
        )

    def query_vector(self, text: str) -> SparseVector:
        """Return the query's side of the score; empty if the text has no terms."""
        terms = self.analyzer.terms(text)
        counts = sorted(Counter(terms.telling or terms.further).items())
        return SparseVector([term for term, _ in counts], [float(count) for _, count in counts])


def _seen(text: str) -> str:
    """Return a text as it is compared: composed, without what is not seen, with ASCII digits."""
    text = _UNSEEN.sub("", unicodedata.normalize("NFKC", text))
    return str(_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), unicodedata.normalize("NFC", text)))


def _pairs(run: str) -> Terms:
    """Pair the neighbours of a run: 東京都 gives 東京 and 京都, and each character as a further term."""
    characters = _CLUSTER.findall(run)
    single = list(map(index_of, characters))
    if len(single) == 1:
        return Terms(single, [])
    return Terms([index_of(left + right) for left, right in pairwise(characters)], single)


def _short(token: str) -> Iterable[str]:
    """Leave out what is too long for a word; of words joined by dots, those that are."""
    if len(token) <= _LONGEST_TOKEN:
        return (token,)
    return (word for word in token.split(".") if 0 < len(word) <= _LONGEST_TOKEN)


@lru_cache(maxsize=32_768)
def _terms(token: str, language: str) -> Terms:
    words = [(index_of(word), tells) for word, tells in _words(token, language)]
    return Terms([word for word, tells in words if tells], [word for word, tells in words if not tells])


def _words(token: str, language: str) -> Iterator[tuple[str, bool]]:
    """Split a token: `os.path.isFile` gives os.path.isfile, os, path, isfile, file and, as a further one, is."""
    bare = token.strip("+#.")
    if bare != token:
        yield _folded(token), True
    segments = bare.split(".")
    if len(segments) > 1:
        yield _folded(bare), True
        if all(segment.isdecimal() for segment in segments):
            return  # a number or a version: its digits alone mean nothing
    for segment in segments:
        words = [word for part in segment.split("_") if part for word in _HUMP.split(part)]
        if len(words) > 1 or (words and words[0] != segment):
            # Stemmed as the query is that writes getUserName as getusername.
            yield _stem(_folded(segment), language), True
        for word in map(_folded, words):
            tells = word not in _STOP_WORDS.get(language, ())
            yield (_stem(word, language) if tells else word), tells


def _folded(word: str) -> str:
    """Return a word without differences of case, also of the Turkish dotted I."""
    return word.casefold().replace("i\u0307", "i")


def _stem(word: str, language: str) -> str:
    script = unicodedata.name(word[0], "").partition(" ")[0]
    if script != _OTHER_SCRIPTS.get(language, "LATIN"):
        language = _SCRIPTS.get(script, NO_LANGUAGE) if language != NO_LANGUAGE else NO_LANGUAGE
    if language == NO_LANGUAGE:
        return word
    # A stemmer keeps the word it works on in itself; passages are analysed in worker threads.
    with _stemmer_lock:
        return str(_stemmer(language).stemWord(word)) or word


@lru_cache
def _stemmer(language: str) -> Any:
    return snowballstemmer.stemmer(language)


@lru_cache(maxsize=65_536)
def index_of(term: str) -> int:
    """Return the index of a term: 32 bits of its BLAKE2b hash."""
    return int.from_bytes(hashlib.blake2b(term.encode(), digest_size=4).digest(), "little")


# The analyzer english-1: as it was, for the collections that it made.

_TOKEN_1 = re.compile(r"(\w+(?:\.\w+)*)(?:['\u2019](?:s|t|re|ve|ll|d|m)\b)?")
_HUMP_1 = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def _english_1(text: str) -> Iterator[int]:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    tokens = (token for token in _TOKEN_1.findall(text) if len(token) <= _LONGEST_TOKEN)
    return chain.from_iterable(map(_terms_1, tokens))


@lru_cache(maxsize=32_768)
def _terms_1(token: str) -> tuple[int, ...]:
    return tuple(map(index_of, _words_1(token)))


def _words_1(token: str) -> Iterator[str]:
    segments = token.split(".")
    if len(segments) > 1:
        yield token.lower()
        if all(segment.isdecimal() for segment in segments):
            return
    for segment in segments:
        words = [word for part in segment.split("_") if part for word in _HUMP_1.split(part)]
        if len(words) > 1 or (words and words[0] != segment):
            yield segment.lower()
        for word in map(str.lower, words):
            if word not in _STOP_WORDS["english"]:
                with _stemmer_lock:
                    yield str(_stemmer("english").stemWord(word))
