"""Lines of User Behavior Insights: queries with what was served, and events about them.

A line with `action_name` is an event, one with `query_response_hit_ids` a query; both may stand in one file, in any
order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sluice_judgments.clicks import Served

USES = frozenset({"click", "cite"})
"""Actions that say that a result was looked at and chosen."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """Pages that were served, and the texts of their queries."""

    pages: list[Served]
    texts: dict[str, str]
    """By id of the query: equal texts are one query."""
    without_query: int
    """Pages of which the query was not kept; there is nothing to judge."""


def recorded(lines: Iterable[str]) -> Recorded:
    """Read the lines of an export. Raises ValueError with the number of a line that is no JSON object."""
    served: dict[str, Mapping[str, Any]] = {}
    used: dict[str, set[str]] = {}
    for found in _objects(lines):
        query_id = str(found.get("query_id", ""))
        if "action_name" in found:
            if found["action_name"] in USES:
                attributes = found.get("event_attributes") or {}
                used.setdefault(query_id, set()).add(str((attributes.get("object") or {}).get("object_id", "")))
        elif query_id and found.get("query_response_hit_ids"):
            served.setdefault(query_id, found)
    pages, texts, without = [], {}, 0
    for query_id, page in served.items():
        text = str(page.get("user_query") or "").strip()
        if not text:
            without += 1
            continue
        query = text if text.startswith("hmac:") else query_id_of(text)
        texts[query] = text
        first = (page.get("query_attributes") or {}).get("first_position") or 1
        pages.append(Served(query, [*map(str, page["query_response_hit_ids"])], used.get(query_id, set()), int(first)))
    return Recorded(pages, texts, without)


def query_id_of(text: str) -> str:
    """Make an id of a text: equal texts have the same one."""
    return hashlib.sha256(" ".join(text.split()).casefold().encode()).hexdigest()[:16]


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
