"""A language model as the judge: prompts, and what its replies say.

Pointwise, it grades one passage from 0 to 3. Pairwise, it is asked which of two passages is better, in both orders:
models favour a place, and a verdict counts only if both orders agree. Passages are data: each stands between marks with
a boundary that nobody can guess, and characters that could end it or speak as a role are replaced by ones that look
alike.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from string import Template
from typing import Any, Literal

from sluice_judgments.judgments import Judgments

HIGHEST_GRADE = 3
BYTES_A_TOKEN = 3
"""Most tokens of most models have more, so that a text has fewer tokens than its bytes say."""
MOST_TOKENS = 24
"""Of a reply, which is one short JSON object."""

Better = Literal["first", "second", "same"]

_PROMPTS = resources.files("sluice_judgments") / "prompts"
_INERT = str.maketrans({"<": "\N{FULLWIDTH LESS-THAN SIGN}", ">": "\N{FULLWIDTH GREATER-THAN SIGN}"})
# Of Llama 2 and Mistral, whose marks have no angle brackets.
_ROLES = re.compile(r"\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage to judge."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question to a model, and the schema of its reply."""

    system: str
    user: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Preference:
    """The passage of two that is better, by both orders; neither where both orders agree that they are alike."""

    query: str
    one: str
    other: str
    better: str
    """Id of the better one; empty for neither."""


def pointwise(question: str, passage: Passage, passage_tokens: int) -> Prompt:
    """Ask for the grade of a passage; of a longer one only so many tokens are shown."""
    schema = _schema("grade", {"type": "integer", "enum": list(range(HIGHEST_GRADE + 1))})
    return _prompt("pointwise", question, [passage], passage_tokens, schema)


def pairwise(question: str, passages: tuple[Passage, Passage], passage_tokens: int) -> Prompt:
    """Ask which of two passages is better, in this order."""
    schema = _schema("better", {"type": "string", "enum": ["first", "second", "same"]})
    return _prompt("pairwise", question, passages, passage_tokens, schema)


def grade_of(reply: str) -> int | None:
    """Read a grade; None where the reply is none."""
    grade = _field(reply, "grade")
    return grade if type(grade) is int and 0 <= grade <= HIGHEST_GRADE else None


def better_of(reply: str) -> Better | None:
    """Read which passage is better; None where the reply does not say."""
    better = _field(reply, "better")
    return better if better in ("first", "second", "same") else None


def preference(
    query: str, one: str, other: str, forwards: Better | None, backwards: Better | None
) -> Preference | None:
    """Make one verdict of the two, where the second was asked in the opposite order; None if they do not agree."""
    turned = {"first": "second", "second": "first", "same": "same", None: None}[backwards]
    if forwards is None or forwards != turned:
        return None
    return Preference(query, one, other, {"first": one, "second": other, "same": ""}[forwards])


def graded_by_wins(preferences: Iterable[Preference], texts: Mapping[str, str]) -> Judgments:
    """Make grades of preferences: the number of passages of the query that a passage is better than (Copeland)."""
    grades: dict[str, dict[str, int]] = {}
    for one in preferences:
        found = grades.setdefault(one.query, {})
        for name in (one.one, one.other):
            found[name] = found.get(name, 0) + (name == one.better)
    return Judgments(grades, {query: texts[query] for query in grades if query in texts})


def inert(text: str) -> str:
    """Take from a text what could steer a chat template, or end the passage."""
    return _ROLES.sub("\N{FULLWIDTH LEFT SQUARE BRACKET}", text.translate(_INERT))


def _prompt(
    name: str, question: str, passages: Sequence[Passage], passage_tokens: int, schema: Mapping[str, Any]
) -> Prompt:
    boundary = secrets.token_hex(8)
    framed = "\n\n".join(
        f'<passage-{boundary} number="{number}">\n{_beginning(one, passage_tokens)}\n</passage-{boundary}>'
        for number, one in enumerate(passages, start=1)
    )
    system = _template(name).substitute() + _template("passages").substitute(boundary=boundary)
    return Prompt(system, _template("question").substitute(passages=framed, question=inert(question)), schema)


def _beginning(passage: Passage, tokens: int) -> str:
    """The beginning of a passage, up to the end of a word."""
    text = inert(f"{passage.title}\n{passage.text}".strip())
    kept = text.encode()[: tokens * BYTES_A_TOKEN].decode(errors="ignore")
    return kept if len(kept) == len(text) else (kept.rsplit(maxsplit=1) or [""])[0]


def _schema(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {name: value}, "required": [name], "additionalProperties": False}


def _field(reply: str, name: str) -> Any:
    try:
        found = json.loads(reply)
    except (ValueError, RecursionError):
        return None
    return found.get(name) if isinstance(found, dict) else None


@cache
def _template(name: str) -> Template:
    return Template((_PROMPTS / f"{name}.txt").read_text(encoding="utf-8"))
