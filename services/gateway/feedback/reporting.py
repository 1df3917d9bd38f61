"""Impressions on their way to the control plane, in the background.

Memory is bounded: what finds no room is counted and lost, for reasons that do not depend on the arm. A batch that fails
in a way that may pass is sent again as it is; the control plane stores each impression once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from services.chassis import logs
from services.chassis.errors import SluiceError, kind_of
from services.chassis.timing import in_background
from services.gateway.metrics import GatewayMetrics
from sluice.rollout.v1 import feedback_pb2 as pb

_log = logs.get_logger("feedback")

MOST_WAITING = 10_000
MOST_WAITING_BYTES = 64 * 2**20
MOST_IN_A_BATCH = 500
MOST_BATCH_BYTES = 2 * 2**20
_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 2.0


class Reporting:
    """Sends impressions in batches."""

    def __init__(self, store: Callable[[pb.StoreFeedbackRequest], Awaitable[object]], metrics: GatewayMetrics) -> None:
        """`store` returns when a batch is stored, and raises SluiceError."""
        self._store = store
        self._metrics = metrics
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._unsent: pb.StoreFeedbackRequest | None = None

    def add(self, served: pb.ServedImpression) -> None:
        """Have an impression sent soon."""
        # As bytes: a message takes several times the room.
        raw = served.SerializeToString()
        if len(self._waiting) >= MOST_WAITING or self._waiting_bytes + len(raw) > MOST_WAITING_BYTES:
            self._metrics.impressions.labels("lost").inc()
            return
        self._waiting.append(raw)
        self._waiting_bytes += len(raw)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send in the background, and once more at the end."""
        try:
            async with in_background(self._work()):
                yield
        finally:
            with contextlib.suppress(SluiceError):
                while self._has_some():
                    await self._send()

    async def _work(self) -> None:
        pause = _PAUSE_SECONDS
        while True:
            try:
                await self._send()
                pause = _PAUSE_SECONDS
            except SluiceError as error:
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                _log.debug("impressions not reported", problem=error.message)
            if pause > _PAUSE_SECONDS or len(self._waiting) < MOST_IN_A_BATCH:
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311  # jitter

    def _has_some(self) -> bool:
        return self._unsent is not None or bool(self._waiting)

    async def _send(self) -> None:
        """Send the batch that failed before, or the next one. Raises SluiceError where it may be sent again."""
        if not self._has_some():
            return
        if self._unsent is None:
            self._unsent = self._next()
        count = len(self._unsent.impressions)
        try:
            await self._store(self._unsent)
        except SluiceError as error:
            if kind_of(error).retryable:
                self._metrics.impressions.labels("failed").inc(count)
                raise
            self._metrics.impressions.labels("lost").inc(count)
            _log.error("impressions refused", problem=error.message, code=kind_of(error).code, count=count)
        except Exception as fault:  # the next batch may do
            self._metrics.impressions.labels("lost").inc(count)
            _log.error("unexpected error", exc_info=fault, count=count)
        else:
            self._metrics.impressions.labels("stored").inc(count)
        self._unsent = None

    def _next(self) -> pb.StoreFeedbackRequest:
        batch, size = pb.StoreFeedbackRequest(), 0
        while self._waiting and len(batch.impressions) < MOST_IN_A_BATCH and size < MOST_BATCH_BYTES:
            raw = self._waiting.popleft()
            self._waiting_bytes -= len(raw)
            size += len(raw)
            batch.impressions.add().MergeFromString(raw)
        return batch
