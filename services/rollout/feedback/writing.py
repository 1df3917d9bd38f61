"""The writer of feedback: several requests share a transaction, and each is answered when it is durable.

One thread stores, over a connection of its own. While the database works on one group of requests, the next one
gathers, so groups grow with the load and a lone request waits for nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from services.chassis import logs
from services.chassis.errors import Internal, ResourceExhausted, SluiceError
from services.rollout.feedback.batches import Batch
from services.rollout.feedback.rows import day_of, microseconds
from services.rollout.storage.database import Database

T = TypeVar("T")
MAX_WAITING_BYTES = 8 * 2**20
"""Most bytes of requests that wait, some seconds of the load that one process takes; as rows they are much larger."""
_GROUP_ROWS = 4000
"""Rows of a group: on SQLite a decision may wait as long as one takes."""
_DAYS_AHEAD = 3
_UPKEEP_SECONDS = 600.0
_RETRY_UPKEEP_SECONDS = 60.0
_FORGOTTEN_ROWS = 2000
_RETRY_SECONDS = 0.5

_log = logs.get_logger("feedback")


class Observer(Protocol):
    """Receiver of what was stored, for metrics."""

    def stored(self, batches: Sequence[Batch], duplicate_count: int, seconds: float) -> None:
        """Take the requests of one transaction, their duplicates and the time that it took."""

    def waiting(self, size: int) -> None:
        """Take the bytes of the requests that are not stored yet."""


@dataclass(slots=True)
class _Waiting:
    batch: Batch
    stored: asyncio.Future[list[int]]


class FeedbackWriter:
    """Stores batches, makes days ahead of need, and forgets those that are older than `kept_days`.

    `clock` gives seconds since 1970.
    """

    def __init__(
        self, database: Database, observer: Observer, *, kept_days: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.kept_days = kept_days
        self._database = database
        self._observer = observer
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "feedback-writer")
        self._queue: deque[_Waiting] = deque()
        self._bytes = 0
        self._work: asyncio.Task[None] | None = None
        self._prepared: set[int] = set()

    async def store(self, batch: Batch) -> list[int]:
        """Store a batch; return the places of the events that were there before.

        Raises ResourceExhausted where too much waits already, Unavailable where the database is away.
        """
        if self._bytes and self._bytes + batch.size > MAX_WAITING_BYTES:
            raise ResourceExhausted(
                "more feedback waits than the database takes; send it again later",
                reason="OVERLOADED",
                retry_after=_RETRY_SECONDS,
            )
        waiting = _Waiting(batch, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._weigh(batch.size)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._store_all())
        return await waiting.stored

    async def keep(self, leads: Callable[[], bool]) -> None:
        """Make days and forget old ones, now and again, while this replica leads."""
        while True:
            pause = _UPKEEP_SECONDS
            if not leads():
                pause = 1.0
            else:
                try:
                    await self._in_thread(self._prepare_ahead)
                    # In slices, so that what waits to be stored comes in between.
                    while not await self._in_thread(self._forget):
                        pass
                except SluiceError as error:
                    _log.warning("could not look after the days of feedback", problem=error.message)
                    pause = _RETRY_UPKEEP_SECONDS
                except Exception:
                    _log.exception("could not look after the days of feedback")
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """End when what waits is stored or refused."""
        if self._work is not None:
            await asyncio.wait([self._work])
        await asyncio.to_thread(self._thread.shutdown)

    async def _store_all(self) -> None:
        while self._queue:
            group = self._next_group()
            if not group:
                continue
            outcomes = await self._in_thread(lambda group=group: self._store(group))  # type: ignore[misc]
            for waiting, outcome in zip(group, outcomes, strict=True):
                self._weigh(-waiting.batch.size)
                if waiting.stored.done():
                    continue  # its caller left
                if isinstance(outcome, BaseException):
                    waiting.stored.set_exception(outcome)
                else:
                    waiting.stored.set_result(outcome)

    def _next_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        rows = 0
        while self._queue and (not group or rows + self._queue[0].batch.row_count <= _GROUP_ROWS):
            waiting = self._queue.popleft()
            if waiting.stored.done():
                self._weigh(-waiting.batch.size)
                continue
            rows += waiting.batch.row_count
            group.append(waiting)
        return group

    def _weigh(self, change: int) -> None:
        self._bytes += change
        self._observer.waiting(self._bytes)

    # In the thread

    def _store(self, group: list[_Waiting]) -> list[list[int] | SluiceError]:
        """Store a group in one transaction; where that fails by a fault of one of them, each in its own."""
        try:
            return [*self._commit([waiting.batch for waiting in group])]
        except SluiceError as error:
            self._prepared.clear()  # another database may answer next time, as one from a backup
            return [error] * len(group)
        except Exception:
            self._prepared.clear()  # somebody may have dropped a day
            return [self._store_alone(waiting.batch) for waiting in group]

    def _store_alone(self, batch: Batch) -> list[int] | SluiceError:
        try:
            return self._commit([batch])[0]
        except SluiceError as error:
            return error
        except Exception as error:
            _log.exception("feedback could not be stored")
            return Internal(f"feedback could not be stored: {type(error).__name__}; the log has more")

    def _commit(self, batches: Sequence[Batch]) -> list[list[int]]:
        started = time.perf_counter()
        events = [event for batch in batches for event in batch.events]
        impressions = [row for batch in batches for row in batch.impressions]
        needed = {day_of(row.served_time) for row in impressions} - self._prepared
        if needed:
            self._prepare(needed)
        with self._database.storing_feedback() as records:
            duplicates = records.store(impressions, [row for batch in batches for row in batch.exposures], events)
        self._observer.stored(batches, len(duplicates), time.perf_counter() - started)
        found: list[list[int]] = []
        start = 0
        for batch in batches:
            end = start + len(batch.events)
            found.append([place - start for place in duplicates if start <= place < end])
            start = end
        return found

    def _prepare_ahead(self) -> None:
        today = day_of(microseconds(self._clock()))
        self._prepare(range(today, today + _DAYS_AHEAD))

    def _prepare(self, days: Sequence[int] | set[int] | range) -> None:
        with self._database.storing_feedback() as records:
            records.prepare(sorted(days))
        self._prepared.update(days)

    def _forget(self) -> bool:
        first = day_of(microseconds(self._clock())) - self.kept_days + 1
        with self._database.storing_feedback() as records:
            done: bool = records.forget_before(first, _FORGOTTEN_ROWS)
        self._prepared = {day for day in self._prepared if day >= first}
        return done

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
