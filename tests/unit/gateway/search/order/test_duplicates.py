from __future__ import annotations

import itertools
import statistics
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.search.order import duplicates
from services.gateway.search.order.duplicates import SHINGLE_WORDS, SIMILARITY, Signature

# Few words, so that texts often share runs of them.
texts = st.lists(st.lists(st.sampled_from("abc"), max_size=14).map(" ".join), max_size=12)


def collapse(given_texts: list[str]) -> dict[int, int]:
    return duplicates.collapse([Signature.of(text) for text in given_texts])


LONG = " ".join(f"word{number}" for number in range(100))


def test_a_copy_with_other_case_and_punctuation_is_collapsed_into_the_better_ranked() -> None:
    assert collapse(["The pool waits.", "Something else", "the POOL -- waits!"]) == {0: 1, 1: 0}


def test_one_other_word_in_a_hundred_makes_no_other_text() -> None:
    assert collapse([LONG, LONG.replace("word50", "other")]) == {0: 1}


def test_a_few_other_words_make_another_text() -> None:
    other = LONG.replace("word20", "one").replace("word50", "two").replace("word80", "three")
    assert collapse([LONG, other]) == {0: 0, 1: 0}


def test_texts_that_share_all_words_in_another_order_are_different() -> None:
    assert collapse(["the cat that ate the rat slept on", "the rat that ate the cat slept on"]) == {0: 0, 1: 0}


def test_texts_without_words_are_the_same_only_where_they_are_equal() -> None:
    assert collapse(["!!!", "???", "!!!", ""]) == {0: 1, 1: 0, 3: 0}


TELLING = [
    ["x > 5", "x < 5", "x == 5", "x != 5", "x >= 5", "x = 5"],
    ["Limit: -5 °C", "Limit: +5 °C", "Limit: 5 °F", "Limit: 5 °C"],
    ["C++", "C#", "C"],
    ["Price 1.5 EUR", "Price 1,5 EUR", "Price 1-5 EUR", "Price 1 5 EUR", "Price 15 EUR", "Price 1.5 €"],
    ["a && b", "a || b", "a & b"],
    ["!ready", "ready"],
    ["100 %", "100 ‰", "100"],
]
SHORT = [*TELLING, ["C--", "C"], ["[0, 1]", "(0, 1)", "[0, 1)"], [".NET", "net"], ["你好", "你不好"]]


@pytest.mark.parametrize("around", ["{}", "{} is the rule"])
@pytest.mark.parametrize("said", SHORT, ids=[said[0] for said in SHORT])
def test_short_texts_that_differ_in_a_sign_all_stay(said: list[str], around: str) -> None:
    assert collapse([around.format(one) for one in said]) == dict.fromkeys(range(len(said)), 0)


@pytest.mark.parametrize("said", TELLING, ids=[said[0] for said in TELLING])
def test_long_texts_that_differ_in_a_number_or_an_operator_all_stay(said: list[str]) -> None:
    assert collapse([f"{LONG} {one} {LONG}" for one in said]) == dict.fromkeys(range(len(said)), 0)


@pytest.mark.parametrize(
    ("one", "other"), [("is open", "is not open"), ("can be opened", "can't be opened"), ("mit Öl", "ohne Öl")]
)
def test_a_negation_makes_another_text_however_long_it_is(one: str, other: str) -> None:
    assert collapse([f"{LONG} {one} {LONG}", f"{LONG} {other} {LONG}"]) == {0: 0, 1: 0}


@pytest.mark.parametrize(
    "copy", ["the gate is closed at night", "“The gate is closed at night!”", "The gate -- is closed … at  night."]
)
def test_a_copy_that_is_set_otherwise_is_still_a_copy(copy: str) -> None:
    assert collapse(["The gate is closed at night.", copy]) == {0: 1}


@given(texts)
def test_every_text_stays_or_is_stood_for(given_texts: list[str]) -> None:
    stands_for = collapse(given_texts)
    assert len(stands_for) + sum(stands_for.values()) == len(given_texts)
    assert list(stands_for) == sorted(stands_for)
    assert all(count >= 0 for count in stands_for.values())


@given(texts)
def test_no_two_that_stay_are_near_duplicates_and_each_that_does_not_has_one_before_it(given_texts: list[str]) -> None:
    stays = set(collapse(given_texts))
    for one, other in itertools.combinations(sorted(stays), 2):
        assert _similarity(given_texts[one], given_texts[other]) < SIMILARITY
    for place in set(range(len(given_texts))) - stays:
        assert any(_similarity(given_texts[place], given_texts[one]) >= SIMILARITY for one in stays if one < place)


@given(texts)
def test_what_has_no_duplicates_stays_as_it_is(given_texts: list[str]) -> None:
    distinct = [given_texts[place] for place in collapse(given_texts)]
    assert collapse(distinct) == dict.fromkeys(range(len(distinct)), 0)


@settings(max_examples=30)
@given(st.lists(st.lists(st.sampled_from("ab"), min_size=20, max_size=60).map(" ".join), min_size=1, max_size=6))
def test_long_texts_are_compared_by_their_shingles_alone(given_texts: list[str]) -> None:
    assert list(collapse(given_texts)) == list(collapse([text.upper() + "!" for text in given_texts]))


def _similarity(one: str, other: str) -> float:
    """As the module's docstring defines it, the long way round."""
    first, second = _shingles(one), _shingles(other)
    return len(first & second) / len(first | second)


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    if len(words) <= SHINGLE_WORDS:
        return {tuple(words)}
    return {tuple(words[start : start + SHINGLE_WORDS]) for start in range(len(words) - SHINGLE_WORDS + 1)}


@pytest.mark.parametrize("form", ["{}a", "a{}", "{}"])
@pytest.mark.parametrize("repeated", ["1", ".", "_", "-", "a-", "a'", " -- ", "1.", "\u00bf", "\u4e00"])
def test_the_time_for_a_signature_grows_with_the_length_of_a_text(repeated: str, form: str) -> None:
    def seconds(length: int) -> float:
        text, times = form.format(repeated * (length // len(repeated))), []
        for _ in range(3):
            began = time.process_time()
            Signature.of(text)
            times.append(time.process_time() - began)
        return statistics.median(times)

    # Eight times the length: a square would take 64 times as long.
    assert seconds(40_000) <= 24 * max(seconds(5_000), 0.002)
