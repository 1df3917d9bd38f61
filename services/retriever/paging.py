"""Pages of lists (AIP-158): a token holds the place where the next page begins, and a digest of the question."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable
from typing import TypeVar

from services.chassis.errors import InvalidArgument

T = TypeVar("T")

_DIGEST_BYTES = 8


def size_of(asked: int, *, default: int, most: int) -> int:
    """Return the size of a page: the default for 0, never more than `most`."""
    if asked < 0:
        raise InvalidArgument("page_size", f"is {asked}; send 0 or more")
    return min(asked or default, most)


def encode(place: str, question: object) -> str:
    """Return the token for a place in the answer to a question."""
    return base64.urlsafe_b64encode(_digest(place, question) + place.encode()).decode()


def decode(token: str, question: object) -> str:
    """Return the place of a token; empty for the first page. InvalidArgument if it belongs to another question."""
    if not token:
        return ""
    try:
        content = base64.b64decode(token, altchars=b"-_", validate=True)
        digest, place = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:].decode()
    except ValueError:
        digest, place = b"", ""
    if digest != _digest(place, question):
        raise InvalidArgument(
            "page_token", "belongs to another list; pass next_page_token unchanged, and all else as for the page before"
        )
    return place


def cut(
    items: Iterable[T], key: Callable[[T], str], size: int, token: str, question: object, *, descending: bool = False
) -> tuple[list[T], str]:
    """Return the page of this token from items sorted by unique keys, and the token of the next page."""
    place = decode(token, question)
    keyed = sorted(((key(item), item) for item in items), key=lambda pair: pair[0], reverse=descending)
    if place:
        keyed = [pair for pair in keyed if (pair[0] < place if descending else pair[0] > place)]
    more = len(keyed) > size
    return [item for _, item in keyed[:size]], encode(keyed[size - 1][0], question) if more else ""


def _digest(place: str, question: object) -> bytes:
    return hashlib.blake2b(repr((place, question)).encode(), digest_size=_DIGEST_BYTES).digest()
