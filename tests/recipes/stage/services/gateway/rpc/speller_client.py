"""Client of the speller."""

from __future__ import annotations

from services.chassis.client import StageChannel
from sluice.speller.v1 import speller_pb2, speller_pb2_grpc


class SpellerClient:
    """Calls the speller."""

    service = "sluice.speller.v1.SpellerService"

    def __init__(self, channel: StageChannel) -> None:
        self.channel = channel
        self._stub = speller_pb2_grpc.SpellerServiceStub(channel.channel)

    async def correct(self, query: str, *, deadline: float) -> str:
        """Correct a query."""
        request = speller_pb2.CorrectQueryRequest(query=query)
        reply = await self.channel.call(self._stub.CorrectQuery, request, deadline=deadline)
        return reply.query
