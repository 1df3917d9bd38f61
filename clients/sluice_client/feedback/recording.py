"""Recording of events in batches, safe to repeat."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from sluice.gateway.v1 import feedback_pb2 as pb
from sluice.gateway.v1 import feedback_pb2_grpc
from sluice_client.channel import Caller
from sluice_client.feedback.events import Event, EventRejection, Recorded
from sluice_client.indexing import patiently

MOST_EVENTS = 1000
MOST_TOKEN_BYTES = 1024 * 1024
"""Bytes of tokens in a request, so that it stays below the limit of a message."""


class Recording(Caller):
    """A caller that records what people did with answers."""

    async def record_events(self, events: Iterable[Event], *, timeout: float | None = None) -> Recorded:
        """Store events, in batches of at most 1,000, and return how many were stored, known or refused.

            answer = await client.search("read a file line by line", user_id="ada")
            await client.record_events([Event.click(answer, answer.results[0])])

        Events are stored when it returns. A gateway that is down or busy is asked again with the same events, up to 8
        times a batch; `timeout` is the deadline of each call in seconds. Where it raises SluiceError, some may be
        stored: the same events may be given again, and count once. Raises FAILED_PRECONDITION (FEEDBACK_OFF) where the
        gateway takes no feedback.
        """
        stored = duplicates = before = 0
        rejections: list[EventRejection] = []
        stub = self._stub(feedback_pb2_grpc.FeedbackServiceStub)
        for batch in batches(events):
            request = pb.RecordEventsRequest(
                impression_tokens=dict.fromkeys(event.impression_token for event in batch if event.impression_token),
                events=[event.to_proto(f"events[{before + place}]") for place, event in enumerate(batch)],
            )
            found = Recorded.from_proto(await patiently(partial(self._call, stub.RecordEvents, request, timeout)))
            stored += found.stored_count
            duplicates += found.duplicate_count
            rejections += [dataclasses.replace(one, index=before + one.index) for one in found.rejections]
            before += len(batch)
        return Recorded(stored, duplicates, tuple(rejections))


def batches(events: Iterable[Event]) -> Iterator[Sequence[Event]]:
    """Group events, in their order, into batches that one message has room for."""
    batch: list[Event] = []
    tokens: dict[bytes, None] = {}
    size = 0
    for event in events:
        added = 0 if event.impression_token in tokens else len(event.impression_token)
        if batch and (len(batch) == MOST_EVENTS or size + added > MOST_TOKEN_BYTES):
            yield batch
            batch, tokens, size = [], {}, 0
            added = len(event.impression_token)
        batch.append(event)
        tokens[event.impression_token] = None
        size += added
    if batch:
        yield batch
