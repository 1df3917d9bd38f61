"""One scheduler for every model stage: concurrent calls in, short well-filled batches out.

    submit ──▶ cache ──▶ admission ──▶ lane ──▶ worker thread ──▶ compute ──▶ one wake-up of the event loop
               or the same key in flight       (fair between callers, indexed by length)

There is no timer. Whatever waits when a worker becomes free is its next batch, and the worker picks that batch by
itself, so a model with work waiting never idles. It knows nothing of texts, models or grpc.

- *Between lanes*, the one that has had less machine time for its share goes first; bulk passes are kept short.
- *Between callers*, self-clocked fair queueing (Golestani, 1994): every entry gets a turn, the number of tokens its
  caller will have had by then, and the lowest turn leads the next batch.
- *Within a batch*, rows of about the leader's length, nearest first, join as long as the padding that each adds costs
  less than the pass that it saves.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

from services.common.errors import DeadlineExceeded, Internal, ResourceExhausted, SluiceError, Unavailable

PayloadT = TypeVar("PayloadT")
ResultT = TypeVar("ResultT")

Compute = Callable[[Sequence[PayloadT]], Sequence[ResultT]]
"""Blocking; called in a worker thread (in several at once if there are several workers), with rows of similar length.
Answers one result a row, each owning its memory: a view would keep its whole batch alive in the cache."""

RATE_MEMORY_SECONDS = 2.0
PUSHBACK_SECONDS = 1.0  # when there is no measured rate to predict from


class Lane(Enum):
    """Who waits: a person, or a job. In this order where both have had their share."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


@dataclass(frozen=True, slots=True)
class Work(Generic[PayloadT]):
    """One row for the model. Works with the same key are the same computation, and done once."""

    key: Hashable
    """Names the result: model fingerprint, kind and content."""
    payload: PayloadT
    """What `compute` gets, already tokenized."""
    token_count: int
    """Tokens before padding."""


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Defaults measured with all-MiniLM-L6-v2, fp32, ONNX Runtime, on 2 cores (about 8,000 tokens/s)."""

    batch_tokens: int = 512
    """Largest batch, in padded tokens: rows times the longest row. A longer single row still runs, alone."""
    padding_tokens: int = 16
    """Padding that a row may add to a batch: the tokens that one more pass costs (2 ms there, 17 tokens)."""
    bulk_pass_seconds: float = 0.025
    """Time that one pass of the bulk lane aims at: what an arrival in the other lane may have to wait for."""
    bulk_share: float = 0.2
    """Share of the machine that the bulk lane gets while the other lane wants all of it. Between 0 and 1."""
    run_ahead_tokens: int = 8192
    """How far ahead of its turn a row may run because its length fits: less is fairer, more pads less."""
    queued_tokens: int = 262_144
    """Tokens that may wait in one lane. A caller may fill half of what the others leave free."""
    cache_entries: int = 4096
    """Results kept, least recently used go first; 0 keeps none."""
    workers: int = 1
    """Threads that call `compute`. One is right where the runtime itself uses all cores."""
    drain_seconds: float = 10.0
    """How long leaving the scheduler waits for what is still queued."""


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One pass through the model."""

    lane: Lane
    rows: int
    tokens: int
    padded_tokens: int
    waited_seconds: float
    """How long the row that led the batch had waited."""
    compute_seconds: float


DropReason = Literal["cancelled", "expired", "failed"]
RefusalReason = Literal["late", "full", "too_large"]


class SchedulerObserver(Protocol):
    """Told what happens, by the event loop and by workers, under the scheduler's lock: quick, and never raises."""

    def queue_changed(self, lane: Lane, entries: int, tokens: int) -> None:
        """So much waits in this lane now."""

    def batch_finished(self, report: BatchReport) -> None:
        """A pass ended, well or not."""

    def reused(self, cached: int, shared: int) -> None:
        """Works answered from the cache, or that joined the same key in flight."""

    def dropped(self, lane: Lane, reason: DropReason) -> None:
        """An entry left the queue uncomputed, as nobody waits for it any more."""

    def refused(self, lane: Lane, reason: RefusalReason) -> None:
        """A whole submit was turned away."""


class NullObserver:
    """Looks away."""

    def queue_changed(self, lane: Lane, entries: int, tokens: int) -> None:
        """Nothing."""

    def batch_finished(self, report: BatchReport) -> None:
        """Nothing."""

    def reused(self, cached: int, shared: int) -> None:
        """Nothing."""

    def dropped(self, lane: Lane, reason: DropReason) -> None:
        """Nothing."""

    def refused(self, lane: Lane, reason: RefusalReason) -> None:
        """Nothing."""


@dataclass(eq=False, slots=True)
class _Submission:
    """One call of `submit` while it waits."""

    done: asyncio.Future[None]
    deadline: float
    results: list[Any]
    pending: set[_Entry] = field(default_factory=set)
    error: SluiceError | None = None


@dataclass(eq=False, slots=True)
class _Entry:
    """One key in flight, for however many submissions wait for it."""

    work: Work[Any]
    number: int
    since: float
    waiters: dict[_Submission, list[int]] = field(default_factory=dict)  # where the result goes in each
    queue: _LaneQueue | None = None  # None once a worker has taken it
    caller: str = ""
    turn: int = 0


@dataclass(slots=True)
class _Account:
    """A caller with something in the queue: forgotten, with what it ran ahead, when nothing of it waits."""

    tokens: int = 0
    entries: int = 0
    last_turn: int = 0


class _LaneQueue:
    """What waits in one lane: fair between callers, indexed by length. The scheduler's lock guards it."""

    def __init__(self, lane: Lane, share: float) -> None:
        self.lane = lane
        self.share = share
        self.used = 0.0  # padded tokens computed, over the share
        self.tokens = 0
        self.entries = 0
        self.accounts: dict[str, _Account] = {}
        self._turn = 0  # of the last leader: where a caller starts that has nothing waiting
        self._by_length: dict[int, list[tuple[int, int, _Entry]]] = {}  # sorted by turn, then arrival

    def tokens_of(self, caller: str) -> int:
        account = self.accounts.get(caller)
        return account.tokens if account else 0

    def next_turn(self, caller: str, token_count: int) -> int:
        account = self.accounts.get(caller)
        return max(self._turn, account.last_turn if account else 0) + token_count

    def add(self, entry: _Entry, caller: str) -> None:
        length = entry.work.token_count
        entry.queue, entry.caller, entry.turn = self, caller, self.next_turn(caller, length)
        insort(self._by_length.setdefault(length, []), (entry.turn, entry.number, entry))
        account = self.accounts.setdefault(caller, _Account())
        account.last_turn = entry.turn
        self._count(entry, 1)

    def discard(self, entry: _Entry) -> None:
        """Takes out what will not be computed; its caller gets the tokens back."""
        row = self._by_length[entry.work.token_count]
        self._pop(row, bisect_left(row, (entry.turn, entry.number)))
        if account := self.accounts.get(entry.caller):
            account.last_turn -= entry.work.token_count

    def take(self, batch_tokens: int, padding_tokens: int, run_ahead_tokens: int) -> list[_Entry]:
        """Takes the entry whose turn it is, and the neighbours in length that are worth a place beside it."""
        self._turn, _, leader = min(row[0] for row in self._by_length.values())
        batch: list[_Entry] = []
        longest = padded = 0
        for length in _nearest_lengths(leader.work.token_count, padding_tokens):
            while row := self._by_length.get(length):
                widest = max(longest, length)
                grown = widest * (len(batch) + 1)
                too_early = row[0][0] > self._turn + run_ahead_tokens
                if batch and (too_early or grown > batch_tokens or grown - padded - length > padding_tokens):
                    break
                longest, padded = widest, grown
                batch.append(self._pop(row, 0))
        return batch

    def _pop(self, row: list[tuple[int, int, _Entry]], at: int) -> _Entry:
        entry = row.pop(at)[2]
        if not row:
            del self._by_length[entry.work.token_count]
        entry.queue = None
        self._count(entry, -1)
        return entry

    def _count(self, entry: _Entry, sign: int) -> None:
        tokens = sign * entry.work.token_count
        account = self.accounts[entry.caller]
        account.tokens += tokens
        account.entries += sign
        self.tokens += tokens
        self.entries += sign
        if not account.entries:
            del self.accounts[entry.caller]


def _nearest_lengths(length: int, span: int) -> Iterator[int]:
    yield length
    for distance in range(1, span + 1):
        yield length - distance
        yield length + distance


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


@dataclass(frozen=True, slots=True)
class _Batch:
    queue: _LaneQueue
    entries: list[_Entry]
    tokens: int
    padded_tokens: int
    started: float


@dataclass(frozen=True, slots=True)
class _Failure:
    cause: Exception


class Scheduler(Generic[PayloadT, ResultT]):
    """Batches what concurrent callers submit, and computes it in its own threads. An async context manager.

    `tokens_per_second` seeds the measured rate, as from a warm-up; without it nothing is refused by time before the
    first batch. `on_death` is called in the event loop when a worker thread ends by a fault: end the process then.
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
        self._rate = _Rate(tokens_per_second)
        self._closed: str | None = "not started"
        # Shared between the event loop and the workers, under the lock of `_wake`.
        self._wake = threading.Condition(threading.Lock())
        self._lanes = {
            Lane.INTERACTIVE: _LaneQueue(Lane.INTERACTIVE, 1 - limits.bulk_share),
            Lane.BULK: _LaneQueue(Lane.BULK, limits.bulk_share),
        }
        self._in_flight: dict[Hashable, _Entry] = {}
        self._cache: OrderedDict[Hashable, ResultT] = OrderedDict()
        self._settled: list[_Submission] = []  # to be woken by the next `_wake_waiters`
        self._running_tokens = 0
        self._arrivals = 0
        self._live_workers = limits.workers

    @property
    def ready(self) -> bool:
        """Whether it takes work: from its start until it is left or a worker has died."""
        return self._closed is None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._closed = None
        for number in range(self._limits.workers):
            threading.Thread(target=self._work, name=f"compute-{number}", daemon=True).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        with self._wake:
            self._closed = self._closed or "shutting down"
            self._wake.notify_all()
        try:
            async with asyncio.timeout(self._limits.drain_seconds):
                await self._ended.wait()
        except TimeoutError:
            with self._wake:
                self._fail_everything()
            self._wake_waiters()

    async def submit(
        self, works: Sequence[Work[PayloadT]], *, lane: Lane, caller: str, deadline: float | None = None
    ) -> list[ResultT]:
        """Computes the works, and answers their results in the same order: all of them, or an error.

        Args:
            works: Rows for the model.
            lane: Who waits for them.
            caller: Whose share of the lane they use.
            deadline: When the answer has lost its use, in the seconds of the scheduler's clock; None never.

        Raises:
            ResourceExhausted: Too much waits; nothing was queued. `retry_after` says when that will be done.
            DeadlineExceeded: The deadline passed first.
            Internal: A row cannot be computed; `metadata["index"]` says which, `__cause__` says why.
            Unavailable: The scheduler is not ready, or died meanwhile.
        """
        expires = math.inf if deadline is None else deadline
        submission = _Submission(self._loop.create_future(), expires, [None] * len(works))
        with self._wake:
            self._admit(works, self._lanes[lane], caller, expires)
            self._enqueue(submission, works, self._lanes[lane], caller)
            waits = bool(submission.pending)
            self._wake.notify(self._limits.workers)
        if waits:
            try:
                async with asyncio.timeout(None if deadline is None else deadline - self._clock()):
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

    # Everything below down to the worker's part runs with the lock held.

    def _admit(self, works: Sequence[Work[PayloadT]], queue: _LaneQueue, caller: str, expires: float) -> None:
        """Lets the works in, or raises. A lane that is empty takes what fits into it, however late: a rate that was
        measured during a stall must not be able to refuse everything for ever."""
        now = self._clock()
        if self._closed is not None:
            raise Unavailable(f"the scheduler takes no work: {self._closed}", reason="NOT_READY")
        if expires <= now:
            raise _late()
        unique = {work.key: work.token_count for work in works}
        demand = sum(tokens for key, tokens in unique.items() if self._needs_room(key, queue))
        limit = self._limits.queued_tokens
        refuse = self._observer.refused
        if not demand:
            return
        if demand > limit:
            refuse(queue.lane, "too_large")
            raise ResourceExhausted(
                f"{demand} tokens in one call, where {limit} may wait: split it", reason="TOO_LARGE"
            )
        seconds = self._predicted_seconds(queue, caller, demand)
        if queue.tokens_of(caller) + demand > limit - queue.tokens:
            # The caller's bound shrinks as the lane fills, so that room is left for one that comes later
            # (dynamic thresholds; Choudhury and Hahne, 1998).
            refuse(queue.lane, "full")
            raise ResourceExhausted(
                f"the {queue.lane.value} lane is full", reason="QUEUE_FULL", retry_after=seconds or PUSHBACK_SECONDS
            )
        if self._in_flight and seconds is not None and now + seconds > expires:
            refuse(queue.lane, "late")
            raise ResourceExhausted(
                f"the answer would take about {seconds:.3f} s, and {expires - now:.3f} s are left",
                retry_after=seconds,
            )

    def _needs_room(self, key: Hashable, queue: _LaneQueue) -> bool:
        entry = self._in_flight.get(key)
        if entry is None:
            return key not in self._cache
        return entry.queue is not None and entry.queue is not queue and queue.lane is Lane.INTERACTIVE

    def _predicted_seconds(self, queue: _LaneQueue, caller: str, demand: int) -> float | None:
        """When `demand` more tokens of this caller would be done, or None as long as no rate was measured.

        Fairness bounds what is ahead: no other caller gets more than this one until then, nor the other lane more
        than its share.
        """
        rate = self._rate.tokens_per_second
        if rate is None:
            return None
        own = queue.tokens_of(caller) + demand
        callers = len(queue.accounts) + (caller not in queue.accounts)
        ahead: float = min(queue.tokens + demand, callers * own)
        other_tokens = sum(other.tokens for other in self._lanes.values() if other is not queue)
        ahead += min(other_tokens, ahead * (1 - queue.share) / queue.share)
        return (self._running_tokens + ahead) / (rate * self._limits.workers)

    def _enqueue(
        self, submission: _Submission, works: Sequence[Work[PayloadT]], queue: _LaneQueue, caller: str
    ) -> None:
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
                entry = self._in_flight[work.key] = _Entry(work, self._arrivals, now)
                self._add(entry, queue, caller)
            else:
                shared += 1
                self._hasten(entry, queue, caller)
            entry.waiters.setdefault(submission, []).append(index)
            submission.pending.add(entry)
        if cached or shared:
            self._observer.reused(cached, shared)
        self._report_queue(queue)

    def _add(self, entry: _Entry, queue: _LaneQueue, caller: str) -> None:
        if not queue.entries:
            # Time in which a lane wanted nothing is no credit.
            queue.used = max(lane.used for lane in self._lanes.values())
        queue.add(entry, caller)

    def _hasten(self, entry: _Entry, queue: _LaneQueue, caller: str) -> None:
        """Moves a queued entry to where a new waiter would have put it, if it runs sooner there."""
        at = entry.queue
        if at is None:
            return
        if at is queue:
            sooner = queue.next_turn(caller, entry.work.token_count) < entry.turn
        else:
            sooner = queue.lane is Lane.INTERACTIVE
        if sooner:
            at.discard(entry)
            self._add(entry, queue, caller)
            self._report_queue(at)

    def _leave(self, submission: _Submission, reason: DropReason) -> None:
        """Takes a submission off whatever it still waits for; what then nobody waits for leaves the queue."""
        for entry in submission.pending:
            del entry.waiters[submission]
            queue = entry.queue
            if queue is not None and not entry.waiters:
                queue.discard(entry)
                del self._in_flight[entry.work.key]
                self._observer.dropped(queue.lane, reason)
                self._report_queue(queue)
        submission.pending.clear()

    def _fail(self, submission: _Submission, error: SluiceError, reason: DropReason) -> None:
        self._leave(submission, reason)
        submission.error = error
        self._settled.append(submission)

    def _fail_everything(self) -> None:
        for submission in {waiter for entry in self._in_flight.values() for waiter in entry.waiters}:
            self._fail(submission, Unavailable(f"the work was lost: {self._closed}", reason="NOT_READY"), "failed")
        self._in_flight.clear()

    def _report_queue(self, queue: _LaneQueue) -> None:
        self._observer.queue_changed(queue.lane, queue.entries, queue.tokens)

    def _take(self, queue: _LaneQueue) -> _Batch:
        limits, now = self._limits, self._clock()
        batch_tokens, rate = limits.batch_tokens, self._rate.tokens_per_second
        if queue.lane is Lane.BULK and rate is not None:
            batch_tokens = min(batch_tokens, int(rate * limits.bulk_pass_seconds))
        entries = []
        for entry in queue.take(batch_tokens, limits.padding_tokens, limits.run_ahead_tokens):
            if any(waiter.deadline > now for waiter in entry.waiters):
                entries.append(entry)
                continue
            # The event loop is late with its own timers.
            del self._in_flight[entry.work.key]
            self._observer.dropped(queue.lane, "expired")
            for waiter in list(entry.waiters):
                self._fail(waiter, _late(), "expired")
        self._report_queue(queue)
        lengths = [entry.work.token_count for entry in entries]
        batch = _Batch(queue, entries, sum(lengths), len(entries) * max(lengths, default=0), now)
        queue.used += batch.padded_tokens / queue.share
        self._running_tokens += batch.tokens
        return batch

    def _settle(self, entry: _Entry, outcome: ResultT | _Failure) -> None:
        self._in_flight.pop(entry.work.key, None)
        waiters, entry.waiters = entry.waiters, {}
        for submission, indices in waiters.items():
            submission.pending.discard(entry)
            if isinstance(outcome, _Failure):
                error = Internal(f"row {indices[0]} cannot be computed", reason="ROW_FAILED", index=str(indices[0]))
                error.__cause__ = outcome.cause
                self._fail(submission, error, "failed")
                continue
            for index in indices:
                submission.results[index] = outcome
            if not submission.pending:
                self._settled.append(submission)
        if not isinstance(outcome, _Failure) and self._limits.cache_entries:
            self._cache[entry.work.key] = outcome
            if len(self._cache) > self._limits.cache_entries:
                self._cache.popitem(last=False)

    # The lock is taken inside these.

    def _give_up(self, submission: _Submission, reason: DropReason) -> None:
        with self._wake:
            self._leave(submission, reason)

    def _wake_waiters(self) -> None:
        """One wake-up of the event loop for all that was settled."""
        with self._wake:
            settled, self._settled = self._settled, []
        if settled:
            self._loop.call_soon_threadsafe(_wake, settled)

    # The worker's part.

    def _work(self) -> None:
        try:
            while batch := self._next_batch():
                outcomes = self._outcomes(batch.entries)
                self._finish(batch, outcomes)
        except BaseException as error:  # whatever ends this thread, SystemExit too, ends the stage
            with self._wake:
                self._closed = "a worker died"
                self._fail_everything()
                self._wake.notify_all()
            self._wake_waiters()
            self._loop.call_soon_threadsafe(self._on_death, error)
        finally:
            self._loop.call_soon_threadsafe(self._worker_ended)

    def _worker_ended(self) -> None:
        self._live_workers -= 1
        if not self._live_workers:
            self._ended.set()

    def _next_batch(self) -> _Batch | None:
        while True:
            with self._wake:
                while not (waiting := [lane for lane in self._lanes.values() if lane.entries]):
                    if self._closed is not None:
                        return None
                    self._wake.wait()
                batch = self._take(min(waiting, key=lambda lane: lane.used))
            if batch.entries:
                return batch
            self._wake_waiters()

    def _outcomes(self, entries: Sequence[_Entry]) -> list[ResultT | _Failure]:
        """Computes the entries; if that fails, each half on its own, until only the culprits have failed."""
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

    def _finish(self, batch: _Batch, outcomes: Iterable[ResultT | _Failure]) -> None:
        seconds = self._clock() - batch.started
        with self._wake:
            self._rate.add(batch.tokens, seconds)
            self._running_tokens -= batch.tokens
            for entry, outcome in zip(batch.entries, outcomes, strict=True):
                self._settle(entry, outcome)
            self._observer.batch_finished(
                BatchReport(
                    batch.queue.lane,
                    len(batch.entries),
                    batch.tokens,
                    batch.padded_tokens,
                    batch.started - batch.entries[0].since,
                    seconds,
                )
            )
        self._wake_waiters()


def _wake(submissions: Iterable[_Submission]) -> None:
    for submission in submissions:
        if not submission.done.done():
            submission.done.set_result(None)


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before the model was done")
