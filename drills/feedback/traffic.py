"""Answers that were served, and what people did with them: made by the gateway's own code, and unique forever."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from services.gateway.feedback.impressions import Impressions
from sluice.gateway.v1 import feedback_pb2 as pb
from sluice.type.v1 import feedback_pb2
from sluice.type.v1.impression_pb2 import Exposure, Impression

KEY = "a-key-of-the-drill-alone-that-opens-nothing"
RUN = "drill.1"
RESULTS = 10
EVENTS_AN_ANSWER = 2


def requests(sender: str, events: int, first: int = 0) -> Iterator[bytes]:
    """Requests of one sender from a number on, without end; ids of events are SENDER-REQUEST-EVENT."""
    chance = random.Random(f"{sender} {first}")
    impressions = Impressions([KEY])
    number = first
    while True:
        request = pb.RecordEventsRequest()
        now = round(time.time() * 1e6)
        for place in range(events):
            if place % EVENTS_AN_ANSWER == 0:
                answer = _answer(f"{sender}-{number}-{place}", now - chance.randrange(1_000_000), chance)
                request.impression_tokens.append(impressions.sign(answer))
            result = chance.randrange(RESULTS)
            event = request.events.add(
                event_id=f"{sender}-{number}-{place}",
                query_id=answer.query_id,
                action=feedback_pb2.EVENT_ACTION_CLICK,
                object_id=answer.object_ids[result],
                position=result + 1,
                client_id=f"browser-{chance.randrange(10_000)}",
                session_id=f"visit-{chance.randrange(100_000)}",
            )
            event.time.FromMicroseconds(now)
        yield request.SerializeToString()
        number += 1


def _answer(query_id: str, microseconds: int, chance: random.Random) -> Impression:
    answer = Impression(
        query_id=query_id,
        collection="papers",
        unit=chance.getrandbits(64),
        object_ids=[f"paper-{chance.randrange(10**6)}-{place}" for place in range(RESULTS)],
        first_position=1,
        exposures=[Exposure(experiment="drill", run_id=RUN, teams=[1, 2] * (RESULTS // 2))],
    )
    answer.time.FromMicroseconds(microseconds)
    return answer
