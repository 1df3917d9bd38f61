"""Prompts: files with places for the question and the passages, which are data and never instructions.

A passage stands between marks with a boundary that nobody can guess, and is made inert: angle brackets and the marks of
roles of known chat templates become characters that look alike, and are the same after NFKC, by which quotes are
compared. So no passage can end itself, begin another one or speak as a role.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template

from services.reasoner.answers import Passage, Task
from services.reasoner.language_model import Prompt
from services.reasoner.schemas import reply_schema

_FOLDER = Path(__file__).parent / "prompts"
_ANGLES = {"<": "\N{FULLWIDTH LESS-THAN SIGN}", ">": "\N{FULLWIDTH GREATER-THAN SIGN}"}
_INERT = str.maketrans(_ANGLES)
_AGAIN = str.maketrans({wide: plain for plain, wide in _ANGLES.items()})
# Of Llama 2 and Mistral, whose marks have no angle brackets.
_ROLES = re.compile(r"\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])", re.IGNORECASE)
# Bytes of a token. Most tokens of most models have more, so that a text has fewer tokens than this says.
_BYTES_A_TOKEN = 3
# Least tokens of an answer, and of the passages, for which a model is asked.
_LEAST_ANSWER, _LEAST_PASSAGES = 96, 64
_MOST_QUOTES = 3
# Tokens of JSON around quotes and answer. Each character of these may be a token: digits often are, and a reply that is
# cut off is lost.
_FRAME_TOKENS = 200
_QUOTE_CHARACTERS, _ANSWER_CHARACTERS = (60, 240), (60, 1000)


class TooSmall(Exception):
    """The bounds leave no room for an answer of a model."""


@dataclass(frozen=True, slots=True)
class Room:
    """Tokens that a model has for one answer."""

    context: int
    answer: int

    @property
    def prompt(self) -> int:
        """Tokens that are left for what it reads."""
        return self.context - self.answer


@dataclass(frozen=True, slots=True)
class Prices:
    """Price of 1,000 tokens, read and written."""

    prompt: float = 0.0
    completion: float = 0.0

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Price of tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1000


@dataclass(frozen=True, slots=True)
class Made:
    """A prompt, and the number of its passages that are cut."""

    prompt: Prompt
    estimated_tokens: int
    truncated_passages: int
    quote_characters: int
    """Most characters of a quote; a server cuts it off there, in the middle of a word."""


def room_of(task: Task, most: Room, prices: Prices) -> Room:
    """Return the room for an answer, within the bounds of its task. Raises TooSmall."""
    context = min(most.context, task.bounds.tokens or most.context)
    answer = min(most.answer, max(_LEAST_ANSWER, context // 3))
    if task.bounds.cost is not None and prices.of(1000, 1000):
        left = task.bounds.cost - prices.of(0, answer)
        if left < prices.of(_LEAST_PASSAGES, 0) and answer > _LEAST_ANSWER:
            answer = _LEAST_ANSWER
            left = task.bounds.cost - prices.of(0, answer)
        if left < 0:
            raise TooSmall("the bound of the cost leaves nothing for an answer")
        if prices.prompt:
            context = min(context, answer + int(left / prices.prompt * 1000))
    if context - answer < _LEAST_PASSAGES:
        raise TooSmall(f"the bounds leave {max(0, context - answer)} tokens for the passages")
    return Room(context, answer)


def make_prompt(task: Task, room: Room) -> Made:
    """Make the prompt of a task. Raises TooSmall where the question alone fills the room."""
    boundary = secrets.token_hex(8)
    characters = room.answer - _FRAME_TOKENS
    quote = _between(_QUOTE_CHARACTERS, characters // (2 * _MOST_QUOTES))
    words = _between(_ANSWER_CHARACTERS, characters - _MOST_QUOTES * quote)
    schema = reply_schema(
        task.schema,
        passages=len(task.passages),
        quotes=_MOST_QUOTES,
        quote_characters=quote,
        answer_characters=words,
        sub_questions=task.sub_questions,
    )
    system = _template("answer" if task.schema is None else "extract").substitute(
        quote_characters=quote, schema=json.dumps(task.schema)
    )
    if task.sub_questions:
        system += _template("sub_questions").substitute(count=task.sub_questions)
    # Last: servers keep what all prompts begin with.
    system += _template("passages").substitute(boundary=boundary)
    empty = _template("question").substitute(passages="", question=inert(task.question))
    frames = [_framed(place, passage.title, "", boundary) for place, passage in enumerate(task.passages, 1)]
    fixed = tokens_of(system) + tokens_of(empty) + sum(map(tokens_of, frames))
    left = room.prompt - fixed
    if left < _LEAST_PASSAGES:
        raise TooSmall("the bounds leave no room for the passages beside the question")
    texts = _cut(task.passages, left)
    passages = "\n\n".join(
        _framed(place, passage.title, text, boundary)
        for place, (passage, text) in enumerate(zip(task.passages, texts, strict=True), 1)
    )
    user = _template("question").substitute(passages=passages, question=inert(task.question))
    cut = sum(len(text) < len(passage.text) for text, passage in zip(texts, task.passages, strict=True))
    return Made(Prompt(system, user, schema, room.answer), tokens_of(system) + tokens_of(user), cut, quote)


def inert(text: str) -> str:
    """Take from a text what could steer a chat template; NFKC gives it back."""
    return _ROLES.sub("\N{FULLWIDTH LEFT SQUARE BRACKET}", text.translate(_INERT))


def alive(text: str) -> str:
    """Give a model's text the angle brackets that `inert` took."""
    return text.translate(_AGAIN)


def tokens_of(text: str) -> int:
    """Estimate the tokens of a text."""
    return -(-len(text.encode()) // _BYTES_A_TOKEN)


def _framed(place: int, title: str, text: str, boundary: str) -> str:
    head = f"{inert(title)}\n" if title else ""
    return f'<passage-{boundary} number="{place}">\n{head}{inert(text)}\n</passage-{boundary}>'


def _cut(passages: Sequence[Passage], tokens: int) -> list[str]:
    """Cut texts to a number of tokens together: short ones stay whole, long ones get equal shares of the rest."""
    left, texts = tokens, [passage.text for passage in passages]
    sizes = [tokens_of(inert(text)) for text in texts]
    order = sorted(range(len(texts)), key=sizes.__getitem__)
    for done, place in enumerate(order):
        share = left // (len(order) - done)
        if sizes[place] > share:
            texts[place] = _beginning(texts[place], share)
        left -= min(sizes[place], share)
    return texts


def _beginning(text: str, tokens: int) -> str:
    """The beginning of a text, up to the end of a word."""
    most = tokens * _BYTES_A_TOKEN
    kept = inert(text).encode()[:most].decode(errors="ignore")
    words = kept.rsplit(maxsplit=1)[0] if len(kept.split()) > 1 else kept
    return text[: len(words)]


def _between(bounds: tuple[int, int], value: int) -> int:
    least, most = bounds
    return max(least, min(most, value))


@cache
def _template(name: str) -> Template:
    return Template((_FOLDER / f"{name}.txt").read_text(encoding="utf-8"))
