"""Batches of feedback: what a gateway sends, checked, as rows.

Gateways have checked signatures and events already. What is checked here again is what would spoil rows: a fault of one
gateway must not make the answers of others mean nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from google.protobuf.duration_pb2 import Duration

from services.chassis.errors import InvalidArgument
from services.chassis.validation import MAX_QUERY_BYTES
from services.rollout.feedback.rows import Action, Ending, EventRow, ExposureRow, ImpressionRow, day_of, microseconds
from sluice.rollout.v1 import feedback_pb2 as pb
from sluice.type.v1 import feedback_pb2, impression_pb2

MAX_IMPRESSIONS = 1000
MAX_EVENTS = 1000
MAX_RESULTS = 1000
"""Most results of one page."""
MAX_EXPOSURES = 100
MAX_ID_CHARACTERS = 128
MAX_OBJECT_BYTES = 600
"""Bytes of a passage's id: those of its document, and the number of the chunk."""
MAX_TEXT_BYTES = 256
MAX_ASPECT_CHARACTERS = 64
_SIGN = 1 << 63
_LAST_SECOND = 253_402_300_799
_TEAMS = frozenset((0, 1, 2))
# A look-up takes a tenth of the time of a call of the class.
_ENDINGS = {ending.value: ending for ending in Ending}
_ACTIONS = {action.value: action for action in Action}


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one request, which are stored together or not at all."""

    impressions: Sequence[ImpressionRow]
    exposures: Sequence[ExposureRow]
    events: Sequence[EventRow]
    size: int
    """Bytes of the request."""

    @property
    def row_count(self) -> int:
        """Rows of all tables."""
        return len(self.impressions) + len(self.exposures) + len(self.events)

    @classmethod
    def from_proto(cls, message: pb.StoreFeedbackRequest, now: float, kept_days: int) -> Self:
        """Read a request. `now` is in seconds since 1970; answers older than the days that are kept are refused.

        Raises InvalidArgument, naming the field.
        """
        if len(message.impressions) > MAX_IMPRESSIONS:
            raise InvalidArgument("impressions", f"are more than {MAX_IMPRESSIONS:,}; send several batches")
        if len(message.events) > MAX_EVENTS:
            raise InvalidArgument("events", f"are more than {MAX_EVENTS:,}; send several batches")
        if not message.impressions:
            raise InvalidArgument("impressions", "are missing; each event needs that of its answer")
        arrival = microseconds(now)
        days = range(day_of(arrival) - kept_days + 1, day_of(arrival) + 2)
        impressions, exposures = [], []
        for place, served in enumerate(message.impressions):
            row = _impression(served, f"impressions[{place}]", days)
            impressions.append(row)
            if served.impression.exposures:
                exposures += _exposures(row, served.impression, f"impressions[{place}].impression.exposures")
        answers = [served.impression for served in message.impressions]
        events = []
        for place, stored in enumerate(message.events):
            index = stored.impression_index
            if not 0 <= index < len(impressions):
                raise InvalidArgument(f"events[{place}].impression_index", f"is no place among impressions: {index}")
            events.append(_event(stored.event, impressions[index], answers[index], arrival, f"events[{place}].event"))
        return cls(impressions, exposures, events, message.ByteSize())


def _impression(served: pb.ServedImpression, field: str, days: range) -> ImpressionRow:
    answer = served.impression
    served_time = _time(answer, "time", f"{field}.impression")
    if day_of(served_time) not in days:
        raise InvalidArgument(
            f"{field}.impression.time", "is of a day that is not kept, or in the future", reason="OUT_OF_TIME"
        )
    query_id, collection, tenant = answer.query_id, answer.collection, answer.tenant
    if not 1 <= len(query_id) <= MAX_ID_CHARACTERS:
        raise InvalidArgument(f"{field}.impression.query_id", f"must be 1 to {MAX_ID_CHARACTERS} characters long")
    if max(len(collection), len(tenant)) > MAX_TEXT_BYTES or "\0" in query_id + collection + tenant + served.query:
        raise InvalidArgument(f"{field}.impression", f"has a text with a null, or of more than {MAX_TEXT_BYTES} bytes")
    if len(served.query.encode()) > MAX_QUERY_BYTES:
        raise InvalidArgument(f"{field}.query", f"is longer than {MAX_QUERY_BYTES:,} bytes")
    if len(answer.object_ids) > MAX_RESULTS:
        raise InvalidArgument(f"{field}.impression.object_ids", f"are more than {MAX_RESULTS:,}")
    if not 0 <= answer.first_position <= 1 << 30:
        raise InvalidArgument(f"{field}.impression.first_position", "is not a rank")
    if (ending := _ENDINGS.get(served.ending)) is None:
        raise InvalidArgument(f"{field}.ending", f"is not known: {served.ending}")
    if served.model_token_count < 0:
        raise InvalidArgument(f"{field}.model_token_count", "must be at least 0")
    if len(served.missing_arm) > MAX_ID_CHARACTERS or "\0" in served.missing_arm:
        raise InvalidArgument(f"{field}.missing_arm", f"must be at most {MAX_ID_CHARACTERS} characters long")
    arms = served.arm_durations
    if len(arms) not in (0, 2):
        raise InvalidArgument(f"{field}.arm_durations", "must be one for each of two arms, or none")
    return ImpressionRow(
        served_time,
        query_id,
        collection,
        answer.unit - _SIGN,
        answer.first_position or 1,
        ending,
        _seconds(served.duration, f"{field}.duration") if ending else None,
        served.model_token_count,
        _seconds(arms[0], f"{field}.arm_durations[0]") if arms else None,
        _seconds(arms[1], f"{field}.arm_durations[1]") if arms else None,
        served.missing_arm,
        served.query,
        answer.SerializeToString(),
    )


def _exposures(row: ImpressionRow, answer: impression_pb2.Impression, field: str) -> list[ExposureRow]:
    if len(answer.exposures) > MAX_EXPOSURES or len({exposure.run_id for exposure in answer.exposures}) < len(
        answer.exposures
    ):
        raise InvalidArgument(field, f"are more than {MAX_EXPOSURES}, or name a run twice")
    rows = []
    for place, exposure in enumerate(answer.exposures):
        run_id, arm, teams = exposure.run_id, exposure.arm, exposure.teams
        if not 1 <= len(run_id) <= MAX_ID_CHARACTERS or len(arm) > MAX_ID_CHARACTERS or "\0" in run_id + arm:
            raise InvalidArgument(
                f"{field}[{place}]", f"needs a run, and run and arm have at most {MAX_ID_CHARACTERS} characters"
            )
        if teams and (len(teams) != len(answer.object_ids) or not _TEAMS.issuperset(teams)):
            raise InvalidArgument(f"{field}[{place}].teams", "must be 0, 1 or 2, one for each of object_ids")
        rows.append(ExposureRow(run_id, row.served_time, row.query_id, arm, bytes(teams)))
    return rows


def _event(
    event: feedback_pb2.Event, row: ImpressionRow, answer: impression_pb2.Impression, arrival: int, field: str
) -> EventRow:
    event_id, object_id, aspect, label = event.event_id, event.object_id, event.aspect, event.label
    client, session = event.client_id, event.session_id
    if event.query_id != row.query_id:
        raise InvalidArgument(f"{field}.query_id", "is not that of its impression")
    if not 1 <= len(event_id) <= MAX_ID_CHARACTERS:
        raise InvalidArgument(f"{field}.event_id", f"must be 1 to {MAX_ID_CHARACTERS} characters long")
    if (
        len(aspect) > MAX_ASPECT_CHARACTERS
        or max(len(label), len(client), len(session)) > MAX_TEXT_BYTES
        or len(object_id) > MAX_OBJECT_BYTES
        or "\0" in f"{event_id}{object_id}{aspect}{label}{client}{session}"
    ):
        raise InvalidArgument(field, "has a text with a null, or one that is too long")
    if (action := _ACTIONS.get(event.action)) is None:
        raise InvalidArgument(f"{field}.action", f"is not known: {event.action}")
    rating = event.rating if event.HasField("rating") else None
    if rating is not None and not 0 <= rating <= 1:  # neither is NaN
        raise InvalidArgument(f"{field}.rating", f"must be between 0 and 1, not {rating}")
    if (rating is not None) != (action is Action.RATE):
        raise InvalidArgument(f"{field}.rating", "belongs to ratings, and to them alone")
    return EventRow(
        day_of(row.served_time),
        event_id,
        answer.tenant,
        row.served_time,
        row.query_id,
        action,
        _time(event, "time", field) if event.HasField("time") else arrival,
        object_id,
        _position(event, action, row, answer, field),
        client,
        session,
        rating,
        aspect,
        label,
    )


def _position(
    event: feedback_pb2.Event, action: Action, row: ImpressionRow, answer: impression_pb2.Impression, field: str
) -> int:
    """The rank of the result that an event is about, whether the event names it or not; 0 for the whole answer."""
    object_id, position, shown = event.object_id, event.position, answer.object_ids
    if not object_id:
        if action in (Action.CLICK, Action.CITE) or position:
            raise InvalidArgument(f"{field}.object_id", "is missing")
        return 0
    if position:
        place = position - row.first_position
        if not (0 <= place < len(shown) and shown[place] == object_id):
            raise InvalidArgument(f"{field}.position", "is not that of the result in its impression")
        return position
    try:
        return row.first_position + list(shown).index(object_id)
    except ValueError:
        raise InvalidArgument(f"{field}.object_id", "is no result of its impression") from None


def _time(message: Any, name: str, field: str) -> int:
    stamp = getattr(message, name)
    if not 0 <= stamp.seconds <= _LAST_SECOND or not 0 <= stamp.nanos < 10**9:
        raise InvalidArgument(f"{field}.{name}", "is no time after 1970")
    return int(stamp.seconds) * 1_000_000 + int(stamp.nanos) // 1000


def _seconds(message: Duration, field: str) -> float:
    seconds = message.seconds + message.nanos / 1e9
    if not (math.isfinite(seconds) and 0 <= seconds <= 86_400):
        raise InvalidArgument(field, "must be between nothing and a day")
    return seconds
