"""FeedbackStoreService: validate, translate, delegate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from services.chassis.access.gate import sees
from services.chassis.access.identity import caller_of
from services.chassis.errors import ResourceExhausted, Unavailable
from services.chassis.timing import duration, since_1970
from services.rollout.feedback.batches import Batch
from services.rollout.feedback.rows import EventRow, StoredAnswer
from services.rollout.feedback.writing import FeedbackWriter
from services.rollout.storage.database import Database
from sluice.rollout.v1 import feedback_pb2 as pb
from sluice.rollout.v1 import feedback_pb2_grpc
from sluice.type.v1 import feedback_pb2
from sluice.type.v1.impression_pb2 import Impression

# ruff: noqa: N802, D102  # gRPC's names; the proto says what each does

Context = grpc.aio.ServicerContext[Any, Any]
MAX_EXPORTS = 2
"""Most exports at once: each reads all that is kept."""
_REPLY_BYTES = 2**20
_RETRY_SECONDS = 0.5
_EXPORT_RETRY_SECONDS = 30.0


class FeedbackServicer(feedback_pb2_grpc.FeedbackStoreServiceServicer):
    """Implements FeedbackStoreService. `problem` is the reason for which this replica does not lead, or None."""

    def __init__(self, writer: FeedbackWriter, database: Database, problem: Callable[[], str | None]) -> None:
        self._writer = writer
        self._database = database
        self._problem = problem
        self._exports = 0

    async def StoreFeedback(self, request: pb.StoreFeedbackRequest, context: Context) -> pb.StoreFeedbackResponse:
        # Feedback would be right from any replica; but only the one that leads has brought the tables up to date.
        if (problem := self._problem()) is not None:
            raise Unavailable(problem, reason="STANDBY", retry_after=_RETRY_SECONDS)
        batch = Batch.from_proto(request, time.time(), self._writer.kept_days)
        return pb.StoreFeedbackResponse(duplicate_indexes=await self._writer.store(batch))

    async def ExportFeedback(
        self, request: pb.ExportFeedbackRequest, context: Context
    ) -> AsyncIterator[pb.ExportFeedbackResponse]:
        start = since_1970(request.start_time, "start_time") if request.HasField("start_time") else 0.0
        end = since_1970(request.end_time, "end_time") if request.HasField("end_time") else None
        if self._exports >= MAX_EXPORTS:
            raise ResourceExhausted(
                f"{MAX_EXPORTS} exports are under way already; try again when one has ended",
                reason="TOO_MANY_EXPORTS",
                retry_after=_EXPORT_RETRY_SECONDS,
            )
        self._exports += 1
        # A thread of its own: what one export began, only the same thread may end.
        thread = ThreadPoolExecutor(1, "feedback-export")
        replies = self._replies(start, end, request.experiment, request.collection)
        loop = asyncio.get_running_loop()
        try:
            while (reply := await loop.run_in_executor(thread, next, replies, None)) is not None:
                if answers := [answer for answer in reply.answers if _may_be_read(answer.served.impression)]:
                    yield pb.ExportFeedbackResponse(answers=answers)
        finally:
            thread.submit(replies.close)
            thread.shutdown(wait=False)
            self._exports -= 1

    def _replies(
        self, start: float, end: float | None, experiment: str, collection: str
    ) -> Generator[pb.ExportFeedbackResponse]:
        with self._database.reading_feedback() as records:
            answers: list[pb.AnswerFeedback] = []
            size = 0
            for stored in records.answers_between(start, end, collection):
                answer = _answer(stored)
                exposures = answer.served.impression.exposures
                if experiment and all(exposure.experiment != experiment for exposure in exposures):
                    continue
                answers.append(answer)
                size += answer.ByteSize()
                if size >= _REPLY_BYTES:
                    yield pb.ExportFeedbackResponse(answers=answers)
                    answers, size = [], 0
            if answers:
                yield pb.ExportFeedbackResponse(answers=answers)


def _may_be_read(impression: Impression) -> bool:
    """True for an answer to the caller's own tenant, or to any where it has none, from a collection that it may see."""
    return caller_of().tenant in ("", impression.tenant) and sees(impression.collection)


def _answer(stored: StoredAnswer) -> pb.AnswerFeedback:
    row = stored.impression
    served = pb.ServedImpression(
        impression=Impression.FromString(row.body),
        ending=pb.ImpressionEnding.ValueType(row.ending),
        query=row.query,
        model_token_count=row.token_count,
        arm_durations=[
            duration(seconds) for seconds in (row.first_arm_seconds, row.second_arm_seconds) if seconds is not None
        ],
        missing_arm=row.missing_arm,
    )
    if row.seconds is not None:
        served.duration.CopyFrom(duration(row.seconds))
    return pb.AnswerFeedback(served=served, events=map(_event, stored.events))


def _event(row: EventRow) -> feedback_pb2.Event:
    event = feedback_pb2.Event(
        event_id=row.event_id,
        query_id=row.query_id,
        action=feedback_pb2.EventAction.ValueType(row.action),
        object_id=row.object_id,
        position=row.position,
        client_id=row.client,
        session_id=row.session,
        aspect=row.aspect,
        label=row.label,
        rating=row.rating,
    )
    event.time.FromMicroseconds(row.time)
    return event
