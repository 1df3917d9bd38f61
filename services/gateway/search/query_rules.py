"""Rules for the text of queries: length, control characters, and a pattern that an operator may set."""

from __future__ import annotations

import unicodedata

import regex

from services.chassis.errors import InvalidArgument, StartupError
from services.chassis.validation import MAX_QUERY_BYTES, check_text

PATTERN_SECONDS = 0.02
"""Longest time for the pattern: while it is tried, the gateway does nothing else."""
_WHITE = "\t\n\r"


class QueryRules:
    """Checks queries. Raises StartupError for a pattern that is none; an empty one allows all."""

    def __init__(self, most_characters: int = MAX_QUERY_BYTES, pattern: str = "") -> None:
        self._most = most_characters
        try:
            self._pattern = regex.compile(pattern) if pattern else None
        except regex.error as error:
            raise StartupError(
                f"QUERY_PATTERN: {error}", remedy="Correct the regular expression, or leave it empty."
            ) from None

    def check(self, field: str, query: str) -> None:
        """Raise InvalidArgument for a query that breaks a rule."""
        if len(query) > self._most or len(query.encode()) > MAX_QUERY_BYTES:
            raise InvalidArgument(
                field,
                f"has {len(query)} characters; at most {self._most} are taken, and {MAX_QUERY_BYTES} bytes",
                reason="QUERY_TOO_LONG",
            )
        check_text(field, query, MAX_QUERY_BYTES)
        if not query.isprintable():
            _check_characters(field, query)
        if self._pattern is not None:
            _check_form(field, query, self._pattern)


def _check_characters(field: str, query: str) -> None:
    for place, character in enumerate(query):
        if character not in _WHITE and unicodedata.category(character) == "Cc":
            raise InvalidArgument(
                field,
                f"has the control character U+{ord(character):04X} at place {place}; take it out",
                reason="CONTROL_CHARACTERS",
            )


def _check_form(field: str, query: str, pattern: regex.Pattern[str]) -> None:
    try:
        allowed = pattern.fullmatch(query, timeout=PATTERN_SECONDS)
    except TimeoutError:
        problem = "takes too long to compare with the form that the operator allows here (QUERY_PATTERN)"
        raise InvalidArgument(field, problem, reason="PATTERN") from None
    if not allowed:
        problem = "is not of the form that the operator allows here (QUERY_PATTERN)"
        raise InvalidArgument(field, problem, reason="PATTERN")
