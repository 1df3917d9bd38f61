"""RPCs of feedback."""

from __future__ import annotations

import time
from typing import Any

from google.protobuf.duration_pb2 import Duration

from drills.faults.rpcs.experiments import ARM, RUNNING
from drills.parts.rpc import Rpc
from services.gateway.feedback.impressions import Impressions
from sluice.gateway.v1 import feedback_pb2 as gateway
from sluice.rollout.v1 import feedback_pb2 as store
from sluice.type.v1.feedback_pb2 import EVENT_ACTION_CLICK, EVENT_ACTION_RATE, Event
from sluice.type.v1.impression_pb2 import Exposure, Impression

KEY = "a-key-of-the-drill-alone-that-opens-nothing"
"""The key of the gateway, by which it takes our impressions for its own."""


def feedback() -> list[Rpc]:
    """Of what was shown, and what was done with it; part of it in an experiment, so that it is analysed."""
    impression = Impression(
        query_id="q",
        collection="documents",
        unit=5,
        object_ids=["d1", "d2"],
        first_position=1,
        exposures=[
            Exposure(experiment=RUNNING, run_id=f"{RUNNING}.1", arm=ARM),
            Exposure(experiment="mixed", run_id="mixed.1", teams=[1, 2]),
        ],
    )
    impression.time.FromMicroseconds(time.time_ns() // 1_000)
    events = [
        Event(event_id="e1", query_id="q", action=EVENT_ACTION_CLICK, object_id="d2", position=2, client_id="phone"),
        Event(event_id="e2", query_id="q", action=EVENT_ACTION_RATE, rating=0.5, aspect="relevance"),
    ]
    served = store.ServedImpression(
        impression=impression, ending=store.IMPRESSION_ENDING_ANSWERED, duration=Duration(nanos=10**8), query="sea",
        model_token_count=7, arm_durations=[Duration(nanos=10**7), Duration(nanos=10**8)],
    )  # fmt: skip
    return [
        Rpc(
            gateway.RecordEventsRequest(impression_tokens=[Impressions([KEY]).sign(impression)], events=events),
            _every_event_is_accounted_for,
        ),
        Rpc(
            store.StoreFeedbackRequest(impressions=[served], events=[store.StoredEvent(event=one) for one in events]),
            lambda asked, said: 1 <= len(asked.impressions) <= 1000 and len(asked.events) <= 1000
            and all(0 <= one.impression_index < len(asked.impressions) for one in asked.events)
            and all(1 <= len(one.impression.query_id) <= 128 for one in asked.impressions)
            and _are_places(said.duplicate_indexes, len(asked.events)),
        ),
        Rpc(
            store.ExportFeedbackRequest(start_time=impression.time, experiment=RUNNING, collection="documents"),
            lambda asked, said: all(_is_asked_for(asked, answer.served.impression) for answer in said.answers),
        ),
    ]  # fmt: skip


def _every_event_is_accounted_for(asked: Any, said: Any) -> bool:
    return (
        1 <= len(asked.events) <= 1000
        and len(asked.impression_tokens) <= 1000
        and min(said.stored_count, said.duplicate_count) >= 0
        and said.stored_count + said.duplicate_count + len(said.rejections) == len(asked.events)
        and _are_places([one.index for one in said.rejections], len(asked.events))
        and all(one.reason and one.detail for one in said.rejections)
    )


def _is_asked_for(asked: Any, impression: Impression) -> bool:
    return asked.collection in {"", impression.collection} and (
        not asked.experiment or any(one.experiment == asked.experiment for one in impression.exposures)
    )


def _are_places(places: Any, count: int) -> bool:
    """True for ascending places in a list of that length."""
    return list(places) == sorted({place for place in places if 0 <= place < count})
