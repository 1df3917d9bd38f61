"""Relations that the markup of a document tells: links with their words, and other names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

from sluice_client import Relations

MOST_NAMES, LONGEST_NAME = 256, 1024
"""Names or links of a document, and their bytes: what a gateway takes."""
_MOST_WORDS = 6
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{0,20}:")
# A definition of a reference link, as `[label]: target "title"`; footnotes begin with ^.
_DEFINITION = re.compile(r"^ {0,3}\[([^\[\]^\n][^\[\]\n]{0,199})\]:[ \t]*<?([^\s<>]{1,500})>?", re.MULTILINE)
_REFERENCE = re.compile(r"\[([^\[\]\n]{1,200})\](?:\[([^\[\]\n]{0,200})\])?(?![:(])")


def relations_of(
    links: Iterable[tuple[str, str]], aliases: Iterable[str] = (), *, identity: str = ""
) -> Relations | None:
    """Return the relations of a document from its links, each with its words, and its other names.

    Links are as seen from the document's id, which is needed for those that begin at the root. None where it has none.
    """
    found = [(target, words) for link, words in links if (target := _target(link, identity))]
    relations = Relations(
        fitting_names(aliases),
        fitting_names(words for _, words in found if _is_name(words)),
        fitting_names(target for target, _ in found),
    )
    return relations if relations.aliases or relations.mentions or relations.links else None


def reference_links(text: str) -> Iterator[tuple[str, str]]:
    """Yield the target and the words of Markdown's reference links.

    Links that have their targets with them are found in the text itself, wherever a chunk of it is stored.
    """
    targets = {_label(label): target for label, target in _DEFINITION.findall(text)}
    if targets:
        for words, label in _REFERENCE.findall(text):
            if target := targets.get(_label(label or words)):
                yield target, words


def _target(link: str, identity: str) -> str:
    """Return the target of a link to another document, or ""."""
    path = unquote(link.strip().partition("#")[0].partition("?")[0])
    if not path or path.startswith("//") or (_SCHEME.match(path) and not path.startswith(("http://", "https://"))):
        return ""
    if path.startswith("/"):
        return "../" * identity.count("/") + path.lstrip("/")
    return path


def _is_name(words: str) -> bool:
    return 1 <= len(words.split()) <= _MOST_WORDS and any(map(str.isalpha, words)) and "://" not in words


def _label(label: str) -> str:
    return " ".join(label.lower().split())


def fitting_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the first names that a gateway takes, none of them twice."""
    plain = (" ".join(name.split()) for name in names)
    fitting = (name for name in plain if 0 < len(name.encode(errors="replace")) <= LONGEST_NAME)
    return tuple(dict.fromkeys(fitting))[:MOST_NAMES]
