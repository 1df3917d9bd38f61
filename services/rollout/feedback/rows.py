"""Rows of feedback, as they are stored and as they are read for analyses."""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from typing import NamedTuple

from sluice_statistics.answers import AnswerEvent

DAY_MICROSECONDS = 86_400_000_000


class Ending(enum.IntEnum):
    """The end of a request; the numbers are those of ImpressionEnding, and are stored."""

    UNKNOWN = 0
    """Known by an event alone: what the gateway measured has not come, or was lost."""
    ANSWERED = 1
    EMPTY = 2
    FAILED = 3
    ONE_ARM = 4


class Action(enum.IntEnum):
    """Something that was done with an answer; the numbers are those of EventAction, and are stored."""

    CLICK = 1
    CITE = 2
    RATE = 3
    LABEL = 4


class ExposureRow(NamedTuple):
    """Row of `exposure`: the part of one experiment or ramp in an answer."""

    run_id: str
    served_time: int
    query_id: str
    arm: str
    teams: bytes
    """The team of each result, a byte each; empty where the answer is not interleaved."""


class ImpressionRow(NamedTuple):
    """Row of `impression`: an answer that was served."""

    served_time: int
    """Microseconds since 1970."""
    query_id: str
    collection: str
    unit: int
    """Hashed user minus 2^63."""
    first_position: int
    ending: Ending
    seconds: float | None
    token_count: int
    first_arm_seconds: float | None
    """Time of the first arm of an interleaved answer."""
    second_arm_seconds: float | None
    missing_arm: str
    """The arm of an interleaved answer that failed or came too late; empty where none did."""
    query: str
    body: bytes
    """The message Impression."""


class EventRow(NamedTuple):
    """Row of `event`: what was done with an answer."""

    day: int
    """Day of the answer (UTC), since 1970."""
    event_id: str
    tenant: str
    served_time: int
    query_id: str
    action: Action
    time: int
    """Microseconds since 1970."""
    object_id: str
    position: int
    """Rank in the whole answer, from 1; 0 where the event is about the answer."""
    client: str
    session: str
    rating: float | None
    aspect: str
    label: str


class AnswerRow(NamedTuple):
    """An answer that was measured, with what was done with it, as analyses read it."""

    unit: int
    """Hashed user; 0 for none."""
    arm: str
    """Name of the arm; empty for an interleaved answer."""
    teams: bytes
    """The team of each result of the page; empty where the answer is not interleaved."""
    time: float
    """Time of the answer, in seconds since 1970."""
    ending: Ending
    seconds: float | None
    tokens: int
    first_position: int
    """Rank of the first result of the page."""
    arm_seconds: tuple[float | None, float | None]
    """Of an interleaved answer, the time of each arm."""
    missing_arm: str
    """The arm of an interleaved answer that failed or came too late; empty where none did."""
    events: tuple[AnswerEvent, ...]
    """The events of the answer, in the order of their time."""


class UserRating(NamedTuple):
    """Opinion of one user on one arm."""

    arm: str
    unit: int
    rating: float
    """Mean of the user's ratings, 0 to 1."""
    rating_count: int


class StoredAnswer(NamedTuple):
    """An answer with all that is known of it, for an export."""

    impression: ImpressionRow
    events: tuple[EventRow, ...]


def microseconds(seconds: float) -> int:
    """A moment in whole microseconds, from seconds since 1970."""
    return round(seconds * 1e6)


def day_of(served_time: int) -> int:
    """The day (UTC) of a moment in microseconds, in days since 1970."""
    return served_time // DAY_MICROSECONDS


def date_of(day: int) -> str:
    """A day as text, such as 20261128."""
    return datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y%m%d")
