from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.chassis.errors import InvalidArgument
from services.gateway.rollout.table import ExpansionStrategy, Features, resolve
from services.gateway.search import paging

features = st.builds(
    Features,
    lexical=st.booleans(),
    expansion=st.booleans(),
    expansion_strategy=st.sampled_from(ExpansionStrategy),
    max_variant_count=st.integers(1, 16),
    rerank=st.booleans(),
    rerank_candidate_count=st.integers(1, 1000),
)
DIGEST = paging.question_digest(b"what", b"docs")


def test_no_token_is_the_first_page() -> None:
    assert paging.decode("", DIGEST).offset == 0


@given(st.integers(1, 999), features)
def test_a_token_says_where_to_go_on_and_with_which_features(offset: int, pinned: Features) -> None:
    page = paging.decode(paging.encode(offset, pinned, DIGEST), DIGEST)
    assert page.offset == offset
    assert dataclasses.asdict(page.pinned) == dataclasses.asdict(pinned)


def test_a_token_of_another_question_is_refused() -> None:
    token = paging.encode(10, Features(), paging.question_digest(b"why", b"docs"))
    with pytest.raises(InvalidArgument, match="another question"):
        paging.decode(token, DIGEST)


def test_moving_a_border_between_parts_makes_another_question() -> None:
    assert paging.question_digest(b"ab", b"c") != paging.question_digest(b"a", b"bc")


@given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_a_token_made_up_is_refused_by_name(token: str) -> None:
    if token:
        with pytest.raises(InvalidArgument, match="page_token"):
            paging.decode(token, DIGEST)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def accepted(content: object) -> paging.Page | None:
    token = base64.urlsafe_b64encode(json.dumps(content).encode()).decode()
    try:
        return paging.decode(token, DIGEST)
    except InvalidArgument as error:
        assert error.field == "page_token"
        return None


def content() -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(paging.encode(5, Features(), DIGEST)))
    return decoded


@given(json_values)
@example(True)
@example(1.0)
@example(1000)
def test_a_token_with_a_strange_offset_is_refused(offset: object) -> None:
    page = accepted(content() | {"offset": offset})
    assert page is None or (type(page.offset) is int and 0 < page.offset < 1000)


@given(json_values, st.sampled_from([field.name for field in dataclasses.fields(Features)]))
@example("yes", "rerank")
@example(True, "max_variant_count")
@example(False, "dense")
def test_a_token_tampered_with_says_only_what_a_request_could_have_said(pinned: object, name: str) -> None:
    tampered = content()
    tampered["features"][name] = pinned
    page = accepted(tampered)
    if page is not None:
        assert type(getattr(page.pinned, name)) in (bool, int, ExpansionStrategy, type(None))
        resolve([page.pinned], Features())
