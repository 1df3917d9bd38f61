from __future__ import annotations

from collections.abc import Callable

import pytest

from services.chassis.errors import InvalidArgument
from services.chassis.timing import duration, timestamp
from services.rollout.feedback.batches import MAX_EVENTS, MAX_IMPRESSIONS, Batch
from services.rollout.feedback.rows import Action, Ending
from sluice.rollout.v1 import feedback_pb2 as pb
from sluice.type.v1 import feedback_pb2
from sluice.type.v1.impression_pb2 import Exposure, Impression

NOW = 1_795_800_000.5
KEPT_DAYS = 30
DAY = 86_400.0


def message() -> pb.StoreFeedbackRequest:
    impression = Impression(
        query_id="q1",
        time=timestamp(NOW - 10),
        collection="papers",
        unit=0,
        object_ids=["p1", "p2", "p3"],
        first_position=11,
        exposures=[Exposure(experiment="exp", run_id="exp.1", arm="", teams=[1, 0, 2])],
        tenant="ours",
    )
    event = feedback_pb2.Event(
        event_id="e1",
        query_id="q1",
        action=feedback_pb2.EVENT_ACTION_CLICK,
        time=timestamp(NOW - 5),
        object_id="p2",
        position=12,
    )
    return pb.StoreFeedbackRequest(
        impressions=[
            pb.ServedImpression(impression=impression, ending=pb.IMPRESSION_ENDING_ANSWERED, duration=duration(0.5))
        ],
        events=[pb.StoredEvent(event=event, impression_index=0)],
    )


def read(request: pb.StoreFeedbackRequest) -> Batch:
    return Batch.from_proto(request, NOW, KEPT_DAYS)


def test_a_request_becomes_rows() -> None:
    batch = read(message())
    (impression,), (exposure,), (event,) = batch.impressions, batch.exposures, batch.events
    assert impression.served_time == event.served_time == exposure.served_time == round((NOW - 10) * 1e6)
    assert (impression.unit, impression.ending, impression.seconds) == (-(2**63), Ending.ANSWERED, 0.5)
    assert Impression.FromString(impression.body) == message().impressions[0].impression
    assert (exposure.run_id, exposure.arm, exposure.teams) == ("exp.1", "", b"\x01\x00\x02")
    assert (event.day, event.tenant, event.action, event.position) == (20784, "ours", Action.CLICK, 12)
    assert batch.row_count == 3


def test_a_position_that_an_event_does_not_name_is_that_of_its_result() -> None:
    request = message()
    request.events[0].event.ClearField("position")
    assert read(request).events[0].position == 12


def test_an_event_without_a_time_is_of_its_arrival() -> None:
    request = message()
    request.events[0].event.ClearField("time")
    assert read(request).events[0].time == round(NOW * 1e6)


def test_a_rating_may_be_about_the_whole_answer() -> None:
    request = message()
    event = request.events[0].event
    event.action, event.rating, event.object_id, event.position = feedback_pb2.EVENT_ACTION_RATE, 0.0, "", 0
    row = read(request).events[0]
    assert (row.rating, row.position) == (0.0, 0)


Change = Callable[[pb.StoreFeedbackRequest], object]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("impressions", lambda r: r.ClearField("impressions")),
        ("impressions", lambda r: r.impressions.extend([r.impressions[0]] * MAX_IMPRESSIONS)),
        ("events", lambda r: r.events.extend([r.events[0]] * MAX_EVENTS)),
        ("events[0].impression_index", lambda r: setattr(r.events[0], "impression_index", 1)),
        ("events[0].impression_index", lambda r: setattr(r.events[0], "impression_index", -1)),
        ("impressions[0].impression.time", lambda r: r.impressions[0].impression.ClearField("time")),
        ("impressions[0].impression.time", lambda r: _move(r, -KEPT_DAYS * DAY)),
        ("impressions[0].impression.time", lambda r: _move(r, 2 * DAY)),
        ("impressions[0].impression.time", lambda r: setattr(r.impressions[0].impression.time, "nanos", -1)),
        ("impressions[0].impression.query_id", lambda r: setattr(r.impressions[0].impression, "query_id", "")),
        ("impressions[0].impression", lambda r: setattr(r.impressions[0].impression, "collection", "a\0")),
        ("impressions[0].impression", lambda r: setattr(r.impressions[0].impression, "tenant", "t" * 257)),
        ("impressions[0].query", lambda r: setattr(r.impressions[0], "query", "é" * 4097)),
        (
            "impressions[0].impression.object_ids",
            lambda r: r.impressions[0].impression.object_ids.extend(["x"] * 998),
        ),
        (
            "impressions[0].impression.first_position",
            lambda r: setattr(r.impressions[0].impression, "first_position", -1),
        ),
        ("impressions[0].ending", lambda r: setattr(r.impressions[0], "ending", 77)),
        ("impressions[0].duration", lambda r: setattr(r.impressions[0].duration, "seconds", -1)),
        ("impressions[0].model_token_count", lambda r: setattr(r.impressions[0], "model_token_count", -1)),
        ("impressions[0].impression.exposures", lambda r: _exposures(r).append(_exposures(r)[0])),
        ("impressions[0].impression.exposures[0]", lambda r: setattr(_exposures(r)[0], "run_id", "")),
        ("impressions[0].impression.exposures[0].teams", lambda r: _exposures(r)[0].teams.append(1)),
        ("impressions[0].impression.exposures[0].teams", lambda r: _exposures(r)[0].teams.__setitem__(0, 3)),
        ("events[0].event.event_id", lambda r: setattr(r.events[0].event, "event_id", "")),
        ("events[0].event.event_id", lambda r: setattr(r.events[0].event, "event_id", "e" * 129)),
        ("events[0].event.query_id", lambda r: setattr(r.events[0].event, "query_id", "q2")),
        ("events[0].event.action", lambda r: setattr(r.events[0].event, "action", 0)),
        ("events[0].event.action", lambda r: setattr(r.events[0].event, "action", 99)),
        ("events[0].event.object_id", lambda r: _about(r, "", 0)),
        ("events[0].event.object_id", lambda r: _about(r, "p9", 0)),
        ("events[0].event.position", lambda r: _about(r, "p2", 11)),
        ("events[0].event.position", lambda r: _about(r, "p2", 2)),
        ("events[0].event.position", lambda r: _about(r, "p3", 14)),
        ("events[0].event.rating", lambda r: setattr(r.events[0].event, "rating", 0.5)),
        ("events[0].event.rating", lambda r: _rate(r, None)),
        ("events[0].event.rating", lambda r: _rate(r, 1.01)),
        ("events[0].event.rating", lambda r: _rate(r, float("nan"))),
        ("events[0].event", lambda r: setattr(r.events[0].event, "label", "a\0b")),
        ("events[0].event", lambda r: setattr(r.events[0].event, "session_id", "s" * 257)),
        ("events[0].event.time", lambda r: setattr(r.events[0].event.time, "seconds", 1 << 40)),
    ],
)
def test_what_would_spoil_rows_is_refused_by_the_name_of_its_field(field: str, change: Change) -> None:
    request = message()
    change(request)
    with pytest.raises(InvalidArgument) as refused:
        read(request)
    assert refused.value.field == field


def _exposures(request: pb.StoreFeedbackRequest) -> list[Exposure]:
    found: list[Exposure] = request.impressions[0].impression.exposures  # type: ignore[assignment]
    return found


def _move(request: pb.StoreFeedbackRequest, seconds: float) -> None:
    request.impressions[0].impression.time.CopyFrom(timestamp(NOW + seconds))


def _about(request: pb.StoreFeedbackRequest, object_id: str, position: int) -> None:
    request.events[0].event.object_id, request.events[0].event.position = object_id, position


def _rate(request: pb.StoreFeedbackRequest, rating: float | None) -> None:
    request.events[0].event.action = feedback_pb2.EVENT_ACTION_RATE
    if rating is not None:
        request.events[0].event.rating = rating
