"""Weak supervision from the docstrings of Python's standard library: questions with one known answer each.

The first sentence of a docstring is the question; the rest is the passage to be found (title to body, e.g. Lee et al.,
ACL 2019). Real text about many things, available without a network.
"""

from __future__ import annotations

import ast
import random
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NO_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo"}
_QUESTION_WORDS = range(4, 26)
_LEAST_PASSAGE_WORDS = 12
_FIRST_SENTENCE = re.compile(r"(.+?\.)\s+(.*)", re.DOTALL)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, slots=True)
class KnownItem:
    """A question and the one passage that answers it."""

    question: str
    passage: str


def known_items(library: Path | None = None) -> list[KnownItem]:
    """Collect the questions with their passages, no question twice, in a fixed random order.

    Sources are parsed, never imported. `library` is for tests; unset means this Python's standard library.
    """
    library = library or Path(sysconfig.get_path("stdlib"))
    found: dict[str, KnownItem] = {}
    for item in _items(library):
        found.setdefault(item.question, item)
    items = [found[question] for question in sorted(found)]
    random.Random(0).shuffle(items)  # noqa: S311  nothing here is secret
    return items


def _items(library: Path) -> Iterator[KnownItem]:
    for source in sorted([*library.glob("*.py"), *library.glob("*/*.py")]):
        if source.parent.name in _NO_LIBRARY:
            continue
        try:
            tree = ast.parse(source.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node)):
                parts = _FIRST_SENTENCE.fullmatch(" ".join(text.split()))
                if parts is None:
                    continue
                question, passage = parts.groups()
                if len(question.split()) in _QUESTION_WORDS and len(passage.split()) >= _LEAST_PASSAGE_WORDS:
                    yield KnownItem(question, passage)
