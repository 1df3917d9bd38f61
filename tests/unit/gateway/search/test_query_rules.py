from __future__ import annotations

import pytest

from services.chassis.errors import InvalidArgument, StartupError
from services.gateway.search.query_rules import QueryRules


def reason(rules: QueryRules, query: str) -> str:
    with pytest.raises(InvalidArgument) as caught:
        rules.check("search.query", query)
    assert caught.value.field == "search.query"
    return caught.value.reason


@pytest.mark.parametrize("query", ["why?", "two\nlines\tand a tab\r\n", "\u200dquéry ünd 漢字", "a" * 8192])
def test_plain_queries_pass(query: str) -> None:
    QueryRules().check("query", query)


@pytest.mark.parametrize("query", ["", "  \n"])
def test_a_query_without_a_word_is_empty(query: str) -> None:
    assert reason(QueryRules(), query) == "INVALID_FIELD"


def test_length_is_counted_in_characters_and_never_passes_the_bytes_that_stages_take() -> None:
    rules = QueryRules(most_characters=5)
    rules.check("query", "漢字漢字漢")
    assert reason(rules, "漢字漢字漢字") == "QUERY_TOO_LONG"
    assert reason(QueryRules(), "漢" * 3000) == "QUERY_TOO_LONG"


@pytest.mark.parametrize("character", ["\0", "\x07", "\x1b", "\x7f", "\x85", "\x9b"])
def test_control_characters_are_refused_with_their_place(character: str) -> None:
    assert reason(QueryRules(), f"a{character}b") == "CONTROL_CHARACTERS"
    with pytest.raises(InvalidArgument, match=rf"U\+00{ord(character):02X} at place 1"):
        QueryRules().check("query", f"a{character}b")


def test_a_query_has_to_match_the_pattern_as_a_whole() -> None:
    rules = QueryRules(pattern=r"[\p{L}\p{N} ?.,'-]+")
    rules.check("query", "Où est la bibliothèque?")
    assert reason(rules, "<script>") == "PATTERN"


def test_a_pattern_that_runs_away_refuses_within_its_time() -> None:
    assert reason(QueryRules(pattern=r"(.*a){25}"), "a" * 24 + "b" * 400) == "PATTERN"


def test_a_pattern_that_is_none_keeps_a_gateway_from_starting() -> None:
    with pytest.raises(StartupError, match="QUERY_PATTERN"):
        QueryRules(pattern="(")
