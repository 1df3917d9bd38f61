"""Documents of User Behavior Insights: answers with what was served, and events about them, a document a line.

A line with `action_name` is an event, another one an answer; both may stand in one file, in any order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sluice_judgments.clicks import Served

USES = frozenset({"click", "cite"})
"""Actions that say that a result was looked at and chosen."""
HASHED = "hmac:"
"""Beginning of a query of which only a keyed hash is kept."""
# The schema's name, and that of OpenSearch's index.
_OBJECT_IDS = ("query_response_object_ids", "query_response_hit_ids")


@dataclass(slots=True)
class Recorded:
    """Pages that were served, and the texts of their queries."""

    anonymous: bool = False
    """Count answers to nobody, too. Evaluations and replays ask without a user, and nobody clicks there."""
    pages: list[Served] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    """By id of the query: equal texts are one query. A hash is its own id."""
    without_query: int = 0
    """Pages of which the query was not kept: there is nothing to judge."""
    without_user: int = 0
    """Pages that nobody is known to have seen, where they are not counted."""

    def add(self, text: str, user: str, page: Served) -> None:
        """Add a page that answers a text; its `query` is filled in."""
        if not user and not self.anonymous:
            self.without_user += 1
        elif not text.strip():
            self.without_query += 1
        else:
            query = text if text.startswith(HASHED) else query_id_of(text)
            self.texts.setdefault(query, text.strip())
            self.pages.append(Served(query, page.documents, page.clicked, page.first_position))

    @property
    def clear_texts(self) -> dict[str, str]:
        """Texts that can be asked again."""
        return {query: text for query, text in self.texts.items() if not text.startswith(HASHED)}


def read_ubi(lines: Iterable[str], into: Recorded, collection: str = "") -> None:
    """Read the lines of an export, of all files of it together; only answers from `collection` if it is named.

    Raises ValueError with the number of a line that is no JSON object.
    """
    served: dict[str, Mapping[str, Any]] = {}
    used: dict[str, set[str]] = {}
    for found in _objects(lines):
        query_id = str(found.get("query_id", ""))
        if "action_name" in found:
            if found["action_name"] in USES:
                attributes = found.get("event_attributes") or {}
                used.setdefault(query_id, set()).add(str((attributes.get("object") or {}).get("object_id", "")))
        elif query_id and _shown(found):
            served.setdefault(query_id, found)
    for query_id, page in served.items():
        attributes = page.get("query_attributes") or {}
        if collection and attributes.get("collection") != collection:
            continue
        clicked, first = used.get(query_id, set()), int(attributes.get("first_position") or 1)
        shown = Served("", [str(name) for name in _shown(page)], clicked, max(1, first))
        into.add(str(page.get("user_query") or ""), str(page.get("client_id") or ""), shown)


def query_id_of(text: str) -> str:
    """Make an id of a text: equal texts have the same one."""
    return hashlib.sha256(" ".join(text.split()).casefold().encode()).hexdigest()[:16]


def _shown(answer: Mapping[str, Any]) -> list[Any]:
    for name in _OBJECT_IDS:
        if isinstance(answer.get(name), list):
            return list(answer[name])
    return []


def _objects(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"line {number} is no JSON object")
        yield found
