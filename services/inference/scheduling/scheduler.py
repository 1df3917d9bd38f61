"""Calls, deadlines, sharing, admission, and the worker threads with their failures."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Self

from services.chassis.errors import DeadlineExceeded, Internal, ResourceExhausted, SluiceError, Unavailable
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
from services.inference.scheduling.waiting import Entry, LaneQueue, Submission

RATE_MEMORY_SECONDS = 2.0
PUSHBACK_SECONDS = 1.0  # where there is no measured rate to predict from


class Scheduler(Generic[PayloadT, ResultT]):
    """Batches what concurrent callers submit and computes it in threads of its own. An async context manager.

    `tokens_per_second` seeds the measured rate, as from a warm-up; without it nothing is refused for its deadline
    before the first batch. `on_death` is called in the event loop when a worker thread has ended by a fault: the
    scheduler stays unready from then on, and the process had better end.
    """

    def __init__(
        self,
        compute: Compute[PayloadT, ResultT],
        limits: SchedulerLimits,
        observer: SchedulerObserver,
        *,
        on_death: Callable[[BaseException], object],
        tokens_per_second: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._compute = compute
        self._limits = limits
        self._observer = observer
        self._on_death = on_death
        self._clock = clock
        # The event loop and the workers share what follows, under the lock of `_wake`. It is held for microseconds.
        self._wake = threading.Condition(threading.Lock())
        self._not_ready: str | None = "not started"
        self._lanes = {  # in the order in which they go when both have had their share
            Lane.INTERACTIVE: LaneQueue(Lane.INTERACTIVE, 1 - limits.bulk_share),
            Lane.BULK: LaneQueue(Lane.BULK, limits.bulk_share),
        }
        self._in_flight: dict[Hashable, Entry] = {}
        self._cache: OrderedDict[Hashable, ResultT] = OrderedDict()
        self._settled: list[Submission] = []  # what the next `_notify_waiters` wakes
        self._rate = _Rate(tokens_per_second)
        self._running_tokens = 0
        self._arrivals = 0
        self._live_workers = limits.workers + limits.express
        self._bulk_passes = 0

    @property
    def ready(self) -> bool:
        """Whether it takes work: from its start until it is left, or until a worker died."""
        return self._not_ready is None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._not_ready = None
        for number in range(self._live_workers):
            express = number == self._limits.workers
            threading.Thread(target=self._work, args=[express], name=f"compute-{number}", daemon=True).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Computes what is still queued, for `drain_seconds` at most, and ends the workers."""
        with self._wake:
            self._not_ready = self._not_ready or "shutting down"
            self._wake.notify_all()
        try:
            async with asyncio.timeout(self._limits.drain_seconds):
                await self._ended.wait()
        except TimeoutError:
            with self._wake:
                self._fail_everything()
            self._notify_waiters()

    async def submit(
        self, works: Sequence[Work[PayloadT]], *, lane: Lane, caller: str, deadline: float | None = None
    ) -> list[ResultT]:
        """Computes the works and answers their results in the same order: all of them, or an error.

        Args:
            works: Rows for the model.
            lane: Who waits for them.
            caller: Whose share of the lane they use.
            deadline: When the answer will have lost its use, in the seconds of the scheduler's clock; None never.

        Raises:
            ResourceExhausted: Too much waits. Nothing was queued; `retry_after` is when that will be done.
            DeadlineExceeded: The deadline passed first.
            Internal: A row cannot be computed: `metadata["index"]` says which, `__cause__` says why.
            Unavailable: The scheduler is not ready, or died meanwhile.
        """
        submission = self.begin(lane=lane, caller=caller, deadline=deadline)
        self.enter(submission, works)
        return await self.answer(submission)

    def begin(self, *, lane: Lane, caller: str, deadline: float | None = None, foreseen: int = 0) -> Submission:
        """The first third of `submit`, in the event loop: a submission whose works are still being made.

        Whoever makes them calls `enter`, or `fail` where they cannot be made; `answer` is awaited meanwhile. `foreseen`
        is how many tokens they will have at the very least. Raises what `submit` would raise now for so many, and
        keeps room for them: were they counted only when they are made, callers that come together would all make
        theirs, and those who are served would wait for what is then refused.
        """
        expires = math.inf if deadline is None else deadline
        queue = self._lanes[lane]
        with self._wake:
            self._check_room(foreseen, queue, caller, expires)
            queue.foreseen += foreseen
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        return Submission(done, lane, caller, expires, self._observer.call_began(), foreseen=foreseen)

    def enter(self, submission: Submission, works: Sequence[Work[PayloadT]]) -> None:
        """The second third of `submit`, in any thread: queues the works. What it raises, `answer` does not."""
        queue = self._lanes[submission.lane]
        with self._wake:
            if submission.given_up:
                return
            self._forget_foreseen(submission)
            self._admit(works, queue, submission.caller, submission.deadline)
            submission.results = [None] * len(works)
            self._enqueue(submission, works, queue, submission.caller)
            if submission.pending:
                self._wake.notify_all()
                return
        self._tell_loop(_resolve, [submission])

    def fail(self, submission: Submission, error: Exception) -> None:
        """Ends a submission that never entered, in any thread: `answer` raises the error."""
        submission.error = error
        with self._wake:
            self._forget_foreseen(submission)
        self._tell_loop(_resolve, [submission])

    async def answer(self, submission: Submission) -> list[ResultT]:
        """The last third of `submit`, in the event loop."""
        expires = submission.deadline
        try:
            async with asyncio.timeout(None if expires == math.inf else expires - self._clock()):
                await submission.done
        except TimeoutError:
            self._give_up(submission, "expired")
            raise _late() from None
        except asyncio.CancelledError:
            self._give_up(submission, "cancelled")
            raise
        if submission.error is not None:
            raise submission.error
        return submission.results

    def _give_up(self, submission: Submission, reason: DropReason) -> None:
        with self._wake:
            submission.given_up = True
            self._forget_foreseen(submission)
            self._leave(submission, reason)

    def _notify_waiters(self) -> None:
        """Wakes the event loop once for everything settled."""
        with self._wake:
            settled, self._settled = self._settled, []
        if settled:
            self._tell_loop(_resolve, settled)

    def _tell_loop(self, callback: Callable[..., object], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone, and everybody who waited in it
            self._loop.call_soon_threadsafe(callback, *args)

    # Admission. From here to the worker's part, the lock is held.

    def _forget_foreseen(self, submission: Submission) -> None:
        self._lanes[submission.lane].foreseen -= submission.foreseen
        submission.foreseen = 0

    def _admit(self, works: Sequence[Work[PayloadT]], queue: LaneQueue, caller: str, expires: float) -> None:
        """Lets all of the works in, or raises."""
        lengths = {work.key: work.token_count for work in works}
        demand = sum(length for key, length in lengths.items() if self._needs_room(key, queue))
        self._check_room(demand, queue, caller, expires)

    def _check_room(self, demand: int, queue: LaneQueue, caller: str, expires: float) -> None:
        now = self._clock()
        if self._not_ready is not None:
            raise _unavailable(self._not_ready)
        if expires <= now:
            raise _late()
        if not demand:
            return
        seconds = self._predicted_seconds(queue, caller, demand)
        limit = self._limits.queued_tokens
        if demand > limit:
            self._observer.refused(queue.lane, "too_large")
            raise ResourceExhausted(
                f"{demand} tokens in one call, where {limit} may wait: split it", reason="TOO_LARGE"
            )
        # A caller's bound shrinks as the lane fills, which keeps room for others (dynamic thresholds, Choudhury and
        # Hahne, 1998).
        if queue.tokens_of(caller) + demand > limit - queue.tokens - queue.foreseen:
            self._observer.refused(queue.lane, "full")
            raise ResourceExhausted(
                f"the {queue.lane.value} lane is full", reason="QUEUE_FULL", retry_after=seconds or PUSHBACK_SECONDS
            )
        # With nothing in flight even the hopeless is let in: a rate measured during a stall must be able to recover.
        if self._in_flight and seconds is not None and now + seconds > expires:
            self._observer.refused(queue.lane, "late")
            raise ResourceExhausted(
                f"the answer would take about {seconds:.3f} s, and {expires - now:.3f} s are left",
                retry_after=seconds,
            )

    def _needs_room(self, key: Hashable, queue: LaneQueue) -> bool:
        entry = self._in_flight.get(key)
        if entry is None:
            return key not in self._cache
        return entry.queue is not None and entry.queue is not queue and queue.lane is Lane.INTERACTIVE

    def _predicted_seconds(self, queue: LaneQueue, caller: str, demand: int) -> float | None:
        """How long until `demand` more tokens of this caller are done; None before a rate was measured.

        Fairness bounds what is ahead of them: until then no other caller gets more than this one, nor the other lane
        more than its share.
        """
        rate = self._rate.tokens_per_second
        if rate is None:
            return None
        own = queue.tokens_of(caller) + demand
        callers = len(queue.accounts) + (caller not in queue.accounts)
        ahead: float = min(queue.tokens + demand, callers * own)
        other_lanes = sum(lane.tokens for lane in self._lanes.values()) - queue.tokens
        ahead += min(other_lanes, ahead * (1 - queue.share) / queue.share)
        return (self._running_tokens + ahead) / (rate * self._limits.workers)

    # Queueing and sharing.

    def _enqueue(self, submission: Submission, works: Sequence[Work[PayloadT]], queue: LaneQueue, caller: str) -> None:
        now = self._clock()
        cached = shared = 0
        for index, work in enumerate(works):
            if work.key in self._cache:
                self._cache.move_to_end(work.key)
                submission.results[index] = self._cache[work.key]
                cached += 1
                continue
            entry = self._in_flight.get(work.key)
            if entry is None:
                self._arrivals += 1
                entry = self._in_flight[work.key] = Entry(work, self._arrivals, now)
                self._add(entry, queue, caller)
            else:
                shared += 1
                self._hasten(entry, queue, caller)
            entry.waiters.setdefault(submission, []).append(index)
            submission.pending.add(entry)
        self._observer.reused(len(works), cached, shared)
        self._report_queue(queue)

    def _add(self, entry: Entry, queue: LaneQueue, caller: str) -> None:
        if not queue.entries:
            # A lane saves up no credit while it wants nothing.
            queue.used = max(lane.used for lane in self._lanes.values())
        queue.add(entry, caller)

    def _hasten(self, entry: Entry, queue: LaneQueue, caller: str) -> None:
        """Moves a queued entry to where its new waiter would have put it, if it runs sooner there."""
        previous = entry.queue
        if previous is None:
            return
        if previous is queue:
            sooner = queue.next_turn(caller, entry.work.token_count) < entry.turn
        else:
            sooner = queue.lane is Lane.INTERACTIVE
        if sooner:
            previous.discard(entry)
            self._add(entry, queue, caller)
            self._report_queue(previous)

    def _leave(self, submission: Submission, reason: DropReason) -> None:
        """Takes the submission off all it waits for; an entry that then nobody waits for leaves the queue."""
        for entry in submission.pending:
            del entry.waiters[submission]
            queue = entry.queue
            if queue is not None and not entry.waiters:
                queue.discard(entry)
                del self._in_flight[entry.work.key]
                self._observer.dropped(queue.lane, reason)
                self._report_queue(queue)
        submission.pending.clear()

    def _fail(self, submission: Submission, error: SluiceError, reason: DropReason) -> None:
        self._leave(submission, reason)
        submission.error = error
        self._settled.append(submission)

    def _fail_everything(self) -> None:
        for submission in {waiter for entry in self._in_flight.values() for waiter in entry.waiters}:
            self._fail(submission, _unavailable(self._not_ready), "failed")
        self._in_flight.clear()

    def _report_queue(self, queue: LaneQueue) -> None:
        self._observer.queue_changed(queue.lane, queue.entries, queue.tokens)

    # Batches.

    def _take(self, queue: LaneQueue) -> _Batch:
        now = self._clock()
        batch_tokens, rate = self._limits.batch_tokens, self._rate.tokens_per_second
        if queue.lane is Lane.BULK and rate is not None:
            batch_tokens = min(batch_tokens, int(rate * self._limits.bulk_pass_seconds))
        entries = []
        for entry in queue.take(batch_tokens, self._limits):
            if any(waiter.deadline > now for waiter in entry.waiters):
                entries.append(entry)
                continue
            # Expired, and the event loop is late with its own timers.
            del self._in_flight[entry.work.key]
            self._observer.dropped(queue.lane, "expired")
            for waiter in list(entry.waiters):
                self._fail(waiter, _late(), "expired")
        self._report_queue(queue)
        lengths = [entry.work.token_count for entry in entries]
        batch = _Batch(queue.lane, entries, sum(lengths), len(lengths) * max(lengths, default=0), now)
        queue.used += batch.padded_tokens / queue.share
        self._running_tokens += batch.tokens
        return batch

    def _settle(self, entry: Entry, outcome: ResultT | _Failure) -> None:
        self._in_flight.pop(entry.work.key, None)
        waiters, entry.waiters = entry.waiters, {}
        for submission, indices in waiters.items():
            submission.pending.discard(entry)
            if isinstance(outcome, _Failure):
                self._fail(submission, _row_failed(indices[0], outcome.cause), "failed")
                continue
            for index in indices:
                submission.results[index] = outcome
            if not submission.pending:
                self._settled.append(submission)
        if not isinstance(outcome, _Failure) and self._limits.cache_entries:
            self._cache[entry.work.key] = outcome
            if len(self._cache) > self._limits.cache_entries:
                self._cache.popitem(last=False)

    # The worker's part. These take the lock themselves.

    def _work(self, express: bool) -> None:
        try:
            while batch := self._next_batch(express):
                self._finish(batch, self._outcomes(batch.entries))
        except BaseException as error:  # whatever ends this thread ends the stage, SystemExit too
            with self._wake:
                self._not_ready = "a worker died"
                self._fail_everything()
                self._wake.notify_all()
            self._notify_waiters()
            self._tell_loop(self._on_death, error)
        finally:
            self._tell_loop(self._worker_ended)

    def _worker_ended(self) -> None:
        self._live_workers -= 1
        if not self._live_workers:
            self._ended.set()

    def _next_batch(self, express: bool) -> _Batch | None:
        """Waits for work and takes a batch of it; None when there is none and none will come."""
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
            self._notify_waiters()

    def _takable(self, express: bool) -> list[LaneQueue]:
        """The lanes from which a worker, or the express, may take now."""
        if express:
            interactive = self._lanes[Lane.INTERACTIVE]
            return [interactive] if interactive.entries and self._bulk_passes == self._limits.workers else []
        return [lane for lane in self._lanes.values() if lane.entries]

    def _outcomes(self, entries: Sequence[Entry]) -> list[ResultT | _Failure]:
        """Computes the entries; where that fails, each half alone, until only the culprits have failed."""
        try:
            results = self._compute([entry.work.payload for entry in entries])
            if len(results) != len(entries):
                raise RuntimeError(f"compute answered {len(results)} results for {len(entries)} rows")
            return list(results)
        except MemoryError:
            raise
        except Exception as error:
            if len(entries) == 1:
                return [_Failure(error)]
        half = len(entries) // 2
        return self._outcomes(entries[:half]) + self._outcomes(entries[half:])

    def _finish(self, batch: _Batch, outcomes: Sequence[ResultT | _Failure]) -> None:
        seconds = self._clock() - batch.started
        waited = batch.started - batch.entries[0].since
        with self._wake:
            waiters = dict.fromkeys(waiter for entry in batch.entries for waiter in entry.waiters)
        # Before anybody is told, so that the calls are still under way when they learn of their batch.
        self._observer.batch_finished(
            BatchReport(
                batch.lane,
                len(outcomes),
                batch.tokens,
                batch.padded_tokens,
                waited,
                seconds,
                failed_rows=sum(isinstance(outcome, _Failure) for outcome in outcomes),
                origins=tuple(waiter.origin for waiter in waiters if waiter.origin is not None),
            )
        )
        with self._wake:
            self._rate.add(batch.tokens, seconds)
            self._running_tokens -= batch.tokens
            self._bulk_passes -= batch.lane is Lane.BULK
            for entry, outcome in zip(batch.entries, outcomes, strict=True):
                self._settle(entry, outcome)
        self._notify_waiters()


@dataclass(frozen=True, slots=True)
class _Batch:
    lane: Lane
    entries: list[Entry]
    tokens: int
    padded_tokens: int
    started: float


@dataclass(frozen=True, slots=True)
class _Failure:
    cause: Exception


class _Rate:
    """Tokens a second of one worker, over about the last RATE_MEMORY_SECONDS of compute."""

    def __init__(self, tokens_per_second: float | None) -> None:
        self._seconds = RATE_MEMORY_SECONDS if tokens_per_second else 0.0
        self._tokens = (tokens_per_second or 0.0) * self._seconds

    def add(self, tokens: int, seconds: float) -> None:
        fading = math.exp(-seconds / RATE_MEMORY_SECONDS)
        self._tokens = self._tokens * fading + tokens
        self._seconds = self._seconds * fading + seconds

    @property
    def tokens_per_second(self) -> float | None:
        return self._tokens / self._seconds if self._seconds > 0 else None


def _resolve(submissions: Iterable[Submission]) -> None:
    for submission in submissions:
        if not submission.done.done():
            submission.done.set_result(None)


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before the model was done")


def _unavailable(why: str | None) -> Unavailable:
    return Unavailable(f"the scheduler does no work: {why}", reason="NOT_READY")


def _row_failed(index: int, cause: Exception) -> Internal:
    error = Internal(f"row {index} cannot be computed", reason="ROW_FAILED", index=str(index))
    error.__cause__ = cause
    return error
