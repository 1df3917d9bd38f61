"""Tokens of a query, and the function words of English by what follows them."""

from __future__ import annotations

import re
from typing import NamedTuple

# A pasted page needs no variants; this also bounds the work for one query.
MAX_WORDS = 64

_TOKEN = re.compile(r"""(?P<quoted>"[^"]*"|“[^”]*”|«[^»]*»|`[^`]*`|(?<!\w)'[^']*'(?!\w))|[^\s"“”«»`]+""")
_WORD = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*")


def word_set(words: str) -> frozenset[str]:
    """Split a string into a set of words."""
    return frozenset(words.split())


DETERMINERS = word_set(
    "a an the this that these those my your his her its our their some any every each no all both another many few "
    "several multiple one two three four five six seven eight nine ten eleven twelve hundred thousand million"
)
PREPOSITIONS = word_set(
    "about above across after against along among around as at before behind below beneath beside between beyond by "
    "during for from in inside into like near of off on onto out outside over per than through throughout till to "
    "toward towards under until up upon using via versus vs with within without"
)
# Words that a verb follows: "to run", "you run", "can run".
BEFORE_VERBS = word_set(
    "to i you we they it he she who that which can could may might must shall should will would do does did don't "
    "doesn't didn't can't cannot won't not please let's"
)
BE = word_set("am is are was were be been being isn't aren't wasn't weren't")
_OTHERS = word_set(
    "how what when where whom whose why have has had having and or but nor if then else so because while though "
    "although whether me him them us myself yourself itself themselves there here also too very just only such other "
    "again once ever never always often yet still lot lots way ways etc what's how's who's where's that's it's i'm "
    "i've i'd i'll"
)
STOP_WORDS = DETERMINERS | PREPOSITIONS | BEFORE_VERBS | BE | _OTHERS


class Token(NamedTuple):
    """Word or quoted phrase, without the punctuation around it: `text == query[start:end]`."""

    start: int
    end: int
    text: str
    is_quoted: bool
    ends_sentence: bool

    @property
    def is_word(self) -> bool:
        """True if made of letters and inner hyphens: no digits, no snake_case, no dotted.names, not quoted."""
        return not self.is_quoted and _WORD.fullmatch(self.text) is not None


class Rewrite(NamedTuple):
    """Query in other words, and its evidence in (0, 1]."""

    text: str
    evidence: float


def tokenize(query: str) -> list[Token]:
    """Split a query into tokens, in order."""
    tokens = []
    for match in _TOKEN.finditer(query):
        text = match.group()
        core = text if match["quoted"] else text.strip("()[]{}<>,;:.!?…")
        start = match.start() + text.find(core)
        ends_sentence = text.endswith((".", "!", "?", ":"))
        tokens.append(Token(start, start + len(core), core, match["quoted"] is not None, ends_sentence))
    return tokens
