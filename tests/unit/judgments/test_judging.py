from __future__ import annotations

import re

import pytest

from sluice_judgments.judging import (
    Passage,
    Preference,
    better_of,
    grade_of,
    graded_by_wins,
    pairwise,
    pointwise,
    preference,
)
from tests.unit.reasoner.hostile import HOSTILE

PASSAGE = Passage("d1", "Pools", "A thread pool runs work in threads.")


def test_a_passage_is_asked_about_within_marks_that_nobody_can_guess() -> None:
    one, again = (pointwise("what runs work?", PASSAGE, 100) for _ in range(2))
    boundary = re.search(r"<passage-([0-9a-f]{16}) number", one.system)
    assert boundary is not None
    assert f'<passage-{boundary[1]} number="1">\nPools\nA thread pool' in one.user
    assert one.user.endswith("Question: what runs work?\n")
    assert one.system != again.system
    assert one.schema["properties"]["grade"]["enum"] == [0, 1, 2, 3]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_passage_ends_itself_or_speaks_as_a_role(text: str) -> None:
    prompt = pairwise("why?", (Passage("a", "", text), PASSAGE), 2000)
    assert prompt.user.count("<") == 4
    assert "[INST]" not in prompt.user
    assert "[/INST]" not in prompt.user


def test_a_long_passage_is_cut_at_a_word() -> None:
    shown = pointwise("why?", Passage("a", "", "word " * 1000), 10).user
    assert shown.count("word") == 5
    assert "word\n</passage" in shown


@pytest.mark.parametrize(
    ("reply", "grade"),
    [('{"grade": 2}', 2), ('{"grade": 4}', None), ('{"grade": true}', None), ('{"grade": "2"}', None), ("2", None)],
)
def test_a_reply_that_is_no_grade_is_none(reply: str, grade: int | None) -> None:
    assert grade_of(reply) == grade


def test_a_verdict_counts_only_if_both_orders_agree() -> None:
    assert preference("q", "a", "b", "first", "second") == Preference("q", "a", "b", "a")
    assert preference("q", "a", "b", "second", "first") == Preference("q", "a", "b", "b")
    assert preference("q", "a", "b", "same", "same") == Preference("q", "a", "b", "")
    assert preference("q", "a", "b", "first", "first") is None  # a favourite place, and no passage
    assert preference("q", "a", "b", "same", "first") is None
    assert preference("q", "a", "b", None, None) is None
    assert (better_of('{"better": "first"}'), better_of('{"better": "third"}')) == ("first", None)


def test_grades_of_preferences_are_wins() -> None:
    preferences = [Preference("q", "a", "b", "a"), Preference("q", "a", "c", "a"), Preference("q", "b", "c", "")]
    assert graded_by_wins(preferences, {"q": "why?", "p": "no"}).grades == {"q": {"a": 2, "b": 0, "c": 0}}
