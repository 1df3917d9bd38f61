"""Checks that every stage makes of what it is sent; each raises InvalidArgument naming the field."""

from __future__ import annotations

from services.chassis.errors import InvalidArgument

MAX_QUERY_BYTES = 8192


def check_text(field: str, text: str, most_bytes: int) -> None:
    """Refuses a text that is blank, or longer than so many bytes of UTF-8."""
    if not text or text.isspace():
        raise InvalidArgument(field, "is empty")
    size = len(text.encode())
    if size > most_bytes:
        raise InvalidArgument(field, f"is {size} bytes long; at most {most_bytes} are taken")


def check_count(field: str, count: int, most: int) -> None:
    """Refuses an empty list, and one longer than so many entries."""
    if not 1 <= count <= most:
        raise InvalidArgument(field, f"must hold between 1 and {most} entries, not {count}")
