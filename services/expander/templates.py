"""Strategy `multi_query`: the query in other forms, by rules that need no data.

A query is one of three shapes, each a phrase within some scaffolding:

    ACTION  "how do I parse options?", "parse options"       ->  parse options
    TOPIC   "what is a context manager?", "context manager"  ->  context manager
    FACT    "why do leaves fall?", "leaves fall in autumn because it gets cold"

Without its scaffolding the phrase reads as a document would put it; with another's, as another reader would ask.
The rules are for English: a query without a word in Latin letters has no rewrites.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from services.expander.words import (
    BE,
    BEFORE_VERBS,
    DETERMINERS,
    MAX_WORDS,
    PREPOSITIONS,
    STOP_WORDS,
    Rewrite,
    Token,
    tokenize,
    word_set,
)


class _Shape(Enum):
    ACTION = auto()
    TOPIC = auto()
    FACT = auto()


_SCAFFOLDING = {
    _Shape.ACTION: r"(?:what is |what's |is there )?(?:a |the )?(?:best |easiest |right |good |proper )?ways? to"
    r"|(?:how|where|when) to|how (?:do|can|could|should|would) (?:i|we|you|one|people)"
    r"|is it possible to|(?:can|could|should) (?:i|we|you)|i (?:want|need) to|please",
    _Shape.TOPIC: r"(?P<asked>what|who) (?:is|are|was|were)|what's|who's"
    r"|define|explain|(?:the )?(?:definition|meaning) of|tell me about",
    _Shape.FACT: r"(?P<asked>why|when|where|how|who|which|what)"
    r"(?: (?:do|(?P<inverted>does|did|can|could|will|would|should|has|have|is|are|was|were)))?",
}
_PATTERNS = {
    shape: re.compile(rf"(?:{scaffolding}) (?P<phrase>\S.*)", re.IGNORECASE)
    for shape, scaffolding in _SCAFFOLDING.items()
}
# Evidence of each template: 1 without scaffolding, less with another question's.
_KEYWORDS = 0.9
_TEMPLATES = {
    _Shape.ACTION: {
        "{phrase}": 1.0,
        "how to {phrase}": 1.0,
        "ways to {phrase}": 0.8,
        "{keywords} example": 0.7,
        "step by step: {phrase}": 0.6,
    },
    _Shape.TOPIC: {
        "{phrase}": 1.0,
        "{asked} {be} {phrase}": 0.9,
        "{phrase} explained": 0.8,
        "about {phrase}": 0.7,
        "{phrase} example": 0.6,
    },
    _Shape.FACT: {
        "{phrase}": 1.0,
        "{cue} {keywords}": 0.8,
        "{keywords} explained": 0.7,
        "facts about {keywords}": 0.6,
    },
}
# What an answer calls the thing that the question word asks for.
_CUES = {"why": "reason", "when": "date", "where": "place", "who": "person", "how": "explanation"}

_LONGEST_TOPIC = 6  # words; what is longer says something
# Verbs that queries begin with. Another first word is taken for one if a determiner follows: "whisk an egg".
_COMMANDS = word_set(
    "add append apply build buy calculate call cancel change check choose clean close combine compare compile "
    "compress compute configure connect convert copy count create cut debug decode decrypt define delete deploy "
    "detect disable download draw edit enable encode encrypt execute export extract fetch filter find fix format "
    "generate get handle import improve increase insert install iterate join learn limit list load lock make match "
    "measure merge migrate monitor move open parse pay prevent print read receive reduce remove rename replace "
    "reset resize resolve restart retry return reverse round run save schedule search select send serve set show "
    "solve sort split start stop store submit train transform translate update upload use validate verify wait walk "
    "watch write"
)


def rewrites(query: str) -> list[Rewrite]:
    """Return the forms that fit the shape of the query, best first; the query itself may be among them."""
    tokens = tokenize(query)
    content = [token.text for token in tokens if token.text and token.text.lower() not in STOP_WORDS]
    if not content or not any(token.is_word for token in tokens):
        return []
    keywords = " ".join(dict.fromkeys(content))
    found = [Rewrite(keywords, _KEYWORDS)]
    if len(tokens) <= MAX_WORDS:
        shape, parts = _analysed(" ".join(query.split()).rstrip("?!. "), tokens)
        for template, evidence in _TEMPLATES[shape].items():
            if text := template.format(keywords=keywords, **parts).strip():
                found.append(Rewrite(text, evidence))
    return sorted(found, key=lambda rewrite: -rewrite.evidence)


def _analysed(question: str, tokens: list[Token]) -> tuple[_Shape, dict[str, str]]:
    """Return the shape of a query and the parts that fill its templates."""
    shape, phrase, asked = _shape_without_scaffolding(tokens), question, ""
    for scaffolded, pattern in _PATTERNS.items():
        if match := pattern.fullmatch(question):
            groups = match.groupdict()
            # "is the sky blue", "does he sing": no way back to a statement without knowing the verb.
            shape, phrase = scaffolded, "" if groups.get("inverted") else match["phrase"]
            asked = (groups.get("asked") or "").lower()
            break
    if shape == _Shape.ACTION and phrase[1:2].islower():
        phrase = phrase[0].lower() + phrase[1:]
    parts = {"phrase": phrase, "asked": asked or "what", "be": _be(phrase), "cue": _CUES.get(asked, "")}
    return shape, parts


def _shape_without_scaffolding(tokens: list[Token]) -> _Shape:
    first, second = [*(token.text.lower() for token in tokens), ""][:2]
    if first in _COMMANDS or (second in DETERMINERS and first not in STOP_WORDS):
        return _Shape.ACTION
    is_sentence = len(tokens) > _LONGEST_TOPIC or first in BE or first in BEFORE_VERBS
    return _Shape.FACT if is_sentence else _Shape.TOPIC


def _be(phrase: str) -> str:
    """Return "is" or "are", as the phrase's noun demands: the last word before any preposition."""
    noun = ""
    for word in phrase.lower().split():
        if word in PREPOSITIONS:
            break
        noun = word
    return "are" if noun.endswith("s") and not noun.endswith(("ss", "us", "is")) else "is"
