"""FeedbackService: what people did with answers."""

# ruff: noqa: N802, D102  # gRPC's names; the proto says what each RPC does

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import grpc

from services.chassis.access.identity import caller_of
from services.chassis.errors import FailedPrecondition
from services.chassis.timing import deadline_of
from services.gateway.feedback.recording import Recording
from services.gateway.metrics import GatewayMetrics
from services.gateway.rpc.feedback.client import FeedbackClient
from services.gateway.settings import GatewaySettings
from sluice.gateway.v1 import feedback_pb2 as pb
from sluice.gateway.v1 import feedback_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

BULK_METHODS = frozenset({"RecordEvents"})
_PREFIX = "EVENT_REJECTION_REASON_"


class FeedbackServicer(feedback_pb2_grpc.FeedbackServiceServicer):
    """Checks events, and has the control plane store those that count."""

    def __init__(
        self,
        recording: Recording | None,
        client: FeedbackClient | None,
        settings: GatewaySettings,
        metrics: GatewayMetrics,
    ) -> None:
        """Without keys there is no recording, without a rollout service no client: then no feedback is taken."""
        self._recording = recording
        self._client = client
        self._settings = settings
        self._metrics = metrics

    async def RecordEvents(self, request: pb.RecordEventsRequest, context: Context) -> pb.RecordEventsResponse:
        if self._recording is None or self._client is None:
            raise FailedPrecondition(
                "this gateway takes no feedback; set FEEDBACK_KEYS, the same for all gateways, and ROLLOUT_ADDRESS",
                reason="FEEDBACK_OFF",
            )
        deadline = deadline_of(context, self._settings.default_deadline_seconds)
        checked = await self._recording.check(request, caller_of().tenant, time.time_ns() // 1_000)
        duplicates = 0
        if checked.request.events:
            duplicates = await self._client.store(checked.request, deadline=deadline)
        stored = len(checked.request.events) - duplicates
        self._count(checked.rejections, stored, duplicates)
        return pb.RecordEventsResponse(stored_count=stored, duplicate_count=duplicates, rejections=checked.rejections)

    def _count(self, rejections: list[pb.EventRejection], stored: int, duplicates: int) -> None:
        counts = Counter(rejection.reason for rejection in rejections)
        outcomes = {
            pb.EventRejectionReason.Name(reason).removeprefix(_PREFIX).lower(): counts[reason] for reason in counts
        }
        for outcome, count in {"stored": stored, "duplicate": duplicates, **outcomes}.items():
            self._metrics.feedback_events.labels(outcome).inc(count)
