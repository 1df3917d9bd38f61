# ruff: noqa: RUF001  # signs of other scripts are what is tested

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.language.sentences import LONGEST, sentences


def cut(text):
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n ", []),
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("  One.\nTwo.  ", ["One.", "Two."]),
        ("Call os.path.isfile(name) or 3.5 times.", ["Call os.path.isfile(name) or 3.5 times."]),
        ("It takes a list, e.g. of names. It is slow.", ["It takes a list, e.g. of names.", "It is slow."]),
        ('He said "stop." Then he left.', ['He said "stop."', "Then he left."]),
        ("(It works.) It does.", ["(It works.)", "It does."]),
        ("Really?! Yes...", ["Really?!", "Yes..."]),
        ("A heading\n\nA paragraph\nof two lines", ["A heading", "A paragraph\nof two lines"]),
        ("A heading\r\n \r\nA paragraph", ["A heading", "A paragraph"]),
        ("東京は首都です。人口は？多い！終わり", ["東京は首都です。", "人口は？", "多い！", "終わり"]),
        ("「行く。」と言った。", ["「行く。」", "と言った。"]),
        ("यह एक है। यह दो है।", ["यह एक है।", "यह दो है।"]),
        ("هل هذا صحيح؟ نعم.", ["هل هذا صحيح؟", "نعم."]),
    ],
)
def test_sentences_end_where_readers_see_their_end(text, expected):
    assert cut(text) == expected


def test_what_is_too_long_is_cut_between_words_or_anywhere():
    words = cut("word " * 200)
    assert [len(piece) for piece in words] == [399, 399, 199]
    assert [len(piece) for piece in cut("x" * 1000)] == [LONGEST, LONGEST, 200]
    assert cut("a " + "x" * 500) == ["a", "x" * LONGEST, "x" * 100]


@given(st.text(alphabet=st.sampled_from('ab .!?…\n\r\t")。！？।')) | st.text())
def test_sentences_are_in_order_and_hold_all_but_white_space(text):
    found = list(sentences(text))
    ends = [0, *(place for sentence in found for place in sentence), len(text)]
    assert ends == sorted(ends)
    assert all(text[start:end].strip() == text[start:end] != "" and end - start <= LONGEST for start, end in found)
    between = [text[end:start] for end, start in zip(ends[::2], ends[1::2], strict=True)]
    assert "".join(between).strip() == ""


@pytest.mark.parametrize("unit", [".", ". ", ".\u201d", "\n", "\n ", " ", "a. ", "...a", "!?", "。", "x"])
def test_what_repeats_one_sign_is_cut_in_time_that_grows_with_its_length(unit):
    # What grows with the square of the length would take minutes, and the suite's time limit end it.
    text = unit * (200_000 // len(unit))
    assert sum(end - start for start, end in sentences(text)) == len("".join(text.split())) + spaces_within(text)


def spaces_within(text):
    """White space inside of sentences."""
    return sum(character.isspace() for start, end in sentences(text) for character in text[start:end])
