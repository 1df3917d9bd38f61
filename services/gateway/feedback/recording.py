"""Checks of events against the impressions that they are about.

What is refused here will be refused again: the answer was not served, or the event says of it what cannot be. All of a
batch is checked before any of it is stored, and only impressions with an event that counts go on.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from services.chassis.errors import InvalidArgument
from services.gateway.feedback.impressions import Impressions
from sluice.gateway.v1 import feedback_pb2 as pb
from sluice.rollout.v1 import feedback_pb2 as stored_pb
from sluice.type.v1 import feedback_pb2 as type_pb
from sluice.type.v1.impression_pb2 import Impression

MAX_EVENTS = 1_000
SKEW_SECONDS = 60
"""Most that the clock of a caller may differ from that of a gateway."""
MAX_EVENT_ID_CHARACTERS = 128
MAX_TEXT_BYTES = 256
MICROSECONDS = 1_000_000
_DAY_SECONDS = 86_400
_SECOND_NANOS = 10**9
_AT_ONCE = 100

_ASPECT = re.compile(r"[a-z0-9_]{0,64}")
_NEED_A_RESULT = frozenset({type_pb.EVENT_ACTION_CLICK, type_pb.EVENT_ACTION_CITE})
_ACTIONS = _NEED_A_RESULT | {type_pb.EVENT_ACTION_RATE, type_pb.EVENT_ACTION_LABEL}


class _Refused(Exception):
    """An event that is not stored."""

    def __init__(self, reason: pb.EventRejectionReason.ValueType, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(slots=True)
class _Shown:
    """An answer that was served, with what its events are compared with."""

    impression: Impression
    microseconds: int
    positions: dict[str, int]
    """Ranks by the ids of its results."""
    index: int = -1
    """Its place among the impressions that go on; -1 before an event that counts."""


@dataclass(slots=True)
class Checked:
    """A batch after the checks."""

    request: stored_pb.StoreFeedbackRequest = field(default_factory=stored_pb.StoreFeedbackRequest)
    """The part that is to be stored."""
    rejections: list[pb.EventRejection] = field(default_factory=list)


class Recording:
    """Checks batches of events."""

    def __init__(self, impressions: Impressions, days: int) -> None:
        """Take events on answers that are at most so many days old."""
        self._impressions = impressions
        self._days = days

    async def check(self, request: pb.RecordEventsRequest, tenant: str, now: int) -> Checked:
        """Check a batch of a caller of a tenant. `now` is in microseconds since 1970. Raises InvalidArgument.

        It gives way now and then, so that no search waits for a large batch.
        """
        if not 1 <= len(request.events) <= MAX_EVENTS:
            raise InvalidArgument("events", f"holds {len(request.events)}; send 1 to {MAX_EVENTS:,} in one call")
        if len(request.impression_tokens) > MAX_EVENTS:
            raise InvalidArgument("impression_tokens", f"holds more than {MAX_EVENTS:,}; send each token once")
        shown = self._shown(request.impression_tokens)
        hashed: dict[str, str] = {}
        checked = Checked()
        for index, event in enumerate(request.events):
            if index % _AT_ONCE == 0:
                await asyncio.sleep(0)
            try:
                about = self._check(event, shown.get(event.query_id, ()), tenant, now)
            except _Refused as refused:
                checked.rejections.append(pb.EventRejection(index=index, reason=refused.reason, detail=refused.detail))
                continue
            if about.index < 0:
                about.index = len(checked.request.impressions)
                checked.request.impressions.add().impression.CopyFrom(about.impression)
            stored = checked.request.events.add(impression_index=about.index)
            self._write(event, stored.event, about, now, hashed)
        return checked

    def _shown(self, tokens: Iterable[bytes]) -> dict[str, list[_Shown]]:
        """The answers that were served, by query id: several where a caller gives its requests the same id."""
        shown: dict[str, list[_Shown]] = {}
        for token in tokens:
            impression = self._impressions.verified(token)
            if impression is None:
                continue
            first = impression.first_position
            positions = {name: first + place for place, name in enumerate(impression.object_ids)}
            shown.setdefault(impression.query_id, []).append(
                _Shown(impression, _microseconds(impression.time), positions)
            )
        return shown

    def _check(self, event: type_pb.Event, shown: Sequence[_Shown], tenant: str, now: int) -> _Shown:
        """Return the answer that an event is about, or raise what speaks against it."""
        if problem := _problem(event):
            raise _Refused(pb.EVENT_REJECTION_REASON_INVALID, problem)
        if not shown:
            raise _Refused(
                pb.EVENT_REJECTION_REASON_NOT_SERVED,
                "no token of the request is that of this answer; send the impression_token of its reply, unchanged",
            )
        own = [about for about in shown if about.impression.tenant == tenant]
        if not own:
            raise _Refused(pb.EVENT_REJECTION_REASON_OTHER_TENANT, "the answer was served to another tenant")
        about = own[0]
        if event.object_id:
            having = [one for one in own if event.object_id in one.positions]
            if not having:
                raise _Refused(pb.EVENT_REJECTION_REASON_OTHER_RESULT, "the answer has no such result")
            about = next((one for one in having if event.position == one.positions[event.object_id]), having[0])
            if event.position not in (0, about.positions[event.object_id]):
                raise _Refused(
                    pb.EVENT_REJECTION_REASON_OTHER_RESULT,
                    f"the answer has it at position {about.positions[event.object_id]}, not {event.position}",
                )
        if problem := self._time_problem(event, about.microseconds, now):
            raise _Refused(pb.EVENT_REJECTION_REASON_OUT_OF_TIME, problem)
        return about

    def _time_problem(self, event: type_pb.Event, served: int, now: int) -> str:
        skew = SKEW_SECONDS * MICROSECONDS
        if now - served > self._days * _DAY_SECONDS * MICROSECONDS:
            return f"the answer is older than {self._days} days"
        if served > now + skew:
            return "the answer is from the future; the clocks of gateways differ"
        if not event.HasField("time"):
            return ""
        time = _microseconds(event.time)
        if time < served - skew:
            return "the event is older than the answer"
        return "the event is from the future" if time > now + skew else ""

    def _write(
        self, event: type_pb.Event, stored: type_pb.Event, about: _Shown, now: int, hashed: dict[str, str]
    ) -> None:
        stored.CopyFrom(event)
        if not event.HasField("time"):
            stored.time.FromMicroseconds(now)
        if event.object_id:
            stored.position = about.positions[event.object_id]
        if event.client_id:
            stored.client_id = self._hashed(event.client_id, hashed)
        if event.session_id:
            stored.session_id = self._hashed(event.session_id, hashed)

    def _hashed(self, text: str, known: dict[str, str]) -> str:
        found = known.get(text)
        if found is None:
            found = known[text] = self._impressions.hashed(text)
        return found


def _problem(event: type_pb.Event) -> str:
    """The reason for which an event says nothing, whatever it is about; empty if it says something."""
    if event.action not in _ACTIONS:
        return f"action {event.action} is unknown; send click, cite, rate or label"
    if not 0 <= event.time.nanos < _SECOND_NANOS:
        return "time has nanos below 0 or above 999,999,999"
    return _text_problem(event) or _rating_problem(event) or _result_problem(event)


def _text_problem(event: type_pb.Event) -> str:
    event_id, label = event.event_id, event.label
    if not 1 <= len(event_id) <= MAX_EVENT_ID_CHARACTERS:
        return f"event_id must be 1 to {MAX_EVENT_ID_CHARACTERS} characters long"
    if bool(label) != (event.action == type_pb.EVENT_ACTION_LABEL):
        return "label has a meaning for the action label alone" if label else "label is missing"
    if any(len(text.encode()) > MAX_TEXT_BYTES for text in (label, event.client_id, event.session_id) if text):
        return f"client_id, session_id and label are at most {MAX_TEXT_BYTES} bytes long"
    return "a text holds a null" if "\0" in event_id or "\0" in label or "\0" in event.object_id else ""


def _rating_problem(event: type_pb.Event) -> str:
    rates = event.action == type_pb.EVENT_ACTION_RATE
    if rates != event.HasField("rating"):
        return "rating is missing" if rates else "rating has a meaning for the action rate alone"
    if rates and not 0 <= event.rating <= 1:  # NaN is not, either
        return "rating must be 0 to 1"
    if event.aspect and not (rates and _ASPECT.fullmatch(event.aspect)):
        return "aspect must be at most 64 lower case letters, digits and underscores, of a rating"
    return ""


def _result_problem(event: type_pb.Event) -> str:
    if event.object_id:
        return ""
    if event.action in _NEED_A_RESULT:
        return "object_id is missing; name the result"
    return "position has no meaning without object_id" if event.position else ""


def _microseconds(moment: Timestamp) -> int:
    return moment.seconds * MICROSECONDS + moment.nanos // 1_000
