"""Checks of citations."""

# ruff: noqa: RUF001  # letters that look alike are the subject

from __future__ import annotations

import pytest

from services.reasoner.citations import Folded

TEXT = "Rollbacks take\n  two seconds. The ﬁle «Café» is read: a < b. Concatenate ＡＢＣ."


@pytest.mark.parametrize(
    ("quote", "stands"),
    [
        ("Rollbacks take two seconds.", "Rollbacks take\n  two seconds."),
        ("rollbacks  TAKE two", "Rollbacks take\n  two"),
        ("the file", "The ﬁle"),
        ("cafe\u0301", "Café"),
        ("a ＜ b", "a < b"),
        ("abc", "ＡＢＣ"),
        (" two seconds ", "two seconds"),
    ],
)
def test_a_quote_is_found_where_only_form_case_or_white_space_differ(quote, stands):
    start, end = Folded(TEXT).find(quote)
    assert TEXT[start:end] == stands


@pytest.mark.parametrize("quote", ["", " ", ".", "three seconds", "cat", "Rollback", "seconds take two", "conds. The"])
def test_other_words_and_parts_of_words_are_not_found(quote):
    assert Folded(TEXT).find(quote) is None


def test_a_quote_may_begin_anywhere_in_a_script_without_spaces():
    text = "東京は日本の首都である。"
    assert Folded(text).find("日本の首都") == (3, 8)


def test_a_part_of_a_word_does_not_hide_the_word_itself():
    text = "Concatenate the cat."
    assert Folded(text).find("cat") == (16, 19)


def test_a_combining_mark_after_plain_letters_belongs_to_the_last_of_them():
    text = "the cafe\u0301 opens"
    assert Folded(text).find("Café") == (4, 9)


def test_letters_whose_folding_is_longer_keep_their_places():
    text = "Die Straße ist lang."
    assert Folded(text).find("strasse ist") == (4, 14)
