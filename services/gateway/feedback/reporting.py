"""Impressions on their way to the control plane, in the background.

Memory is bounded: what finds no room is counted and lost, for reasons that do not depend on the arm. A batch that fails
in a way that may pass is sent again as it is; the control plane stores each impression once. One that is refused, or
that the control plane fails over again and again, is sent in halves, until the impression at fault is alone: it is
lost, and nothing beside it or after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.chassis import logs
from services.chassis.errors import Internal, InvalidArgument, SluiceError, kind_of
from services.chassis.timing import in_background
from services.gateway.metrics import GatewayMetrics
from sluice.rollout.v1 import feedback_pb2 as pb

_log = logs.get_logger("feedback")

MOST_WAITING = 10_000
MOST_WAITING_BYTES = 64 * 2**20
MOST_IN_A_BATCH = 500
MOST_BATCH_BYTES = 2 * 2**20
MOST_FAULTS = 5
"""Faults of the control plane over a batch, after which the batch counts as their cause: a fault of some seconds loses
nothing."""
_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 2.0


@dataclass(slots=True)
class _Batch:
    """Impressions that are sent together."""

    request: pb.StoreFeedbackRequest
    faults: int = 0
    """Faults of the control plane over it, and over what it is a half of."""

    def halves(self) -> list[_Batch]:
        """Both halves, the first one last; none of a single impression."""
        every = self.request.impressions
        middle = len(every) // 2
        parts = (every[middle:], every[:middle]) if middle else ()
        return [_Batch(pb.StoreFeedbackRequest(impressions=part), self.faults) for part in parts]


class Reporting:
    """Sends impressions in batches."""

    def __init__(self, store: Callable[[pb.StoreFeedbackRequest], Awaitable[object]], metrics: GatewayMetrics) -> None:
        """`store` returns when a batch is stored, and raises SluiceError."""
        self._store = store
        self._metrics = metrics
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._unsent: list[_Batch] = []
        """A batch that is under way, or what is left of it; the last part is sent next."""
        self._lost = 0
        """Impressions of that batch that are lost."""
        self._problem: Exception | None = None
        """The reason for the last of them."""

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
            if pause > _PAUSE_SECONDS or not (self._unsent or len(self._waiting) >= MOST_IN_A_BATCH):
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311  # jitter

    def _has_some(self) -> bool:
        return bool(self._unsent or self._waiting)

    async def _send(self) -> None:
        """Send the batch that failed before, or the next one. Raises SluiceError where a pause may help."""
        if not self._has_some():
            return
        if not self._unsent:
            self._unsent.append(_Batch(self._next()))
        batch = self._unsent[-1]
        problem: Exception | None = None
        left: list[_Batch] = []
        try:
            await self._store(batch.request)
        except SluiceError as error:
            problem, left = error, _left_of(batch, error)
        except Exception as fault:  # the next batch may do
            problem = fault
        self._unsent[-1:] = left
        count = len(batch.request.impressions)
        if problem is None:
            self._metrics.impressions.labels("stored").inc(count)
        elif left:
            self._metrics.impressions.labels("failed").inc(count)
        else:
            self._lose(count, problem)
        if not self._unsent:
            self._tell()
        if isinstance(problem, SluiceError) and kind_of(problem).retryable:
            raise problem

    def _lose(self, count: int, problem: Exception) -> None:
        self._metrics.impressions.labels("lost").inc(count)
        self._lost += count
        self._problem = problem

    def _tell(self) -> None:
        """Log what a batch lost: once, however many parts it was sent in."""
        if (problem := self._problem) is None:
            return
        known = isinstance(problem, SluiceError)
        code = kind_of(problem).code
        _log.error(
            "impressions lost", problem=str(problem), code=code, count=self._lost, exc_info=None if known else problem
        )
        self._lost, self._problem = 0, None

    def _next(self) -> pb.StoreFeedbackRequest:
        batch, size = pb.StoreFeedbackRequest(), 0
        while self._waiting and len(batch.impressions) < MOST_IN_A_BATCH and size < MOST_BATCH_BYTES:
            raw = self._waiting.popleft()
            self._waiting_bytes -= len(raw)
            size += len(raw)
            batch.impressions.add().MergeFromString(raw)
        return batch


def _left_of(batch: _Batch, error: SluiceError) -> list[_Batch]:
    """The batches that are still to be sent of one that failed, the next one last; none where all of it is lost."""
    if isinstance(error, Internal):
        batch.faults += 1
    if isinstance(error, InvalidArgument) or (isinstance(error, Internal) and batch.faults >= MOST_FAULTS):
        return batch.halves()
    return [batch] if kind_of(error).retryable else []
