"""Correction of queries."""

from __future__ import annotations

_MISSPELT = {"teh": "the", "recieve": "receive"}


def corrected(query: str) -> str:
    """Return the query with frequent misspellings corrected."""
    return " ".join(_MISSPELT.get(word, word) for word in query.split(" "))
