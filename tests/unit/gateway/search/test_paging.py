from __future__ import annotations

import base64
import json
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import example, given
from hypothesis import strategies as st

from services.chassis.errors import InvalidArgument
from services.experiment.flags import FLAGS
from services.gateway.search import paging
from services.gateway.search.flags import Features, Interleaved, resolve
from services.gateway.search.question import Course
from sluice.gateway.v1 import search_pb2
from tests.unit.gateway import flag_values

REQUEST = search_pb2.SearchRequest(query="what", collection="docs")
DIGEST = paging.question_digest(REQUEST)
COURSE = Course("docs-v1", "d1935", expanded=True, embedded=2, reranked=20, reranker="cross")
FIELDS = list(search_pb2.SearchRequest.DESCRIPTOR.fields)


def test_no_token_is_the_first_page() -> None:
    assert paging.decode("", DIGEST).offset == 0


@given(st.integers(1, paging.MAX_OFFSET), flag_values.features)
def test_a_token_keeps_the_offset_and_the_features_of_the_first_page(offset: int, pinned: Features) -> None:
    page = paging.decode(paging.encode(offset, pinned, COURSE, DIGEST), DIGEST)
    assert (page.offset, page.pinned.values, page.course) == (offset, asdict(pinned), COURSE)


def test_there_is_no_token_beyond_the_last_place_of_an_answer() -> None:
    assert not paging.encode(paging.MAX_OFFSET + 1, Features(), COURSE, DIGEST)


@given(
    st.sampled_from([field.name for field in fields(Course)]) | st.text(max_size=8), st.deferred(lambda: json_values)
)
def test_a_token_with_a_strange_course_is_refused(name: str, value: object) -> None:
    tampered = content()
    tampered["course"][name] = value
    page = accepted(tampered)
    if page is not None:
        assert page.course is not None
        assert type(getattr(page.course, name)) is type(getattr(COURSE, name))


def test_a_token_of_another_question_is_refused() -> None:
    token = paging.encode(10, Features(), COURSE, paging.question_digest(search_pb2.SearchRequest(query="why")))
    with pytest.raises(InvalidArgument, match="another question"):
        paging.decode(token, DIGEST)


def changed(field: FieldDescriptor) -> search_pb2.SearchRequest:
    """The request with another value of one field."""
    request = search_pb2.SearchRequest()
    request.CopyFrom(REQUEST)
    if isinstance(value := getattr(request, field.name), Message):
        value.SetInParent()
    else:
        setattr(request, field.name, {str: "other", bool: True, int: 7, float: 0.5}[type(value)])
    return request


@pytest.mark.parametrize("field", FIELDS, ids=[field.name for field in FIELDS])
def test_every_field_but_limit_and_page_token_makes_another_question(field: FieldDescriptor) -> None:
    same = paging.question_digest(changed(field)) == DIGEST
    assert same == (field.name in {"limit", "page_token"})


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
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(paging.encode(5, Features(), COURSE, DIGEST)))
    return decoded


@given(json_values)
@example(True)
@example(1.0)
@example(1000)
def test_a_token_with_a_strange_offset_is_refused(offset: object) -> None:
    page = accepted(content() | {"offset": offset})
    assert page is None or (type(page.offset) is int and 0 < page.offset < 1000)


@given(json_values, st.sampled_from(list(FLAGS)) | st.text(max_size=8))
@example("yes", "rerank")
@example(True, "max_variant_count")
@example(False, "dense")
@example(["synonyms"], "expansion_strategy")
def test_a_token_tampered_with_says_only_what_a_request_could_have_said(pinned: object, name: str) -> None:
    tampered = content()
    tampered["features"][name] = pinned
    if name == "dense":
        tampered["features"]["lexical"] = False
    page = accepted(tampered)
    if page is not None:
        assert all(not FLAGS[flag].problem(value) for flag, value in page.pinned.values.items())
        resolve([page.pinned], Features())


@given(st.lists(st.text(max_size=256)), st.text(max_size=256), flag_values.features, flag_values.features)
def test_a_token_keeps_the_experiments_and_both_configurations_of_a_draft(
    runs: list[str], salt: str, first: Features, second: Features
) -> None:
    interleaved = Interleaved("mixed", "mixed/1", salt, (("one", first), ("two", second)))
    other = replace(COURSE, late=50)
    page = paging.decode(paging.encode(5, first, COURSE, DIGEST, runs, (interleaved, other)), DIGEST)
    assert (page.runs, page.course, page.interleaved, page.other_course) == (runs, COURSE, interleaved, other)


@given(json_values, st.sampled_from(["runs", "interleaved"]))
@example(["x" * 257], "runs")
@example({"names": ["a"], "features": {}}, "interleaved")
@example({"names": ["a", "b", "c", "d", "e"], "features": {"dense": False, "lexical": False}}, "interleaved")
@example({"names": ["a", "b", "c", "d", "e"], "features": {}, "course": {}}, "interleaved")
def test_a_token_with_strange_experiments_is_refused(given: object, name: str) -> None:
    page = accepted(content() | {name: given})
    if page is not None:
        assert all(isinstance(run, str) for run in page.runs)
        assert page.interleaved is None
