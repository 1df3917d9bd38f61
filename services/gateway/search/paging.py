"""Page tokens: the offset of the next page, tied to its question.

A token is opaque to callers. It pins the flags of the first page, so that a changed default or a moving rollout does
not reorder the pages of an answer that is being read; and the course of the first page, so that a stage that runs on
one page and not on another, or a switch of the index, does not either. Runs of experiments that it names are no proof:
whoever reads it checks that the user is a part of them.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from services.chassis.errors import InvalidArgument
from services.experiment.flags import Overrides
from services.gateway.search.flags import Features, Interleaved, resolve
from services.gateway.search.question import Course
from sluice.gateway.v1 import search_pb2

MAX_OFFSET = 999
_MOST_TEXT = 256


@dataclass(frozen=True, slots=True)
class Page:
    """A place in an answer."""

    offset: int = 0
    pinned: Overrides = Overrides()  # noqa: RUF009  # immutable
    """The flags of the pages before."""
    course: Course | None = None
    """The course of the first page."""
    runs: Sequence[str] = ()
    """The runs of experiments of which the first page was a part."""
    interleaved: Interleaved | None = None
    """Set where the answer has results of two arms."""
    other_course: Course | None = None
    """That of the second arm."""


def question_digest(request: search_pb2.SearchRequest) -> str:
    """Hash every field of a request but limit and page_token."""
    question = search_pb2.SearchRequest()
    question.CopyFrom(request)
    question.ClearField("limit")
    question.ClearField("page_token")
    return hashlib.sha256(question.SerializeToString(deterministic=True)).hexdigest()[:32]


def encode(
    offset: int,
    features: Features,
    course: Course,
    digest: str,
    runs: Sequence[str] = (),
    draft: tuple[Interleaved, Course] | None = None,
) -> str:
    """Make the token of the page that starts at an offset; empty where nothing may start.

    For results of two arms `draft` has the course of the second.
    """
    if offset > MAX_OFFSET:
        return ""
    content: dict[str, Any] = {"offset": offset, "features": features.values, "question": digest}
    content["course"] = _written(course)
    if runs:
        content["runs"] = list(runs)
    if draft is not None:
        interleaved, other_course = draft
        (one, _), (other, second) = interleaved.arms
        names = [interleaved.experiment, interleaved.run_id, interleaved.salt, one, other]
        content["interleaved"] = {"names": names, "features": second.values, "course": _written(other_course)}
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


def decode(token: str, digest: str) -> Page:
    """Read a token; an empty one is the first page. Raises InvalidArgument naming `page_token`."""
    if not token:
        return Page()
    try:
        content = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
        offset, pinned, question = content["offset"], Overrides(**content["features"]), content["question"]
        course = _course(content["course"])
        first = resolve([pinned], Features())
        runs = _texts(content.get("runs", []))
        interleaved = other_course = None
        if "interleaved" in content:
            interleaved = _interleaved(content["interleaved"], first)
            other_course = _course(content["interleaved"]["course"])
        if type(offset) is not int or not 0 < offset <= MAX_OFFSET:
            raise ValueError(f"offset {offset}")
    except (ValueError, TypeError, KeyError, RecursionError, InvalidArgument):
        raise InvalidArgument("page_token", "is not a token of this service; pass next_page_token unchanged") from None
    if question != digest:
        raise InvalidArgument(
            "page_token", "belongs to another question; keep everything but page_token the same between pages"
        )
    return Page(offset, pinned, course, runs, interleaved, other_course)


def _interleaved(content: Mapping[str, Any], first: Features) -> Interleaved:
    """Read the other arm of an interleaved answer; ValueError, TypeError or KeyError where it is none."""
    experiment, run_id, salt, one, other = _texts(content["names"])
    second = resolve([Overrides(**content["features"])], Features())
    return Interleaved(experiment, run_id, salt, ((one, first), (other, second)))


def _texts(content: object) -> list[str]:
    if not isinstance(content, list) or not all(isinstance(text, str) and len(text) <= _MOST_TEXT for text in content):
        raise ValueError("no list of names")
    return content


def _written(course: Course) -> dict[str, object]:
    """Write a course; `asdict` would take longer than all else of a token."""
    return {field.name: getattr(course, field.name) for field in fields(course)}


def _course(content: Mapping[str, object]) -> Course:
    """Read a course; ValueError if a value has another type than it should."""
    course = Course(**content)  # type: ignore[arg-type]  # checked below
    for field in fields(Course):
        value = getattr(course, field.name)
        if type(value).__name__ != field.type or (type(value) is int and value < 0):
            raise ValueError(f"{field.name} {value!r}")
    return course
