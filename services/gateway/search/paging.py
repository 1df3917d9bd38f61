"""Page tokens: where the next page starts, and a promise that it belongs to the same question.

A token is opaque to callers. It pins the features of the first page, so that a changed default or a moving rollout
does not reshuffle the pages of an answer that is being read.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from services.chassis.errors import InvalidArgument
from services.gateway.rollout.table import FeatureOverrides, Features, resolve


class _Token(BaseModel):
    """What a token holds."""

    model_config = ConfigDict(strict=True, extra="forbid")

    offset: int = Field(gt=0, lt=1000)
    features: FeatureOverrides
    question: str


@dataclass(frozen=True, slots=True)
class Page:
    """A place in an answer."""

    offset: int
    pinned: FeatureOverrides
    """What was on for the pages before."""


def question_digest(*parts: bytes) -> str:
    """Identifies a question: everything in the request that every page of its answer shares."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:32]


def encode(offset: int, features: Features, digest: str) -> str:
    """The token of the page that starts at an offset."""
    content = _Token(offset=offset, features=FeatureOverrides(**dataclasses.asdict(features)), question=digest)
    return base64.urlsafe_b64encode(content.model_dump_json().encode()).decode()


def decode(token: str, digest: str) -> Page:
    """The page that a token names; an empty token names the first. Raises InvalidArgument naming `page_token`."""
    if not token:
        return Page(0, FeatureOverrides())
    try:
        content = _Token.model_validate_json(base64.b64decode(token, altchars=b"-_", validate=True))
        resolve([content.features], Features())
    except (ValueError, InvalidArgument):
        raise InvalidArgument("page_token", "is not a token of this service; pass next_page_token unchanged") from None
    if content.question != digest:
        raise InvalidArgument(
            "page_token", "belongs to another question; keep everything but page_token the same between pages"
        )
    return Page(content.offset, content.features)
