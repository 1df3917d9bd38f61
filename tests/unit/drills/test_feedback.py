"""The made-up events of the feedback drill, against the checks of the gateway."""

from __future__ import annotations

import random
import time
from itertools import islice
from pathlib import Path

from drills.feedback.hostile import Served, attempts
from drills.feedback.sent import read, write
from drills.feedback.traffic import KEY, requests
from services.gateway.feedback.impressions import Impressions
from services.gateway.feedback.recording import Recording
from sluice.gateway.v1 import feedback_pb2 as pb
from sluice.type.v1.impression_pb2 import Impression

_IMPRESSIONS = Impressions([KEY])


def served(tenant: str) -> list[Served]:
    found = []
    for number in range(3):
        impression = Impression(
            query_id=f"{tenant}-{number}", object_ids=[f"d{number}", "other"], first_position=1, tenant=tenant
        )
        impression.time.FromMicroseconds(time.time_ns() // 1000)
        found.append(Served(impression, _IMPRESSIONS.sign(impression)))
    return found


async def test_every_made_up_event_is_refused_and_an_honest_one_is_not() -> None:
    recording = Recording(_IMPRESSIONS, 7)
    kinds = set()
    for attempt in attempts(served("ours"), served("theirs"), random.Random(1)):
        request = pb.RecordEventsRequest(impression_tokens=attempt.tokens, events=[attempt.event])
        checked = await recording.check(request, "ours", time.time_ns() // 1000)
        assert len(checked.rejections) == 1, attempt
        assert not checked.request.events
        kinds.add(attempt.kind)
    assert len(kinds) > 15


async def test_the_traffic_of_the_drill_counts() -> None:
    for raw in islice(requests("s0", 20), 3):
        request = pb.RecordEventsRequest.FromString(raw)
        checked = await Recording(_IMPRESSIONS, 7).check(request, "", time.time_ns() // 1000)
        assert not checked.rejections
        assert len(checked.request.events) == 20
        assert len(checked.request.impressions) == 10


def test_no_two_events_of_the_traffic_have_one_id() -> None:
    ids = [
        event.event_id
        for name, first in (("s0", 0), ("s0", 3), ("s1", 0))
        for raw in islice(requests(name, 20, first), 3)
        for event in pb.RecordEventsRequest.FromString(raw).events
    ]
    assert len(ids) == len(set(ids)) == 180


def test_requests_are_read_as_they_were_written(tmp_path: Path) -> None:
    made = [b"", b"one", bytes(range(256)) * 300]
    write(made, tmp_path / "requests")
    assert list(read(tmp_path / "requests")) == made
