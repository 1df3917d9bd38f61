"""Events: what people did with an answer, in the words of User Behavior Insights 1.3."""

from __future__ import annotations

import dataclasses
import enum
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self, TypedDict, Unpack

from sluice.gateway.v1 import feedback_pb2 as pb
from sluice.type.v1 import feedback_pb2
from sluice_client.answering import Citation
from sluice_client.answers import Answer, Result
from sluice_client.errors import invalid
from sluice_client.messages import Received, Sent

STARS = 5


class EventAction(enum.StrEnum):
    """Something that is done with an answer."""

    CLICK = "click"
    """A result was opened."""
    CITE = "cite"
    """A passage was cited by an answer in words, or copied."""
    RATE = "rate"
    """A result, or the whole answer, was rated."""
    LABEL = "label"
    """A result, or the whole answer, was given a label."""
    UNKNOWN = "unknown"
    """Sent by a newer service."""


class Visit(TypedDict, total=False):
    """Circumstances of an event; all of them may be left out."""

    time: datetime | None
    """By this machine's clock; the time at which it arrives if left out."""
    client_id: str
    """Names the device or the browser. Only its keyed hash is stored."""
    session_id: str
    """Names the visit. Only its keyed hash is stored."""


@dataclass(frozen=True, slots=True)
class Event(Sent, proto=feedback_pb2.Event):
    """Something that a person, or a program on their behalf, did with an answer.

        events = [Event.click(answer, answer.results[0]), Event.rate(answer, stars=4, aspect="relevance")]
        recorded = client.record_events(events)

    Its id is made with it: an event that is sent again counts once. Where the answer is at another place, as in a
    browser, make it of what came from there: `Event(request_id, EventAction.CLICK, token, object_id, position)`.
    """

    query_id: str
    """The answer's `request_id`."""
    action: EventAction
    impression_token: bytes = dataclasses.field(default=b"", repr=False)
    """The answer's `impression_token`."""
    object_id: str = ""
    """Id of the passage; empty for the whole answer."""
    position: int = 0
    """Rank of the passage; 0 where it is not known."""
    rating: float | None = None
    """0 (worst) to 1 (best)."""
    aspect: str = ""
    """Names what is rated, as in "relevance"."""
    label: str = ""
    time: datetime | None = None
    client_id: str = ""
    session_id: str = ""
    event_id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def click(cls, answer: Answer, result: Result, **visit: Unpack[Visit]) -> Self:
        """A result was opened."""
        return cls(answer.request_id, EventAction.CLICK, *_place(answer, result), **visit)

    @classmethod
    def cite(cls, answer: Answer, cited: Result | Citation, **visit: Unpack[Visit]) -> Self:
        """A passage was cited, or copied."""
        return cls(answer.request_id, EventAction.CITE, *_place(answer, cited), **visit)

    @classmethod
    def rate(
        cls, answer: Answer, result: Result | None = None, *, stars: int, aspect: str = "", **visit: Unpack[Visit]
    ) -> Self:
        """A result, or the whole answer, was given 1 to 5 stars. Raises SluiceError for another number."""
        if not 1 <= stars <= STARS:
            raise invalid("stars", f"must be 1 to {STARS}, not {stars}")
        rating = (stars - 1) / (STARS - 1)
        return cls(answer.request_id, EventAction.RATE, *_place(answer, result), rating=rating, aspect=aspect, **visit)

    @classmethod
    def thumbs(
        cls, answer: Answer, result: Result | None = None, *, up: bool, aspect: str = "", **visit: Unpack[Visit]
    ) -> Self:
        """A result, or the whole answer, was given a thumb up or down."""
        return cls(
            answer.request_id, EventAction.RATE, *_place(answer, result), rating=float(up), aspect=aspect, **visit
        )

    @classmethod
    def labelled(cls, answer: Answer, label: str, result: Result | None = None, **visit: Unpack[Visit]) -> Self:
        """A result, or the whole answer, was given a label, at most 256 bytes."""
        return cls(answer.request_id, EventAction.LABEL, *_place(answer, result), label=label, **visit)


def _place(answer: Answer, found: Result | Citation | None) -> tuple[bytes, str, int]:
    match found:
        case None:
            return answer.impression_token, "", 0
        case Citation():
            return answer.impression_token, found.passage_id, found.result_rank
    return answer.impression_token, found.passage.id, found.rank


class EventRejectionReason(enum.StrEnum):
    """Reason for not storing an event."""

    NOT_SERVED = "not_served"
    """Its answer was not served by these gateways, or its token is missing."""
    OTHER_TENANT = "other_tenant"
    """Its answer was served to another tenant."""
    OTHER_RESULT = "other_result"
    """The answer has no such result, or has it at another position."""
    OUT_OF_TIME = "out_of_time"
    """It is older than its answer, from the future, or too late."""
    INVALID = "invalid"
    """A field is missing, too long, or has no meaning for the action."""
    UNKNOWN = "unknown"
    """Sent by a newer gateway."""


@dataclass(frozen=True, slots=True)
class EventRejection(Received, proto=pb.EventRejection):
    """An event that is not stored, and never will be."""

    index: int
    """Its place among the events that were given, from 0."""
    reason: EventRejectionReason
    detail: str
    """The reason in words."""


@dataclass(frozen=True, slots=True)
class Recorded(Received, proto=pb.RecordEventsResponse):
    """Outcome of recording events."""

    stored_count: int
    duplicate_count: int
    """Events that had been stored before."""
    rejections: Sequence[EventRejection] = ()

    @property
    def rejected_counts(self) -> Counter[EventRejectionReason]:
        """Number of events that are not stored, by reason."""
        return Counter(rejection.reason for rejection in self.rejections)
