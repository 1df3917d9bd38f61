"""The part of a query that logs show."""

from __future__ import annotations

import hashlib

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.search.query_log import QueryLog, hash_of

QUERY = "who was here in zanzibar"


@pytest.fixture(autouse=True)
def _no_fields() -> None:
    structlog.contextvars.clear_contextvars()


def test_nothing_by_default() -> None:
    QueryLog("off", "").note(QUERY)
    assert structlog.contextvars.get_contextvars() == {}


def test_a_plain_hash_can_be_made_by_anybody_who_guesses_the_query() -> None:
    QueryLog("hash", "").note(QUERY)
    expected = hashlib.blake2b(QUERY.encode(), digest_size=16).hexdigest()
    assert structlog.contextvars.get_contextvars() == {"query_hash": expected}


def test_a_keyed_hash_takes_the_key() -> None:
    QueryLog("hash", "a key").note(QUERY)
    (shown,) = structlog.contextvars.get_contextvars().values()
    assert shown == hash_of(QUERY, b"a key") != hash_of(QUERY, b"another key")


@given(st.text(), st.text(min_size=1))
def test_equal_queries_have_equal_hashes_and_no_hash_holds_its_query(query: str, other: str) -> None:
    assert hash_of(query, b"k") == hash_of(query, b"k")
    assert (hash_of(query, b"k") == hash_of(query + other, b"k")) is False
