"""What logs and traces show of a query: nothing, or a hash that tells equal queries from different ones."""

from __future__ import annotations

import hashlib
from typing import Literal

from services.chassis import logs, tracing

_HASH_BYTES = 16

LoggedQueries = Literal["off", "hash"]


class QueryLog:
    """Notes queries as the settings allow; never their text."""

    def __init__(self, shown: LoggedQueries, key: str) -> None:
        """A hash without a key is undone by whoever guesses the query; with one, only by who has the key, too."""
        self._on = shown == "hash"
        self._key = key.encode()

    def note(self, query: str) -> None:
        """Adds the query's hash to the line and the span of the call under way, if that is on."""
        if not self._on:
            return
        shown = hash_of(query, self._key)
        logs.note(query_hash=shown)
        if (span := tracing.recorded()) is not None:
            span.set_attribute("sluice.query_hash", shown)


def hash_of(query: str, key: bytes) -> str:
    """BLAKE2b of the query's UTF-8, 16 bytes, keyed where there is a key (RFC 7693)."""
    return hashlib.blake2b(query.encode(), key=key, digest_size=_HASH_BYTES).hexdigest()
