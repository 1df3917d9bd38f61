"""Hashes of queries for logs, traces and the audit log, which tell equal queries from different ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

from services.chassis import logs, tracing
from services.chassis.audit.entry import note_read

_HASH_BYTES = 16

LoggedQueries = Literal["off", "hash"]


class QueryLog:
    """Notes hashes of queries where the settings allow it; never their text."""

    def __init__(self, shown: LoggedQueries, key: str) -> None:
        """Without a key, a guessed query can be tested against its hash."""
        self._on = shown == "hash"
        self._key = key.encode()

    def note(self, query: str) -> None:
        """Add a query's hash to the current log line and span, if enabled."""
        if not self._on:
            return
        shown = hash_of(query, self._key)
        logs.note(query_hash=shown)
        if (span := tracing.recorded()) is not None:
            span.set_attribute("sluice.query_hash", shown)


class SearchAudit:
    """Notes for the audit log: the collection of a search, a hash of its query, and the ids that were returned."""

    def __init__(self, *, on: bool, key: str) -> None:
        """Without a key, a guessed query can be tested against its hash."""
        self._on = on
        self._key = key.encode()

    def note(self, collection: str, query: str, ids: Iterable[str]) -> None:
        """Have a line written for the search under way, if that is asked for."""
        if self._on:
            facts = {"query_hash": hash_of(query, self._key)} if query else {}
            note_read({"collection": collection}, **facts, ids=list(ids))


def hash_of(query: str, key: bytes) -> str:
    """BLAKE2b of a query's UTF-8: 16 bytes, possibly keyed (RFC 7693)."""
    return hashlib.blake2b(query.encode(), key=key, digest_size=_HASH_BYTES).hexdigest()
