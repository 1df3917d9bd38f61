from __future__ import annotations

import json

import pytest

from sluice_judgments.clicks import Served
from sluice_judgments.ubi import Recorded, query_id_of, read_ubi

LINES = [
    {"query_id": "1", "action_name": "click", "event_attributes": {"object": {"object_id": "b"}}},
    {"query_id": "1", "client_id": "u", "user_query": "Why  me?", "query_response_object_ids": ["a", "b"]},
    {"query_id": "1", "action_name": "rate", "event_attributes": {"object": {"object_id": "a"}}},
    {
        "query_id": "2",
        "client_id": "v",
        "user_query": "why me?",
        "query_response_hit_ids": ["c"],
        "query_attributes": {"first_position": 11, "collection": "other"},
    },
    {"query_id": "3", "client_id": "u", "user_query": "", "query_response_object_ids": ["a"]},
    {"query_id": "4", "client_id": "u", "user_query": "hmac:12", "query_response_object_ids": ["a"]},
    {"query_id": "5", "client_id": "", "user_query": "a replay", "query_response_object_ids": ["a"]},
]
SAME = query_id_of("why me?")


def test_answers_and_events_of_an_export_become_pages_with_clicks() -> None:
    found = Recorded()
    read_ubi(map(json.dumps, LINES), found)
    assert found.pages == [
        Served(SAME, ["a", "b"], {"b"}),
        Served(SAME, ["c"], set(), 11),
        Served("hmac:12", ["a"], set()),
    ]
    assert found.clear_texts == {SAME: "Why  me?"}
    assert (found.without_query, found.without_user) == (1, 1)


def test_answers_to_nobody_count_where_that_is_wanted_and_collections_are_told_apart() -> None:
    found = Recorded(anonymous=True)
    read_ubi(map(json.dumps, LINES), found)
    assert query_id_of("a replay") in found.texts
    only = Recorded()
    read_ubi(map(json.dumps, LINES), only, "other")
    assert only.pages == [Served(SAME, ["c"], set(), 11)]


def test_a_line_that_is_no_object_is_named() -> None:
    with pytest.raises(ValueError, match="line 2 is no JSON object"):
        read_ubi(["{}", "[1]"], Recorded())
