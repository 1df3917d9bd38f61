"""Client of the reasoner."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.chassis.client import StageChannel
from services.chassis.errors import InvalidArgument
from services.gateway.answering.answering import Reading
from services.gateway.quotas.spending import spend
from sluice.reasoner.v1 import reasoner_pb2, reasoner_pb2_grpc
from sluice.type.v1 import answer_pb2


class ReasonerClient:
    """Calls the reasoner, never twice for one answer: the first call may have been paid for."""

    service = "sluice.reasoner.v1.ReasonerService"

    def __init__(self, channel: StageChannel) -> None:
        self.channel = channel
        self._stub = reasoner_pb2_grpc.ReasonerServiceStub(channel.channel)

    async def reason(self, reading: Reading, *, deadline: float) -> answer_pb2.WrittenAnswer:
        """Return the answer."""
        try:
            answer = (await self.channel.call(self._stub.Reason, _request(reading), deadline=deadline)).answer
        except InvalidArgument as error:
            raise _renamed(error) from None
        _charge(answer)
        return answer

    async def stream(
        self, reading: Reading, *, deadline: float
    ) -> AsyncGenerator[str | answer_pb2.WrittenAnswer, None]:
        """Yield the text as it is written, and the answer at the end."""
        request = reasoner_pb2.StreamReasonRequest(reason=_request(reading))
        try:
            async with aclosing(self.channel.stream(self._stub.StreamReason, request, deadline=deadline)) as replies:
                async for reply in replies:
                    _charge(reply.answer)
                    yield reply.answer if reply.HasField("answer") else reply.text_delta
        except InvalidArgument as error:
            raise _renamed(error) from None


def _charge(answer: answer_pb2.WrittenAnswer) -> None:
    spend(answer.prompt_token_count + answer.completion_token_count)


def _request(reading: Reading) -> reasoner_pb2.ReasonRequest:
    return reasoner_pb2.ReasonRequest(
        question=reading.question,
        passages=[
            reasoner_pb2.SourcePassage(id=identity, title=title, text=text)
            for identity, title, text in reading.passages()
        ],
        bounds=reading.bounds,
        answer_schema=reading.schema,
        extractive=reading.extractive,
        max_sub_question_count=reading.sub_questions,
    )


def _renamed(error: InvalidArgument) -> InvalidArgument:
    """Name a field as the gateway's caller knows it."""
    field = error.field.removeprefix("reason.")
    return InvalidArgument("search.query" if field == "question" else field, error.problem, reason=error.reason)
