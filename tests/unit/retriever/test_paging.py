import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import InvalidArgument
from services.retriever import paging


@given(st.sets(st.text(min_size=1)), st.integers(1, 5), st.booleans())
def test_pages_go_through_everything_once_in_order(items, size, descending):
    found, token = [], ""
    while True:
        page, token = paging.cut(items, str, size, token, "question", descending=descending)
        assert len(page) <= size
        found += page
        if not token:
            break
    assert found == sorted(items, reverse=descending)


def test_an_item_that_goes_between_two_pages_takes_none_with_it():
    _, token = paging.cut("abcd", str, 2, "", "question")
    assert paging.cut("acd", str, 2, token, "question") == (["c", "d"], "")


@given(st.text())
def test_a_token_that_was_not_given_is_refused(token):
    if token:
        with pytest.raises(InvalidArgument) as refusal:
            paging.decode(token, "question")
        assert refusal.value.field == "page_token"


def test_a_token_of_another_question_is_refused():
    with pytest.raises(InvalidArgument, match="page_token"):
        paging.decode(paging.encode("place", "question"), "other question")


@pytest.mark.parametrize(("asked", "size"), [(0, 20), (7, 7), (100, 100), (5000, 100)])
def test_a_page_has_the_size_asked_for_within_bounds(asked, size):
    assert paging.size_of(asked, default=20, most=100) == size


def test_a_page_of_less_than_nothing_is_refused():
    with pytest.raises(InvalidArgument, match="page_size"):
        paging.size_of(-1, default=20, most=100)
