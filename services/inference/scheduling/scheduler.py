"""Calls, deadlines, sharing, admission, and the worker threads with their failures."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Generic, Self

from services.chassis.errors import DeadlineExceeded, InvalidArgument, SluiceError, Unavailable
from services.inference.scheduling.admission import Admission
from services.inference.scheduling.contract import (
    BatchReport,
    Compute,
    DropReason,
    Lane,
    PayloadT,
    ResultT,
    SchedulerLimits,
    SchedulerObserver,
    Work,
)
from services.inference.scheduling.outcomes import Failure, ResultCache, outcomes_of
from services.inference.scheduling.sharing import InFlight
from services.inference.scheduling.waiting import Entry, LaneQueue, Lanes, Submission


class Scheduler(Generic[PayloadT, ResultT]):
    """Batches the works of concurrent callers and computes them in threads of its own. An async context manager.

    `tokens_per_second` seeds the measured rate; without it nothing is refused for its deadline before the first batch.
    `on_death` is called in the event loop when a fault has ended a worker thread: the scheduler then stays unready, and
    the process should end. A fault is also an engine that fails with a row that it has computed before. `row_field` is
    the field of the request that holds the rows, for errors.
    """

    def __init__(
        self,
        compute: Compute[PayloadT, ResultT],
        limits: SchedulerLimits,
        observer: SchedulerObserver,
        *,
        on_death: Callable[[BaseException], object],
        row_field: str = "rows",
        tokens_per_second: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._compute = compute
        self._limits = limits
        self._observer = observer
        self._on_death = on_death
        self._row_field = row_field
        self._proven: Work[PayloadT] | None = None  # the shortest work that was computed
        self._clock = clock
        # The event loop and the workers share all below, under the lock of `_wake`. It is held for microseconds.
        self._wake = threading.Condition(threading.Lock())
        self._not_ready: str | None = "not started"
        self._lanes = Lanes(limits.bulk_share)
        self._in_flight: InFlight[ResultT] = InFlight(self._lanes, ResultCache(limits.cache_entries), observer, clock)
        self._settled: list[Submission] = []  # to be woken by the next `_notify_callers`
        self._round_tokens = limits.batch_tokens * limits.workers
        self._admission = Admission(self._lanes, limits, tokens_per_second, clock)
        self._live_workers = limits.workers + limits.express
        self._bulk_passes = 0

    @property
    def ready(self) -> bool:
        """True while it accepts work: from its start until its end, or until a worker died."""
        return self._not_ready is None

    @property
    def idle(self) -> bool:
        """True if nothing is queued, expected or being computed."""
        return not (self._in_flight or self._admission.running_tokens) and self._lanes.idle

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._not_ready = None
        for number in range(self._live_workers):
            express = number == self._limits.workers
            threading.Thread(target=self._work, args=[express], name=f"compute-{number}", daemon=True).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Compute the queued work, for `drain_seconds` at most, and end the workers."""
        with self._wake:
            self._not_ready = self._not_ready or "shutting down"
            self._wake.notify_all()
        try:
            async with asyncio.timeout(self._limits.drain_seconds):
                await self._ended.wait()
        except TimeoutError:
            with self._wake:
                self._fail_everything()
            self._notify_callers()

    async def submit(
        self,
        works: Sequence[Work[PayloadT]],
        *,
        lane: Lane,
        caller: str,
        deadline: float | None = None,
        partial: bool = False,
    ) -> list[ResultT]:
        """Compute works and return their results in the same order: all of them, or an error.

        With `partial` the works are queued in their order, in rounds of about one batch for each worker. The answer
        ends with the last round that there is room and time for, and at the deadline: it then has the results of the
        first works, at least one.

        Args:
            works: Rows for the model.
            lane: Priority of the call.
            caller: The caller whose share of the lane they use.
            deadline: Time at which the answer loses its use, in the seconds of the scheduler's clock; None never.
            partial: True to get the results of the first works alone where there is no room or time for all.

        Raises:
            ResourceExhausted: Too much waits. Nothing was queued; `retry_after` is when that will be done.
            DeadlineExceeded: The deadline passed first, with `partial` before the first work was done.
            InvalidArgument: A row cannot be computed (ROW_FAILED): `field` says which, `__cause__` says why.
            Unavailable: The scheduler is not ready, or died meanwhile.
        """
        submission = self.begin(lane=lane, caller=caller, deadline=deadline, partial=partial)
        self.enter(submission, works)
        return await self.answer(submission)

    def begin(
        self,
        *,
        lane: Lane,
        caller: str,
        deadline: float | None = None,
        expected_tokens: int = 0,
        partial: bool = False,
    ) -> Submission:
        """Begin a submission whose works are still being made. The first third of `submit`, in the event loop.

        The works follow by `enter`, or `fail` if they cannot be made; `answer` is awaited meanwhile. `expected_tokens`
        is a lower bound of their tokens. Raises what `submit` would raise now for that many, and keeps room for them:
        otherwise callers that arrive together would all make their works, only for most of them to be refused.
        """
        expires = math.inf if deadline is None else deadline
        queue = self._lanes[lane]
        if partial:
            expected_tokens = min(expected_tokens, self._round_tokens)
        with self._wake:
            self._check_room(expected_tokens, queue, caller, expires)
            queue.expected_tokens += expected_tokens
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        origin = self._observer.call_began()
        return Submission(done, lane, caller, expires, origin, expected_tokens=expected_tokens, partial=partial)

    def enter(self, submission: Submission, works: Sequence[Work[PayloadT]]) -> None:
        """Queue the works. The second third of `submit`, in any thread. `answer` does not raise what this raises."""
        with self._wake:
            if submission.abandoned:
                return
            self._release_expected(submission)
            submission.works, submission.results = works, [None] * len(works)
            self._admit(submission, works[:1] if submission.partial else works)
            self._in_flight.enqueue(submission, 1 if submission.partial else len(works))
            if self._go_on(submission):
                self._wake.notify_all()
                return
        self._call_in_loop(_resolve, [submission])

    def fail(self, submission: Submission, error: Exception) -> None:
        """End a submission that never entered, in any thread: `answer` raises the error."""
        submission.error = error
        with self._wake:
            self._release_expected(submission)
        self._call_in_loop(_resolve, [submission])

    async def answer(self, submission: Submission) -> list[ResultT]:
        """Wait for the results. The last third of `submit`, in the event loop."""
        expires = submission.deadline
        try:
            async with asyncio.timeout(None if expires == math.inf else expires - self._clock()):
                await submission.done
        except TimeoutError:
            with self._wake:
                self._abandon(submission)
                self._expire(submission)
        except asyncio.CancelledError:
            with self._wake:
                self._abandon(submission)
                self._in_flight.withdraw(submission, "cancelled")
            raise
        if submission.error is not None:
            raise submission.error
        return submission.results

    def _notify_callers(self) -> None:
        """Wake the event loop once for everything settled."""
        with self._wake:
            settled, self._settled = self._settled, []
        if settled:
            self._call_in_loop(_resolve, settled)

    def _call_in_loop(self, callback: Callable[..., object], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and every caller with it
            self._loop.call_soon_threadsafe(callback, *args)

    # Admission. From here to the workers' part, the lock is held.

    def _abandon(self, submission: Submission) -> None:
        submission.abandoned = True
        self._release_expected(submission)

    def _release_expected(self, submission: Submission) -> None:
        self._lanes[submission.lane].expected_tokens -= submission.expected_tokens
        submission.expected_tokens = 0

    def _admit(self, submission: Submission, works: Sequence[Work[PayloadT]]) -> None:
        """Accept all of the works, or raise."""
        queue = self._lanes[submission.lane]
        lengths = {work.key: work.token_count for work in works}
        demand = sum(length for key, length in lengths.items() if self._in_flight.needs_room(key, queue))
        self._check_room(demand, queue, submission.caller, submission.deadline)

    def _check_room(self, demand: int, queue: LaneQueue, caller: str, expires: float) -> None:
        if self._not_ready is not None:
            raise _unavailable(self._not_ready)
        if expires <= self._clock():
            raise _deadline_passed()
        # With nothing in flight even a hopeless call is accepted: a rate measured during a stall must recover.
        refusal = self._admission.refusal(demand, queue, caller, expires, hopeless=not self._in_flight)
        if refusal is not None:
            self._observer.refused(queue.lane, refusal.reason)
            raise refusal.error

    # Rounds and ends of submissions.

    def _go_on(self, submission: Submission) -> bool:
        """Queue the next works of a partial submission, and return False if it waits for none: it has its answer."""
        if submission.partial:
            queue = self._lanes[submission.lane]
            waiting = sum(entry.work.token_count for entry in submission.pending)
            count = demand = 0
            for work in submission.works[submission.begun :]:
                own = work.token_count if self._in_flight.needs_room(work.key, queue) else 0
                tokens = waiting + demand
                if tokens and tokens + own > self._round_tokens:
                    break
                if self._admission.refusal(demand + own, queue, submission.caller, submission.deadline) is not None:
                    break
                count, demand = count + 1, demand + own
            if count:
                self._in_flight.enqueue(submission, count)
                self._wake.notify_all()
            if not submission.pending:
                submission.results = submission.results[: submission.begun]
        return bool(submission.pending)

    def _expire(self, submission: Submission) -> None:
        """End a submission at its deadline: a partial one keeps the results of its first works."""
        done = submission.first_done if submission.partial else 0
        self._in_flight.withdraw(submission, "expired")
        submission.results = submission.results[:done]
        if not done:
            submission.error = _deadline_passed()

    def _fail(self, submission: Submission, error: SluiceError, reason: DropReason) -> None:
        self._in_flight.withdraw(submission, reason)
        submission.error = error
        self._settled.append(submission)

    def _fail_everything(self) -> None:
        for submission in self._in_flight.waiters:
            self._fail(submission, _unavailable(self._not_ready), "failed")
        self._in_flight.clear()

    # Batches.

    def _take(self, queue: LaneQueue) -> _Batch:
        now = self._clock()
        batch_tokens, rate = self._limits.batch_tokens, self._admission.tokens_per_second
        if queue.lane is Lane.BULK and rate is not None:
            batch_tokens = min(batch_tokens, int(rate * self._limits.bulk_pass_seconds))
        entries = []
        for entry in queue.take(batch_tokens, self._limits):
            if any(waiter.deadline > now for waiter in entry.waiters):
                entries.append(entry)
                continue
            # Expired, and the event loop has not come to its timer yet.
            self._in_flight.drop(entry, queue, "expired")
            for waiter in list(entry.waiters):
                self._expire(waiter)
                self._settled.append(waiter)
        self._in_flight.report(queue)
        lengths = [entry.work.token_count for entry in entries]
        batch = _Batch(queue.lane, entries, sum(lengths), len(lengths) * max(lengths, default=0), now)
        queue.used += batch.padded_tokens / queue.share
        self._admission.began(batch.tokens)
        return batch

    def _settle(self, entry: Entry, outcome: ResultT | Failure) -> Iterable[Submission]:
        """Hand out an outcome; return the submissions that have a result by it."""
        waiters = self._in_flight.settle(entry)
        if isinstance(outcome, Failure):
            for submission, indices in waiters.items():
                self._fail(submission, row_failed(self._row_field, indices[0], outcome.cause), "failed")
            return ()
        for submission, indices in waiters.items():
            for index in indices:
                submission.results[index] = outcome
        self._in_flight.keep(entry.work.key, outcome)
        if self._proven is None or entry.work.token_count < self._proven.token_count:
            self._proven = entry.work
        return waiters

    # The workers' part. These take the lock themselves.

    def _work(self, express: bool) -> None:
        try:
            while batch := self._next_batch(express):
                with self._turn_for(batch.lane):
                    # The wait for a turn says nothing about the model's rate.
                    batch = replace(batch, started=self._clock())
                    outcomes = outcomes_of(self._compute, [entry.work.payload for entry in batch.entries])
                self._check_engine(outcomes)
                self._finish(batch, outcomes)
        except BaseException as error:  # whatever ends this thread ends the stage, SystemExit too
            with self._wake:
                self._not_ready = "a worker died"
                self._fail_everything()
                self._wake.notify_all()
            self._notify_callers()
            self._call_in_loop(self._on_death, error)
        finally:
            self._call_in_loop(self._worker_ended)

    def _turn_for(self, lane: Lane) -> AbstractContextManager[None]:
        turn = self._limits.bulk_turn
        return turn if turn is not None and lane is Lane.BULK else contextlib.nullcontext()

    def _check_engine(self, outcomes: Sequence[ResultT | Failure]) -> None:
        """Raise if nothing of a batch was computed, and a row that was computed before fails as well."""
        proven = self._proven
        if proven is None or not all(isinstance(outcome, Failure) for outcome in outcomes):
            return
        again = outcomes_of(self._compute, [proven.payload])[0]
        if isinstance(again, Failure):
            raise again.cause

    def _worker_ended(self) -> None:
        self._live_workers -= 1
        if not self._live_workers:
            self._ended.set()

    def _next_batch(self, express: bool) -> _Batch | None:
        """Wait for work and take a batch of it; None when there is none and none will come."""
        while True:
            with self._wake:
                while not (waiting := self._takable(express)):
                    if self._not_ready is not None:
                        return None
                    self._wake.wait()
                batch = self._take(min(waiting, key=lambda lane: lane.used))
                if batch.lane is Lane.BULK and batch.entries:
                    self._bulk_passes += 1
                    self._wake.notify_all()  # the express may go now
            if batch.entries:
                return batch
            self._notify_callers()

    def _takable(self, express: bool) -> list[LaneQueue]:
        """Lanes from which a worker, or the express, may take now."""
        if express:
            interactive = self._lanes[Lane.INTERACTIVE]
            return [interactive] if interactive.entries and self._bulk_passes == self._limits.workers else []
        return self._lanes.waiting()

    def _finish(self, batch: _Batch, outcomes: Sequence[ResultT | Failure]) -> None:
        seconds = self._clock() - batch.started
        waited = batch.started - batch.entries[0].since
        with self._wake:
            waiters = dict.fromkeys(waiter for entry in batch.entries for waiter in entry.waiters)
        # Before the callers are woken, so that their calls are still under way when they learn of their batch.
        self._observer.batch_finished(
            BatchReport(
                batch.lane,
                len(outcomes),
                batch.tokens,
                batch.padded_tokens,
                waited,
                seconds,
                failed_rows=sum(isinstance(outcome, Failure) for outcome in outcomes),
                origins=tuple(waiter.origin for waiter in waiters if waiter.origin is not None),
            )
        )
        with self._wake:
            self._admission.ended(batch.tokens, seconds)
            self._bulk_passes -= batch.lane is Lane.BULK
            served: dict[Submission, None] = {}
            for entry, outcome in zip(batch.entries, outcomes, strict=True):
                served |= dict.fromkeys(self._settle(entry, outcome))
            self._settled += [one for one in served if one.error is None and not self._go_on(one)]
        self._notify_callers()


@dataclass(frozen=True, slots=True)
class _Batch:
    lane: Lane
    entries: list[Entry]
    tokens: int
    padded_tokens: int
    started: float


def _resolve(submissions: Iterable[Submission]) -> None:
    for submission in submissions:
        if not submission.done.done():
            submission.done.set_result(None)


def _deadline_passed() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before the model was done")


def _unavailable(why: str | None) -> Unavailable:
    return Unavailable(f"the scheduler does no work: {why}", reason="NOT_READY")


def row_failed(field: str, index: int, cause: Exception) -> InvalidArgument:
    """The error for a row of a request that cannot be computed."""
    error = InvalidArgument(f"{field}[{index}]", "the model cannot compute it", reason="ROW_FAILED")
    error.__cause__ = cause
    return error
