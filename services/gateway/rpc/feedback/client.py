"""Client of the store of feedback, in the control plane."""

from __future__ import annotations

from services.chassis.client import StageChannel
from services.chassis.timing import deadline_in
from sluice.rollout.v1 import feedback_pb2 as pb
from sluice.rollout.v1 import feedback_pb2_grpc

_REPORT_SECONDS = 10.0


class FeedbackClient:
    """Stores what was shown and what was done with it."""

    service = "sluice.rollout.v1.FeedbackStoreService"

    def __init__(self, channel: StageChannel) -> None:
        self._channel = channel
        self._stub = feedback_pb2_grpc.FeedbackStoreServiceStub(channel.channel)

    async def store(self, request: pb.StoreFeedbackRequest, *, deadline: float) -> int:
        """Store all of a batch or none; return the number of events that had been stored before."""
        reply = await self._channel.call(self._stub.StoreFeedback, request, deadline=deadline)
        return len(reply.duplicate_indexes)

    async def report(self, request: pb.StoreFeedbackRequest) -> None:
        """Store a batch for which nobody waits."""
        await self.store(request, deadline=deadline_in(_REPORT_SECONDS))
