"""Keys of passages: what each is about, and what it mentions.

A relation between two passages is an equal key, found when it is asked for; no relation is stored. A passage's keys
depend on itself alone, so they live and go with it. Those that are asked for are terms of the passage's sparse vector,
next to its words: `about:x` and `mention:x` of a name x, and `passage:x` of the passage with the id x. Links are read
from the passage that has them.

Names are found by their capitals: a run of capitalised words, with connectors in between ("Duke of York"); by their
form: identifiers such as `os.path`, `HTTPServer`, `max_size`, `open()`; and by quotation marks. Texts in languages
without capitals have what is quoted, what documents say of themselves (`Relations`), links, and their neighbours.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import regex

from services.chassis.validation import chunk_id
from services.retriever.documents import Passage
from services.retriever.lexical import SparseVector, index_of

KEYS = "keys-1"
"""Name of these rules, which a version keeps in its notes: other rules would not find what these wrote."""
MAX_KEYS = 512
"""Keys of a passage; further ones in a text are left out."""
LONGEST_RUN = 6
"""Words of a question that may be a name."""
_MOST_CHARACTERS = 32_768
_LONGEST_KEY = 128
_MOST_CONNECTORS = 2

# Words with what joins them inside; `()` after a name makes it an identifier.
_WORD = re.compile(r"\w+(?:['\u2019.\-&]\w+)*(?:\(\))?")
_QUOTED = re.compile(
    r"[\u201c\u201e\u00ab\u300c\u300e\u300a\"]([^\u201c\u201d\u00ab\u00bb\u300c-\u300f\u300a\u300b\"\n]{2,80})[\u201d\u201c\u00bb\u300d\u300f\u300b\"]"
)
_MARKDOWN_LINK = re.compile(r"\[([^\[\]\n]{1,200})\]\(\s*<?([^\s()<>]{1,500})>?(?:\s+\"[^\"\n]*\")?\s*\)")
# Dotted names, camelCase, PascalCase, snake_case, calls.
_IDENTIFIER = re.compile(
    r"[^\W\d_]\w+(?:\.[^\W\d_]\w+)+|[a-z][a-z0-9]*[A-Z]\w*|(?:[A-Z]+[a-z0-9]+){2,}|\w*[^\W_]_+[^\W_]\w*|[^\W\d]\w*\(\)"
)
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_STARTS = frozenset('.!?:;"\u201c(\n\r\u3002\uff01\uff1f')
_ABBREVIATIONS = frozenset({"Mr", "Mrs", "Ms", "Dr", "St", "Jr", "Sr", "vs", "No"})
_CONNECTORS = frozenset(
    {
        "of",
        "de",
        "la",
        "von",
        "van",
        "der",
        "del",
        "di",
        "da",
        "du",
        "le",
        "al",
        "bin",
        "ibn",
        "y",
        "des",
        "den",
        "el",
        "les",
    }
)
_DAYS_AND_MONTHS = (
    "monday tuesday wednesday thursday friday saturday sunday "
    "january february march april may june july august september october november december"
)
_FUNCTION_WORDS = (
    "a about above across after again against ago all almost alone along already also although always am among an and "
    "another any anyone anything are around as at back be became because become becomes been before began behind being "
    "below between both but by can could did do does doing done down during each either else even ever every few "
    "first for from further had has have having he her here hers herself him himself his how however i if in indeed "
    "instead into is it its itself just last later latter least less like made make many may me might more moreover "
    "most much must my myself near neither never new next no nobody none nor not nothing now of off often on once one "
    "only onto or other others our ours out over own per perhaps rather same second see several shall she should since "
    "so some someone something sometimes soon still such than that the their theirs them themselves then there "
    "therefore these they third this those though three through throughout thus to today together too toward two under "
    "until up upon us use used using very via was we well were what when where whereas whether which while who whom "
    "whose why will with within without would yet you your yours "
    "mr mrs ms dr st jr sr vs"
)
# No names by themselves.
STOP_WORDS = frozenset(f"{_FUNCTION_WORDS} {_DAYS_AND_MONTHS}".split())
_MONTHS = frozenset(name.capitalize() for name in _DAYS_AND_MONTHS.split()[7:])


class Keys(NamedTuple):
    """Names and ids by which passages are related, in normal form and in the order of the text; none is repeated."""

    about: Sequence[str]
    """Names of what the passage is about."""
    mentions: Sequence[str]
    """Names that it mentions, its own included."""
    refers: Sequence[str]
    """Ids of passages that it links to."""
    neighbours: Sequence[str]
    """Ids of the chunks before and after it."""


def keys_of(passage: Passage) -> Keys:
    """Return the keys of a passage."""
    titles = [_without_remark(passage.title)] if passage.title else []
    about = _distinct(map(normal, (*titles, *passage.relations.aliases)))
    text = passage.text[:_MOST_CHARACTERS]
    links = [link[2] for link in _MARKDOWN_LINK.finditer(text)] if "](" in text else []
    text = _MARKDOWN_LINK.sub(lambda link: link[1], text) if links else text
    mentions = _distinct(
        (*about, *map(normal, passage.relations.mentions), *map(normal, _quoted(text)), *map(normal, _names(text)))
    )
    document = passage.document_id
    refers = _distinct(
        found for target in (*links, *passage.relations.links) if (found := resolved(target, document)) != document
    )
    return Keys(about, mentions[:MAX_KEYS], refers[:MAX_KEYS], _neighbours(passage))


def terms_of(passage: Passage, keys: Keys) -> Iterator[int]:
    """Yield the terms of a passage's keys for its sparse vector; some may be repeated."""
    yield term("passage", passage.id)
    # The first chunk stands for what a document is about, and the others mention it.
    if passage.document_id == passage.id:
        yield from (term("about", key) for key in keys.about)
    yield from (term("mention", key) for key in keys.mentions)


def with_keys(passage: Passage, words: SparseVector, keys: Keys | None = None) -> SparseVector:
    """Add the keys of a passage to its words; they are found if they are not given."""
    keys = keys_of(passage) if keys is None else keys
    terms = dict.fromkeys(terms_of(passage, keys), 1.0) | dict(zip(*words, strict=True))
    found = sorted(terms.items())
    return SparseVector([term for term, _ in found], [weight for _, weight in found])


def term(kind: str, key: str) -> int:
    """Return the term of a key, made as those of words are; no word has a colon in it."""
    return index_of(f"{kind}:{key}")


def runs_of(question: str) -> list[str]:
    """Return every run of 1 to 6 words of a question in normal form, stop words alone left out."""
    words = normal(question).split()
    runs = (
        " ".join(words[start:end])
        for start in range(len(words))
        for end in range(start + 1, min(start + LONGEST_RUN, len(words)) + 1)
    )
    return _distinct(run for run in runs if run not in STOP_WORDS and len(run) > 1)


def normal(name: str) -> str:
    """Return a name as it is compared: lower case without accents, possessives, signs and a leading "the"."""
    if name.isascii():
        name = _SIGNS_ASCII.sub(" ", _POSSESSIVE.sub("", name.lower()))
    else:
        # Marks of other scripts tell words apart: only accents go.
        name = unicodedata.normalize("NFKC", _ACCENTS.sub("", unicodedata.normalize("NFKD", name)).lower())
        name = _SIGNS.sub(" ", _POSSESSIVE.sub("", name))
    name = name.strip().removeprefix("the ")
    return name if len(name) <= _LONGEST_KEY else ""


_POSSESSIVE = re.compile(r"['\u2019]s\b")
_SIGNS_ASCII = re.compile(r"[^a-z0-9&]+")
_SIGNS = regex.compile(r"[^\p{L}\p{M}\p{N}&]+")
_ACCENTS = re.compile(r"[\u0300-\u036f]+")


def resolved(target: str, document: str) -> str:
    """Return the id of the document that a link leads to: an id as it is, a path as seen from its own document."""
    target = target.partition("#")[0].removeprefix("./")
    if not target:
        return document
    if "://" in target or target.startswith("/"):
        return target
    folders = document.split("/")[:-1]
    while target.startswith("../") and folders:
        folders.pop()
        target = target[3:].removeprefix("./")
    return "/".join((*folders, target))


def _neighbours(passage: Passage) -> Sequence[str]:
    chunk = passage.chunk
    if chunk is None:
        return ()
    numbers = (chunk.number - 1, chunk.number + 1)
    return [chunk_id(passage.document_id, number) for number in numbers if 1 <= number <= chunk.count]


def _quoted(text: str) -> Iterator[str]:
    return (quoted[1] for quoted in _QUOTED.finditer(text) if any(map(str.isalpha, quoted[1])))


def _names(text: str) -> Iterator[str]:
    """Yield the names in a text: identifiers, and runs of capitalised words."""
    single: list[str] = []
    within: set[str] = set()
    start = end = -1
    words = connectors = place = 0
    starts_sentence = False
    before = ""
    for found in _WORD.finditer(text):
        word = found[0]
        if start < 0 and word.islower() and word.isalpha():  # most words, quickly
            place, before = found.end(), word
            continue
        gap = text[place : found.start()]
        if gap[:1] == "." and (before in _ABBREVIATIONS or _INITIALS.fullmatch(before)):
            gap = gap[1:]
        first = place == 0 or not _STARTS.isdisjoint(gap)
        place, before = found.end(), word
        if start >= 0 and not (gap == " " or (gap.isspace() and "\n" not in gap)):
            yield from _ended(text[start:end], words, starts_sentence, single, within)
            start = -1
        if _IDENTIFIER.fullmatch(word):
            yield word.removesuffix("()")
        if word[0].isupper() and not (word in _MONTHS or (first and word.lower() in STOP_WORDS)):
            if start < 0:
                start, words, starts_sentence = found.start(), 0, first
            end, words, connectors = place, words + 1, 0
        elif start >= 0 and connectors == 0 and word.isdecimal():
            end, words = place, words + 1
        elif start >= 0 and word in _CONNECTORS and connectors < _MOST_CONNECTORS:
            connectors += 1
        elif start >= 0:
            yield from _ended(text[start:end], words, starts_sentence, single, within)
            start = -1
    if start >= 0:
        yield from _ended(text[start:end], words, starts_sentence, single, within)
    yield from (word for word in single if word in within)


def _ended(span: str, words: int, starts_sentence: bool, single: list[str], within: set[str]) -> Iterator[str]:
    """Yield a span that has ended; a single word that starts a sentence waits for another place with a capital."""
    if words == 1:
        if span.lower() in STOP_WORDS or len(span) == 1 or span.isdecimal():
            return
        if starts_sentence and not span.isupper():
            single.append(span)
            return
        within.add(span)
    else:
        within.update(span.split())
    yield span


def _without_remark(title: str) -> str:
    """Cut a final part in parentheses: "Mercury (planet)"."""
    start = title.rfind("(")
    return title[:start] if start > 0 and title.rstrip().endswith(")") else title


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name for name in names if name))
