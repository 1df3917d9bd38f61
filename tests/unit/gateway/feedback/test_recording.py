from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from services.chassis.errors import InvalidArgument
from services.gateway.feedback.impressions import Impressions
from services.gateway.feedback.recording import MAX_EVENTS, MICROSECONDS, SKEW_SECONDS, Checked, Recording
from sluice.gateway.v1 import feedback_pb2 as pb
from sluice.type.v1 import feedback_pb2 as type_pb
from sluice.type.v1.impression_pb2 import Exposure, Impression

KEYS = ["a key of sixteen characters"]
SERVED = 1_700_000_000 * MICROSECONDS
NOW = SERVED + 30 * MICROSECONDS
DAY = 86_400 * MICROSECONDS
SKEW = SKEW_SECONDS * MICROSECONDS
CLICK, CITE, RATE, LABEL = (
    type_pb.EVENT_ACTION_CLICK,
    type_pb.EVENT_ACTION_CITE,
    type_pb.EVENT_ACTION_RATE,
    type_pb.EVENT_ACTION_LABEL,
)
NOT_SERVED, OTHER_TENANT, OTHER_RESULT, OUT_OF_TIME, INVALID = (
    pb.EVENT_REJECTION_REASON_NOT_SERVED,
    pb.EVENT_REJECTION_REASON_OTHER_TENANT,
    pb.EVENT_REJECTION_REASON_OTHER_RESULT,
    pb.EVENT_REJECTION_REASON_OUT_OF_TIME,
    pb.EVENT_REJECTION_REASON_INVALID,
)


def impression(
    query_id: str = "q1", *, tenant: str = "", served: int = SERVED, ids: tuple[str, ...] = ("a", "b", "c")
) -> Impression:
    made = Impression(
        query_id=query_id,
        object_ids=ids,
        first_position=11,
        tenant=tenant,
        exposures=[Exposure(experiment="ranking", run_id="ranking/1", arm="control")],
    )
    made.time.FromMicroseconds(served)
    return made


def token(*given: Any, **fields: Any) -> bytes:
    return Impressions(KEYS).sign(impression(*given, **fields))


def event(number: int = 1, *, at: int | None = None, **fields: Any) -> type_pb.Event:
    usual: dict[str, Any] = {"event_id": f"e{number}", "query_id": "q1", "action": CLICK, "object_id": "b"}
    made = type_pb.Event(**usual | fields)
    if at is not None:
        made.time.FromMicroseconds(at)
    return made


def checked(*events: type_pb.Event, tokens: list[bytes] | None = None, tenant: str = "", now: int = NOW) -> Checked:
    request = pb.RecordEventsRequest(impression_tokens=[token()] if tokens is None else tokens, events=events)
    return asyncio.run(Recording(Impressions(KEYS), days=7).check(request, tenant, now))


def reasons(checked: Checked) -> dict[int, pb.EventRejectionReason.ValueType]:
    return {rejection.index: rejection.reason for rejection in checked.rejections}


def test_an_event_of_an_answer_that_was_served_goes_on_with_it() -> None:
    given = event(action=RATE, rating=0.5, aspect="relevance_2", at=SERVED + MICROSECONDS)
    both = checked(given)
    assert reasons(both) == {}
    assert [served.impression for served in both.request.impressions] == [impression()]
    (stored,) = both.request.events
    given.position = 12
    assert (stored.event, stored.impression_index) == (given, 0)


def test_an_event_without_a_time_or_a_position_gets_them() -> None:
    (stored,) = checked(event()).request.events
    assert (stored.event.time.ToMicroseconds(), stored.event.position) == (NOW, 12)


def test_ids_of_devices_and_visits_are_stored_as_keyed_hashes() -> None:
    (stored,) = checked(event(client_id="phone", session_id="visit")).request.events
    hashes = Impressions(KEYS)
    assert (stored.event.client_id, stored.event.session_id) == (hashes.hashed("phone"), hashes.hashed("visit"))


def test_only_answers_with_an_event_that_counts_go_on_each_once() -> None:
    tokens = [token(query_id) for query_id in ("q1", "q2", "q3")]
    given = checked(
        event(1, query_id="q3"),
        event(2, query_id="q2", object_id="x"),
        event(3, query_id="q1"),
        event(4, query_id="q3"),
        tokens=tokens,
    )
    assert [served.impression.query_id for served in given.request.impressions] == ["q3", "q1"]
    assert [stored.impression_index for stored in given.request.events] == [0, 1, 0]
    assert reasons(given) == {1: OTHER_RESULT}


def test_the_whole_answer_may_be_rated_and_labelled() -> None:
    given = checked(
        event(1, action=RATE, rating=0, object_id=""), event(2, action=LABEL, label="wrong year", object_id="")
    )
    assert reasons(given) == {}
    assert [stored.event.position for stored in given.request.events] == [0, 0]


@pytest.mark.parametrize(
    "tokens",
    [
        [],
        [b""],
        [b"x" * 80],
        [token("q2")],
        [token()[:-1]],
        [token()[:-32] + bytes(32)],
        [Impressions(["the key of somebody else"]).sign(impression())],
        [impression().SerializeToString()],
    ],
)
def test_an_event_without_the_token_of_its_answer_is_not_served(tokens: list[bytes]) -> None:
    given = checked(event(), tokens=tokens)
    assert reasons(given) == {0: NOT_SERVED}
    assert len(given.request.impressions) == len(given.request.events) == 0


@pytest.mark.parametrize(("served_to", "tenant"), [("blue", ""), ("", "blue"), ("blue", "red")])
def test_an_event_on_an_answer_to_another_tenant_is_refused(served_to: str, tenant: str) -> None:
    assert reasons(checked(event(), tokens=[token(tenant=served_to)], tenant=tenant)) == {0: OTHER_TENANT}
    assert reasons(checked(event(), tokens=[token(tenant=tenant)], tenant=tenant)) == {}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"object_id": "x"}, OTHER_RESULT),
        ({"position": 11}, OTHER_RESULT),
        ({"position": 2}, OTHER_RESULT),
        ({"position": -1}, OTHER_RESULT),
        ({"position": 12}, None),
        ({"action": CITE, "position": 12}, None),
    ],
)
def test_an_event_names_a_result_at_its_place(given: dict[str, Any], reason: int | None) -> None:
    assert reasons(checked(event(**given))) == ({} if reason is None else {0: reason})


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (SERVED, None),
        (SERVED - SKEW, None),
        (SERVED - SKEW - 1, OUT_OF_TIME),
        (NOW + SKEW, None),
        (NOW + SKEW + 1, OUT_OF_TIME),
    ],
)
def test_an_event_is_neither_older_than_its_answer_nor_from_the_future(at: int, reason: int | None) -> None:
    assert reasons(checked(event(at=at))) == ({} if reason is None else {0: reason})


@pytest.mark.parametrize(("age", "late"), [(7 * DAY, False), (7 * DAY + 1, True), (-SKEW, False), (-SKEW - 1, True)])
def test_an_old_answer_takes_no_more_events(age: int, late: bool) -> None:
    assert reasons(checked(event(at=SERVED), now=SERVED + age)) == ({0: OUT_OF_TIME} if late else {})


@pytest.mark.parametrize(
    "given",
    [
        {"event_id": ""},
        {"event_id": "e" * 129},
        {"event_id": "e\0"},
        {"action": type_pb.EVENT_ACTION_UNSPECIFIED},
        {"action": 9},
        {"object_id": ""},
        {"action": CITE, "object_id": ""},
        {"action": RATE},
        {"action": RATE, "rating": 1.5},
        {"action": RATE, "rating": -0.1},
        {"action": RATE, "rating": math.nan},
        {"rating": 1.0},
        {"aspect": "relevance"},
        {"action": RATE, "rating": 1.0, "aspect": "Relevance"},
        {"action": RATE, "rating": 1.0, "aspect": "a" * 65},
        {"action": RATE, "rating": 1.0, "object_id": "", "position": 11},
        {"action": LABEL},
        {"action": LABEL, "label": "é" * 129},
        {"action": LABEL, "label": "a\0"},
        {"label": "wrong"},
        {"client_id": "é" * 129},
        {"session_id": "s" * 257},
        {"object_id": "b\0"},
        {"time": Timestamp(seconds=SERVED // MICROSECONDS, nanos=-1)},
        {"time": Timestamp(seconds=SERVED // MICROSECONDS, nanos=10**9)},
    ],
)
def test_an_event_that_says_nothing_is_invalid(given: dict[str, Any]) -> None:
    refused = checked(event(**given))
    assert reasons(refused) == {0: INVALID}
    assert refused.rejections[0].detail


def test_answers_of_one_request_id_are_told_apart_by_their_results() -> None:
    tokens = [token(ids=("a", "b")), token(ids=("b", "d"), served=SERVED + 1)]
    given = checked(
        event(1, object_id="d"), event(2, object_id="b", position=11), event(3, object_id="a"), tokens=tokens
    )
    assert reasons(given) == {}
    assert [list(served.impression.object_ids) for served in given.request.impressions] == [["b", "d"], ["a", "b"]]
    assert [stored.impression_index for stored in given.request.events] == [0, 0, 1]


@pytest.mark.parametrize("count", [0, MAX_EVENTS + 1])
def test_a_batch_of_none_or_of_too_many_is_refused_whole(count: int) -> None:
    with pytest.raises(InvalidArgument, match="events"):
        checked(*(event(number) for number in range(count)))


def test_a_batch_with_too_many_tokens_is_refused_whole() -> None:
    with pytest.raises(InvalidArgument, match="impression_tokens"):
        checked(event(), tokens=[b"x"] * (MAX_EVENTS + 1))
