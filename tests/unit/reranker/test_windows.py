from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.reranker.windows import READ_CHARACTERS, best_window, parts_of

# Words of one token each; the last two are those of the query.
STORM, SAILS, THE, SHIP, HARBOUR = range(1, 6)

tokens = st.lists(st.integers(0, 20), max_size=30)
parts = st.lists(tokens, min_size=1, max_size=30)


@given(st.text(max_size=3000))
def test_the_parts_are_the_passage_up_to_blanks_at_its_end(text: str) -> None:
    joined = "".join(parts_of(text))
    assert text.startswith(joined)
    assert not text[len(joined) :].strip()


@pytest.mark.parametrize(
    ("passage", "expected"),
    [
        ("Ships\nA ship sails. It rests.", ["Ships\n", "A ship sails.", " It rests."]),
        ("A ship sails. It rests.", ["", "A ship sails.", " It rests."]),
        ("One line alone", ["", "One line alone"]),
        ("Title\n", ["Title\n"]),
        ("船\n船は港にある。嵐が来る。", ["船\n", "船は港にある。", "嵐が来る。"]),
    ],
)
def test_a_passage_is_cut_into_its_first_line_and_its_sentences(passage: str, expected: list[str]) -> None:
    assert parts_of(passage) == expected


def test_a_first_line_that_is_a_paragraph_is_no_title_but_cut_into_sentences() -> None:
    paragraph = "A ship sails through the storm. " * 20
    parts = parts_of(f"{paragraph}\nIt rests.")
    assert parts[0] == ""
    assert len(parts) == 1 + 20 + 1


def test_a_text_of_any_length_is_read_only_as_far_as_a_window_is_looked_for() -> None:
    assert sum(map(len, parts_of("A ship. " * 1_000_000))) <= READ_CHARACTERS


@given(tokens, parts, st.integers(1, 200))
def test_a_window_holds_what_there_is_room_for_in_the_order_of_the_passage(
    query: list[int], passage: list[list[int]], room: int
) -> None:
    window = best_window(query, passage, room)
    whole = [token for part in passage for token in part]
    assert len(window) == min(room, len(whole))
    if len(whole) <= room:
        assert window == whole
    following = iter(whole)
    assert all(token in following for token in window)


@given(tokens, parts, st.integers(1, 200))
def test_no_token_is_more_often_in_a_window_than_in_its_passage(
    query: list[int], passage: list[list[int]], room: int
) -> None:
    assert Counter(best_window(query, passage, room)) <= Counter(token for part in passage for token in part)


@given(tokens.filter(len), parts)
def test_the_title_is_kept_where_it_is_at_most_a_third(query: list[int], passage: list[list[int]]) -> None:
    title = passage[0]
    assert best_window(query, passage, 3 * len(title) + 1)[: len(title)] == title


def test_the_sentence_with_the_words_of_the_query_is_chosen_wherever_it_is() -> None:
    filler = [[THE, STORM, 10 + number] for number in range(20)]
    answer = [THE, SHIP, SAILS]
    for place in range(len(filler)):
        passage = [[], *filler[:place], answer, *filler[place:]]
        assert set(answer) <= set(best_window([SHIP, SAILS], passage, 6))


def test_a_rare_word_counts_more_than_one_that_many_sentences_have() -> None:
    passage = [[], *[[THE, number] for number in range(30, 40)], [SHIP, 50], [THE, 51]]
    assert best_window([THE, SHIP], passage, 2) == [SHIP, 50]


def test_a_word_that_is_covered_makes_room_for_another() -> None:
    passage = [[], [60, 61], [SHIP, STORM], [SHIP, STORM], [HARBOUR, 62]]
    assert best_window([SHIP, STORM, HARBOUR], passage, 4) == [SHIP, STORM, HARBOUR, 62]


def test_a_passage_without_a_word_of_the_query_is_read_from_its_start() -> None:
    assert best_window([SHIP], [[THE], [11, 12], [13, 14], [15, 16]], 5) == [THE, 11, 12, 13, 14]
