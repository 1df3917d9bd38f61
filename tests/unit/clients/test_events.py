from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sluice.gateway.v1 import search_pb2
from sluice.type.v1 import feedback_pb2
from sluice_client import (
    Answer,
    Citation,
    Event,
    EventAction,
    EventRejection,
    EventRejectionReason,
    Recorded,
    SluiceError,
)
from sluice_client.feedback.recording import MOST_EVENTS, MOST_TOKEN_BYTES, batches

REPLY = search_pb2.SearchResponse(
    request_id="r1",
    impression_token=b"signed",
    results=[
        {"passage": {"id": "a#1", "document_id": "a"}, "rank": 11, "team": "late"},
        {"passage": {"id": "b"}, "rank": 12},
    ],
    experiments=[{"experiment": "late-rerank", "run_id": "late-rerank.1"}],
)
ANSWER = Answer.from_proto(REPLY)


def test_an_answer_says_of_which_experiments_it_is_a_part() -> None:
    assert ANSWER.impression_token == b"signed"
    assert [(one.experiment, one.run_id, one.arm) for one in ANSWER.experiments] == [
        ("late-rerank", "late-rerank.1", "")
    ]
    assert [result.team for result in ANSWER.results] == ["late", ""]


def test_an_event_names_the_answer_the_passage_and_its_rank() -> None:
    now = datetime(2026, 11, 28, 12, tzinfo=UTC)
    sent = Event.click(ANSWER, ANSWER.results[0], time=now, client_id="browser", session_id="visit").to_proto()
    assert sent.event_id
    assert sent.time.ToDatetime(UTC) == now
    sent.ClearField("event_id")
    sent.ClearField("time")
    assert sent == feedback_pb2.Event(
        query_id="r1",
        action=feedback_pb2.EVENT_ACTION_CLICK,
        object_id="a#1",
        position=11,
        client_id="browser",
        session_id="visit",
    )


def test_a_citation_of_an_answer_in_words_is_an_event_too() -> None:
    cited = Event.cite(ANSWER, Citation(passage_id="b", quote="q", start=0, end=1, result_rank=12))
    assert (cited.action, cited.object_id, cited.position) == (EventAction.CITE, "b", 12)
    assert (Event.cite(ANSWER, ANSWER.results[0]).object_id, cited.impression_token) == ("a#1", b"signed")


def test_stars_and_thumbs_are_ratings_from_0_to_1() -> None:
    assert [Event.rate(ANSWER, stars=stars).rating for stars in range(1, 6)] == [0, 0.25, 0.5, 0.75, 1]
    assert [Event.thumbs(ANSWER, up=up, aspect="clarity").rating for up in (False, True)] == [0, 1]
    whole, one = Event.thumbs(ANSWER, up=False), Event.thumbs(ANSWER, ANSWER.results[1], up=False)
    assert (whole.object_id, one.object_id) == ("", "b")
    assert whole.to_proto().HasField("rating")
    for stars in (0, 6):
        with pytest.raises(SluiceError) as caught:
            Event.rate(ANSWER, stars=stars)
        assert caught.value.field == "stars"


def test_a_label_may_be_about_a_result_or_the_whole_answer() -> None:
    assert Event.labelled(ANSWER, "outdated", ANSWER.results[0]).to_proto().label == "outdated"
    assert Event.labelled(ANSWER, "outdated").object_id == ""


def test_every_event_has_an_id_of_its_own_that_stays() -> None:
    events = [Event.click(ANSWER, ANSWER.results[0]) for _ in range(100)]
    assert len({event.event_id for event in events}) == 100
    assert events[0].to_proto().event_id == events[0].to_proto().event_id


def test_a_time_without_a_zone_is_refused_with_its_field() -> None:
    with pytest.raises(SluiceError) as caught:
        Event.click(ANSWER, ANSWER.results[0], time=datetime(2026, 11, 28)).to_proto("events[3]")
    assert caught.value.field == "events[3].time"


def test_an_event_that_is_read_back_is_the_one_that_was_sent() -> None:
    sent = Event.rate(ANSWER, ANSWER.results[1], stars=2, aspect="clarity", time=datetime(2026, 11, 28, tzinfo=UTC))
    read = Event.from_proto(sent.to_proto())
    assert (read.event_id, read.rating, read.aspect, read.time) == (sent.event_id, 0.25, "clarity", sent.time)


def test_batches_keep_the_order_and_their_bounds() -> None:
    events = [Event(f"r{number}", EventAction.CLICK, b"t%d" % (number // 10), "a", 1) for number in range(2500)]
    found = list(batches(events))
    assert [len(batch) for batch in found] == [MOST_EVENTS, MOST_EVENTS, 500]
    assert [event for batch in found for event in batch] == events
    large = [
        Event(f"r{number}", EventAction.CLICK, bytes([number]) * (MOST_TOKEN_BYTES // 3), "a", 1) for number in range(7)
    ]
    assert [len(batch) for batch in batches(large)] == [3, 3, 1]
    assert [len(batch) for batch in batches([large[0]] * 50)] == [50]
    huge = Event("r", EventAction.CLICK, bytes(2 * MOST_TOKEN_BYTES), "a", 1)
    assert [len(batch) for batch in batches([large[0], huge, large[1]])] == [1, 1, 1]
    assert list(batches([])) == []


def test_what_is_refused_is_counted_by_its_reason() -> None:
    reasons = [EventRejectionReason.NOT_SERVED, EventRejectionReason.OUT_OF_TIME, EventRejectionReason.NOT_SERVED]
    recorded = Recorded(3, 1, [EventRejection(place, reason, "") for place, reason in enumerate(reasons)])
    assert recorded.rejected_counts == {EventRejectionReason.NOT_SERVED: 2, EventRejectionReason.OUT_OF_TIME: 1}
