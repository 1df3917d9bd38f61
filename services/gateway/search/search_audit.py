"""Searches in the audit log, where that is asked for."""

from __future__ import annotations

from collections.abc import Iterable

from services.chassis.audit.entry import note_read
from services.gateway.search.query_log import hash_of


class SearchAudit:
    """Notes what a search was about: the collection, a hash of the query, and the ids that were returned."""

    def __init__(self, *, on: bool, key: str) -> None:
        """Without a key, a guessed query can be tested against its hash."""
        self._on = on
        self._key = key.encode()

    def note(self, collection: str, query: str, ids: Iterable[str]) -> None:
        """Have a line written for the search under way, if that is asked for."""
        if self._on:
            facts = {"query_hash": hash_of(query, self._key)} if query else {}
            note_read({"collection": collection}, **facts, ids=list(ids))
