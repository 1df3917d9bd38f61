"""What both strategies share: how a query falls into words, and the small words of English by what follows them."""

from __future__ import annotations

import re
from typing import NamedTuple

# Whoever pastes a page has said it all already; this also bounds the work that one query can make.
MAX_WORDS = 64

_TOKEN = re.compile(r"""(?P<quoted>"[^"]*"|“[^”]*”|«[^»]*»|`[^`]*`|(?<!\w)'[^']*'(?!\w))|[^\s"“”«»`]+""")
_WORD = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*")


def word_set(words: str) -> frozenset[str]:
    """The words of a string, which is easier to read than a list of strings."""
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
# What a verb follows: "to run", "you run", "can run".
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
    """A word or a quoted phrase, without the punctuation around it: `text == query[start:end]`."""

    start: int
    end: int
    text: str
    is_quoted: bool
    ends_sentence: bool

    @property
    def is_word(self) -> bool:
        """Made of letters (and hyphens between them): no digits, no snake_case, no dotted.names, not quoted."""
        return not self.is_quoted and _WORD.fullmatch(self.text) is not None


class Rewrite(NamedTuple):
    """A query said differently, and how much it deserves to count beside the original, in (0, 1]."""

    text: str
    evidence: float


def tokenize(query: str) -> list[Token]:
    """The words of a query, in order."""
    tokens = []
    for match in _TOKEN.finditer(query):
        text = match.group()
        core = text if match["quoted"] else text.strip("()[]{}<>,;:.!?…")
        start = match.start() + text.find(core)
        ends_sentence = text.endswith((".", "!", "?", ":"))
        tokens.append(Token(start, start + len(core), core, match["quoted"] is not None, ends_sentence))
    return tokens
