"""Where the expander's synonyms come from.

`WordNetThesaurus` reads the database files of Princeton WordNet 3 itself; wndb(5) describes them. nltk's reader does
not open the files that Debian ships (they have no `lexnames` and no `index.sense`), and where scipy is installed, as
beside the embedder, it alone takes more memory than the whole stage may: docs/adr has the numbers.
Standard library only, so that `tools/fetch_wordnet.py` can use this module before there is a virtualenv.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from services.chassis.errors import StartupError


class Part(StrEnum):
    """Parts of speech, spelled as in WordNet's files."""

    NOUN = "n"
    VERB = "v"
    ADJECTIVE = "a"
    ADVERB = "r"


@dataclass(frozen=True, slots=True)
class Word:
    """A word in one of its meanings, and how often the sense-tagged corpus uses it with that meaning."""

    text: str
    count: int
    frames: frozenset[int] = frozenset()  # how a verb may be used, numbered as in wninput(5WN)


Sense = tuple[Word, ...]  # the words that share a meaning


class Thesaurus(Protocol):
    """What the expansion asks about words. Lemmas are in lower case, with spaces in phrases."""

    def base_forms(self, form: str, part: Part) -> tuple[str, ...]:
        """The lemmas that `form` may be an inflection of, itself included if it is one, likeliest first."""

    def senses(self, lemma: str, part: Part) -> tuple[Sense, ...]:
        """The meanings of a lemma, most frequent first; the lemma is among the words of each."""

    def irregular_forms(self, lemma: str, part: Part) -> tuple[str, ...]:
        """Inflections that no rule gives: "ran" and "running" for "run", "children" for "child"."""


REMEDY = (
    "Run `make wordnet` (no root needed), or `apt-get install wordnet-base`, or point WORDNET_DIR at the folder "
    "that holds WordNet's data.noun and index.noun."
)
_SUFFIX = {Part.NOUN: "noun", Part.VERB: "verb", Part.ADJECTIVE: "adj", Part.ADVERB: "adv"}
_FILES = (
    *(f"{kind}.{suffix}" for kind in ("index", "data") for suffix in _SUFFIX.values()),
    *(f"{suffix}.exc" for suffix in _SUFFIX.values()),
    "cntlist.rev",
)
# The rules of detachment of morphy(7WN): ending/replacement.
_DETACHMENTS = {
    Part.NOUN: "s/ ses/s xes/x zes/z ches/ch shes/sh men/man ies/y",
    Part.VERB: "s/ ies/y es/e es/ ed/e ed/ ing/e ing/",
    Part.ADJECTIVE: "er/ est/ er/e est/e",
    Part.ADVERB: "",
}


def _home() -> Path:
    return Path(os.environ.get("HOME", "/"))


def private_folder() -> Path:
    """The folder that `make wordnet` fills."""
    return Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache", "sluice", "wordnet")


def locate_wordnet(explicit: Path | None = None) -> Path:
    """The folder of WordNet's database files: `explicit` if given, else the first known place that has them all.

    Raises StartupError with every place tried.
    """
    tried = []
    for folder in [explicit] if explicit else _known_places():
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if not missing:
            return folder
        tried.append(str(folder) if len(missing) == len(_FILES) else f"{folder} (lacks {', '.join(missing)})")
    raise StartupError(f"WordNet is not in {', '.join(tried)}", remedy=REMEDY)


def _known_places() -> list[Path]:
    """nltk's data path comes first: whoever has put a WordNet there has chosen it."""
    roots = [Path(root) for root in os.environ.get("NLTK_DATA", "").split(os.pathsep) if root]
    above = [_home(), *(Path(sys.prefix, below) for below in ("", "share", "lib"))]
    above += [Path(folder) for folder in ("/usr/share", "/usr/local/share", "/usr/lib", "/usr/local/lib")]
    roots += [folder / "nltk_data" for folder in above]
    return [*(root / "corpora" / "wordnet" for root in roots), Path("/usr/share/wordnet"), private_folder()]


class WordNetThesaurus:
    """WordNet's files held in memory as they are (28 MB) and searched where they lie.

    Nothing but the caches changes after construction: every thread may use it at once.
    Raises StartupError if the folder does not hold a whole WordNet.
    """

    def __init__(self, folder: Path) -> None:
        try:
            tables = {name: (folder / name).read_bytes() for name in _FILES}
        except OSError as error:
            raise StartupError(f"WordNet in {folder} cannot be read: {error}", remedy=REMEDY) from error
        self._index = {part: tables[f"index.{suffix}"] for part, suffix in _SUFFIX.items()}
        self._data = {part: tables[f"data.{suffix}"] for part, suffix in _SUFFIX.items()}
        self._counts = tables["cntlist.rev"]
        self._lemmas_of: dict[tuple[str, Part], list[str]] = {}
        self._forms_of: dict[tuple[str, Part], list[str]] = {}
        try:
            for part, suffix in _SUFFIX.items():
                self._read_exceptions(part, tables[f"{suffix}.exc"])
            self._check(tables)
        except (ValueError, IndexError) as error:
            remedy = f"Remove that folder. {REMEDY}"
            raise StartupError(f"WordNet in {folder} is damaged: {error}", remedy=remedy) from error
        # Caches that belong to the instance: a decorated method would keep every instance alive.
        self.senses = lru_cache(maxsize=4096)(self._senses)
        self.base_forms = lru_cache(maxsize=4096)(self._base_forms)

    def irregular_forms(self, lemma: str, part: Part) -> tuple[str, ...]:
        """See Thesaurus."""
        return tuple(self._forms_of.get((lemma, part), ()))

    def _base_forms(self, form: str, part: Part) -> tuple[str, ...]:
        """WordNet's morphy: the form itself, then its exceptions or else what the rules of detachment leave."""
        rules = (rule.split("/") for rule in _DETACHMENTS[part].split())
        detached = self._lemmas_of.get((form, part)) or [
            form.removesuffix(ending) + replacement for ending, replacement in rules if form.endswith(ending)
        ]
        return tuple(lemma for lemma in dict.fromkeys([form, *detached]) if self._synset_offsets(lemma, part))

    def _senses(self, lemma: str, part: Part) -> tuple[Sense, ...]:
        return tuple(self._words(part, offset) for offset in self._synset_offsets(lemma, part))

    def _synset_offsets(self, lemma: str, part: Part) -> list[int]:
        # lemma pos synset_count pointer_count [pointers] sense_count tagged_sense_count offsets
        if not (line := _find_line(self._index[part], lemma)):
            return []
        fields = line.split()
        return [int(offset) for offset in fields[-int(fields[2]) :]]

    def _words(self, part: Part, offset: int) -> Sense:
        """The words of the synset at `offset` of the data file, with the counts of the sense-tagged corpus."""
        fields = self._synset(part, offset)
        file, synset_type = fields[1], fields[2]
        head = ":"
        if synset_type == "s":  # a satellite adjective: its key ends in its head's first word
            head_fields = self._synset(part, int(fields[fields.index("&") + 1]))
            head = f"{_bare(head_fields[4]).lower()}:{int(head_fields[5], 16):02d}"
        kind = "nvars".index(synset_type) + 1
        frames = _frames(fields)
        words = []
        for number, (word, lexical_id) in enumerate(_words_of(fields), 1):
            key = f"{word.lower()}%{kind}:{file}:{int(lexical_id, 16):02d}:{head}"
            line = _find_line(self._counts, key)
            count = int(line.split()[2]) if line else 0
            words.append(Word(word.replace("_", " "), count, frozenset(frames[0] + frames[number])))
        return tuple(words)

    def _synset(self, part: Part, offset: int) -> list[str]:
        # offset file type word_count(hex) [word lexical_id]... pointer_count [symbol offset pos source]...
        # and for verbs: frame_count [+ frame word_number(hex)]... then " | " and the gloss
        table = self._data[part]
        line = table[offset : table.find(b"\n", offset)].decode()
        if not line.startswith(f"{offset:08d} "):
            raise ValueError(f"data.{_SUFFIX[part]} has no synset at {offset}")
        return line.partition(" | ")[0].split()

    def _read_exceptions(self, part: Part, table: bytes) -> None:
        for line in table.decode().splitlines():
            form, *lemmas = (word.replace("_", " ") for word in line.split())
            self._lemmas_of[form, part] = lemmas
            for lemma in lemmas:
                self._forms_of.setdefault((lemma, part), []).append(form)

    def _check(self, tables: dict[str, bytes]) -> None:
        """Notices files that were cut off or do not belong together, without reading all of them."""
        for name, table in tables.items():
            if not table.endswith(b"\n"):
                raise ValueError(f"{name} is empty or cut off")
        for part, index in self._index.items():
            starts = [index.rfind(b"\n", 0, place) + 1 for place in range(0, len(index), len(index) // 100 + 1)]
            lemmas = [index[start : index.find(b" ", start)].decode() for start in starts]
            # The licence that every file begins with is indented: no lemma.
            if not [lemma for lemma in lemmas if lemma and self._senses(lemma, part)]:
                raise ValueError(f"index.{_SUFFIX[part]} has no words")


def _words_of(fields: list[str]) -> Iterator[tuple[str, str]]:
    end = 4 + 2 * int(fields[3], 16)
    return zip(map(_bare, fields[4:end:2]), fields[5:end:2], strict=True)


def _frames(fields: list[str]) -> defaultdict[int, list[int]]:
    """For verbs, the sentence frames of each word by its number; 0 stands for all words."""
    pointers = 4 + 2 * int(fields[3], 16)
    start = pointers + 1 + 4 * int(fields[pointers]) + 1
    frames = defaultdict(list)
    for frame, number in zip(fields[start + 1 :: 3], fields[start + 2 :: 3], strict=True):
        frames[int(number, 16)].append(int(frame))
    return frames


def _bare(word: str) -> str:
    """Without the mark of where an adjective may stand, as in "galore(ip)"."""
    return word.partition("(")[0]


def _find_line(table: bytes, key: str) -> str | None:
    """Binary search for the line whose first word is `key`; WordNet's files are sorted by their bytes."""
    wanted = key.replace(" ", "_").encode(errors="replace")
    low, high = 0, len(table)  # both always at the start of a line
    while low < high:
        middle = (low + high) // 2
        start = table.rfind(b"\n", low, middle) + 1 or low
        end = table.find(b"\n", middle)
        word = table[start : table.find(b" ", start)]
        if word == wanted:
            return table[start:end].decode() if word else None
        if word < wanted:
            low = end + 1
        else:
            high = start
    return None
