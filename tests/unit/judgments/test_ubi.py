from __future__ import annotations

import json

import pytest

from sluice_judgments.clicks import Served
from sluice_judgments.ubi import query_id_of, recorded


def test_queries_and_events_of_an_export_become_pages_with_clicks() -> None:
    lines = [
        {"query_id": "1", "action_name": "click", "event_attributes": {"object": {"object_id": "b"}}},
        {"query_id": "1", "user_query": "Why  me?", "query_response_hit_ids": ["a", "b"]},
        {"query_id": "1", "action_name": "rate", "event_attributes": {"object": {"object_id": "a"}}},
        {
            "query_id": "2",
            "user_query": "why me?",
            "query_response_hit_ids": ["c"],
            "query_attributes": {"first_position": 11},
        },
        {"query_id": "3", "user_query": "", "query_response_hit_ids": ["a"]},
        {"query_id": "4", "user_query": "hmac:12", "query_response_hit_ids": ["a"]},
    ]
    found = recorded(map(json.dumps, lines))
    same = query_id_of("why me?")
    assert found.pages == [
        Served(same, ["a", "b"], {"b"}),
        Served(same, ["c"], set(), 11),
        Served("hmac:12", ["a"], set()),
    ]
    assert found.texts[same].casefold() == "why me?"
    assert found.without_query == 1


def test_a_line_that_is_no_object_is_named() -> None:
    with pytest.raises(ValueError, match="line 2 is no JSON object"):
        recorded(["{}", "[1]"])
