"""The lexicon that synonyms come from: words and their meanings, read from WordNet by nltk."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from services.chassis.errors import StartupError


class Part(StrEnum):
    """Parts of speech, spelled as in WordNet."""

    NOUN = "n"
    VERB = "v"
    ADJECTIVE = "a"
    ADVERB = "r"


_NO_FRAMES: frozenset[int] = frozenset()  # one for all words: each takes 216 bytes


@dataclass(frozen=True, slots=True)
class Word:
    """A word in one of its meanings, and its count in the sense-tagged corpus."""

    text: str
    count: int
    frames: frozenset[int] = _NO_FRAMES  # sentence frames of a verb, numbered as in wninput(5WN)


Sense = tuple[Word, ...]  # the words that share a meaning


class Lexicon(Protocol):
    """Words by meaning. Lemmas are in lower case, with spaces in phrases."""

    def base_forms(self, form: str, part: Part) -> tuple[str, ...]:
        """Lemmas that `form` may be an inflection of, likeliest first; `form` itself if it is a lemma."""

    def senses(self, lemma: str, part: Part) -> tuple[Sense, ...]:
        """Meanings of a lemma, most frequent first; the lemma is among the words of each."""

    def irregular_forms(self, lemma: str, part: Part) -> tuple[str, ...]:
        """Inflections that no rule gives: "ran" and "running" for "run", "children" for "child"."""


REMEDY = (
    "Run `make wordnet` (no root needed), or point WORDNET_DIR at a folder that nltk can open as WordNet, "
    "such as `corpora/wordnet` of its data."
)


@contextmanager
def _hidden(*packages: str) -> Iterator[None]:
    """Let imports of `packages` fail: nltk goes without them, and the stage without 100 MB."""
    absent = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None is how an import is refused
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


with _hidden("numpy", "scipy", "sklearn"):
    import nltk.data
    from nltk.corpus.reader.wordnet import WordNetCorpusReader


def locate_wordnet(explicit: Path | None = None) -> Path:
    """Return the folder of WordNet: `explicit`, or the first `corpora/wordnet` on nltk's data path.

    Raises StartupError with every place tried.
    """
    places = [explicit] if explicit else [Path(root, "corpora", "wordnet") for root in nltk.data.path]
    for folder in places:
        if (folder / "lexnames").is_file():
            return folder
    raise StartupError(f"WordNet is not in {', '.join(map(str, places))}", remedy=REMEDY)


class WordNetLexicon:
    """WordNet through nltk's reader, which holds the index in memory and reads meanings from the files.

    Threads may share it. Raises StartupError if the folder does not hold a whole WordNet.
    """

    def __init__(self, folder: Path) -> None:
        if str(folder) not in nltk.data.path:  # nltk opens nothing outside its data path
            nltk.data.path.append(str(folder))
        self._lock = threading.Lock()  # the reader seeks in files that all its callers share
        # Caches of the instance: a decorated method would keep every instance alive.
        self.senses = lru_cache(maxsize=4096)(self._senses)
        self.base_forms = lru_cache(maxsize=4096)(self._base_forms)
        try:
            self._reader = _Reader(folder)
            self._irregular = {part: self._reader.irregular_forms(part) for part in Part}
            self._check(folder)
        except OSError as error:
            raise StartupError(f"WordNet in {folder} cannot be read: {error}", remedy=REMEDY) from error
        except Exception as error:  # the reader's own errors are of every class
            remedy = f"Remove that folder. {REMEDY}"
            raise StartupError(f"WordNet in {folder} is damaged: {error}", remedy=remedy) from error

    def irregular_forms(self, lemma: str, part: Part) -> tuple[str, ...]:
        """See Lexicon."""
        return tuple(self._irregular[part].get(lemma, ()))

    def _base_forms(self, form: str, part: Part) -> tuple[str, ...]:
        return tuple(lemma.replace("_", " ") for lemma in self._reader.base_forms(form.replace(" ", "_"), part))

    def _senses(self, lemma: str, part: Part) -> tuple[Sense, ...]:
        with self._lock:
            found = self._reader.lemmas(lemma.replace(" ", "_"), part)
            return tuple(_sense(synset) for synset in dict.fromkeys(lemma.synset() for lemma in found))

    def _check(self, folder: Path) -> None:
        """Notice files that were cut off or do not belong together, without reading all of them."""
        for name in self._reader.fileids():
            if name != "index.sense" and not (folder / name).read_bytes().endswith(b"\n"):
                raise ValueError(f"{name} is empty or cut off")
        for part in Part:
            lemmas = list(self._reader.all_lemma_names(part))
            if not lemmas:
                raise ValueError(f"the index has no word of part {part.value}")
            for lemma in islice(lemmas, 0, None, len(lemmas) // 100 + 1):
                self._senses(lemma, part)


def _sense(synset: Any) -> Sense:
    return tuple(
        Word(lemma.name().replace("_", " "), lemma.count(), frozenset(lemma.frame_ids()) or _NO_FRAMES)
        for lemma in synset.lemmas()
    )


class _Reader(WordNetCorpusReader):  # type: ignore[misc]  # nltk publishes no types
    """nltk's reader with a bounded cache, and without the map to other releases of WordNet."""

    _MOST_SYNSETS = 256  # of each part of speech; ours are cached above

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # "multilingual functions not available"
            super().__init__(str(folder), None)
        with self.open("cntlist.rev") as lines:
            self._counts = {key: int(count) for key, _, count in map(str.split, lines)}

    def map_wn(self, version: str = "wordnet") -> None:
        """Build no map: only other languages need it, and it takes 70 MB and `index.sense`."""

    def lemma_count(self, lemma: Any) -> int:
        """Count of a word in one meaning; nltk's own searches the file, 0.5 ms a word."""
        return self._counts.get(lemma.key(), 0)

    def synset_from_pos_and_offset(self, pos: str, offset: int) -> Any:
        """Read one synset. Raises ValueError where the data file has none."""
        cache = self._synset_offset_cache[pos]
        if len(cache) >= self._MOST_SYNSETS:
            cache.clear()
        synset = super().synset_from_pos_and_offset(pos, offset)
        if synset is None:
            raise ValueError(f"no synset of part {pos} at {offset}")
        return synset

    def base_forms(self, form: str, pos: str) -> list[str]:
        """All results of morphy(7WN), of which nltk's `morphy` gives the first."""
        forms: list[str] = self._morphy(form, pos)
        return forms

    def irregular_forms(self, pos: str) -> dict[str, list[str]]:
        """Irregular forms by lemma, as in WordNet's lists of exceptions."""
        forms: dict[str, list[str]] = {}
        for form, lemmas in self._exception_map[pos].items():
            for lemma in lemmas:
                forms.setdefault(lemma.replace("_", " "), []).append(form.replace("_", " "))
        return forms
