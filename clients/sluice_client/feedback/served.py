"""Answers as they were served, with what was done with them."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sluice.rollout.v1 import feedback_pb2 as pb
from sluice.type.v1 import impression_pb2
from sluice_client.feedback.events import Event
from sluice_client.messages import Received


class ImpressionEnding(enum.StrEnum):
    """End of a request."""

    ANSWERED = "answered"
    EMPTY = "empty"
    """It was answered without results."""
    FAILED = "failed"
    """It failed by a fault of ours."""
    ONE_ARM = "one_arm"
    """An interleaved answer for which one arm came too late: it is not counted."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Exposure(Received, proto=impression_pb2.Exposure):
    """Part of an experiment, or of a feature that is being rolled out, in an answer."""

    experiment: str
    """Name of the experiment, or of the feature."""
    run_id: str
    arm: str
    """Empty for an interleaved answer."""
    teams: Sequence[int] = ()
    """Of an interleaved answer, by result: 1 for the first arm, 2 for the second, 0 for neither."""


@dataclass(frozen=True, slots=True)
class Impression(Received, proto=impression_pb2.Impression):
    """One page of an answer."""

    query_id: str
    """The answer's `request_id`."""
    time: datetime
    collection: str
    unit: int
    """Keyed hash of the user; 0 where the request named none."""
    object_ids: Sequence[str]
    """Ids of the passages, best first."""
    first_position: int
    """Rank of the first of them in the whole answer."""
    exposures: Sequence[Exposure] = ()
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class ServedImpression(Received, proto=pb.ServedImpression):
    """A page of an answer, with what the gateway measured."""

    impression: Impression
    ending: ImpressionEnding | None
    """None where it was stored with an event, and not as it ended."""
    duration: timedelta | None
    query: str
    """As the policy keeps it: empty, a keyed hash ("hmac:..."), or its text."""
    model_token_count: int
    """Work that models did for it, in tokens; 0 where it is not known."""
    arm_durations: Sequence[timedelta] = ()
    """Of an interleaved answer, the time that each arm took, or until it failed."""
    missing_arm: str = ""
    """Of an interleaved answer with the results of one arm alone, the other one."""


@dataclass(frozen=True, slots=True)
class AnswerFeedback(Received, proto=pb.AnswerFeedback):
    """An answer with all that was done with it."""

    served: ServedImpression
    events: Sequence[Event] = ()
    """Oldest first; their ids of clients and visits are keyed hashes."""
