"""Page tokens: the offset of the next page, tied to its question.

A token is opaque to callers. It pins the flags of the first page, so that a changed default or a moving rollout does
not reorder the pages of an answer that is being read; and the course of the first page, so that a stage that runs on
one page and not on another, or a switch of the index, does not either.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields

from services.chassis.errors import InvalidArgument
from services.experiment.flags import Overrides
from services.gateway.search.flags import Features, resolve
from services.gateway.search.question import Course
from sluice.gateway.v1 import search_pb2

MAX_OFFSET = 999


@dataclass(frozen=True, slots=True)
class Page:
    """A place in an answer."""

    offset: int = 0
    pinned: Overrides = Overrides()  # noqa: RUF009  # immutable
    """The flags of the pages before."""
    course: Course | None = None
    """The course of the first page."""


def question_digest(request: search_pb2.SearchRequest) -> str:
    """Hash every field of a request but limit and page_token."""
    question = search_pb2.SearchRequest()
    question.CopyFrom(request)
    question.ClearField("limit")
    question.ClearField("page_token")
    return hashlib.sha256(question.SerializeToString(deterministic=True)).hexdigest()[:32]


def encode(offset: int, features: Features, course: Course, digest: str) -> str:
    """Make the token of the page that starts at an offset; empty where nothing may start."""
    if offset > MAX_OFFSET:
        return ""
    made = {field.name: getattr(course, field.name) for field in fields(course)}
    content = {"offset": offset, "features": features.values, "course": made, "question": digest}
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


def decode(token: str, digest: str) -> Page:
    """Read a token; an empty one is the first page. Raises InvalidArgument naming `page_token`."""
    if not token:
        return Page()
    try:
        content = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
        offset, pinned, question = content["offset"], Overrides(**content["features"]), content["question"]
        course = _course(content["course"])
        resolve([pinned], Features())
        if type(offset) is not int or not 0 < offset <= MAX_OFFSET:
            raise ValueError(f"offset {offset}")
    except (ValueError, TypeError, KeyError, RecursionError, InvalidArgument):
        raise InvalidArgument("page_token", "is not a token of this service; pass next_page_token unchanged") from None
    if question != digest:
        raise InvalidArgument(
            "page_token", "belongs to another question; keep everything but page_token the same between pages"
        )
    return Page(offset, pinned, course)


def _course(content: Mapping[str, object]) -> Course:
    """Read a course; ValueError if a value has another type than it should."""
    course = Course(**content)  # type: ignore[arg-type]  # checked below
    for field in fields(Course):
        value = getattr(course, field.name)
        if type(value).__name__ != field.type or (type(value) is int and value < 0):
            raise ValueError(f"{field.name} {value!r}")
    return course
