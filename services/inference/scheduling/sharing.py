"""Works that wait or are being computed, each shared by all calls that want it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic

from services.inference.scheduling.contract import DropReason, Lane, ResultT, SchedulerObserver
from services.inference.scheduling.outcomes import ResultCache
from services.inference.scheduling.waiting import Entry, LaneQueue, Lanes, Submission


class InFlight(Generic[ResultT]):
    """Entries by key, and the results that are kept for works that come again. The scheduler's lock guards it."""

    def __init__(
        self, lanes: Lanes, cache: ResultCache[ResultT], observer: SchedulerObserver, clock: Callable[[], float]
    ) -> None:
        self._lanes = lanes
        self._cache = cache
        self._observer = observer
        self._clock = clock
        self._entries: dict[Hashable, Entry] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def waiters(self) -> set[Submission]:
        """All submissions that wait."""
        return {waiter for entry in self._entries.values() for waiter in entry.waiters}

    def needs_room(self, key: Hashable, queue: LaneQueue) -> bool:
        """True if a work with this key would take room of this lane."""
        entry = self._entries.get(key)
        if entry is None:
            return key not in self._cache
        return entry.queue is not None and entry.queue is not queue and queue.lane is Lane.INTERACTIVE

    def enqueue(self, submission: Submission, count: int) -> None:
        """Queue the next works of a submission, at the turns after those that it has queued."""
        queue, caller = self._lanes[submission.lane], submission.caller
        now = self._clock()
        first, submission.begun = submission.begun, submission.begun + count
        cached = shared = 0
        for index, work in enumerate(submission.works[first : submission.begun], first):
            if work.key in self._cache:
                submission.results[index] = self._cache[work.key]
                cached += 1
                continue
            entry = self._entries.get(work.key)
            if entry is None:
                self._arrivals += 1
                entry = self._entries[work.key] = Entry(work, self._arrivals, now)
                self._lanes.add(entry, queue, caller, after=submission.turn)
                submission.turn = entry.turn
            else:
                shared += 1
                if (left := self._lanes.promote(entry, queue, caller)) is not None:
                    self.report(left)
            entry.waiters.setdefault(submission, []).append(index)
            submission.pending.add(entry)
        self._observer.reused(count, cached, shared)
        self.report(queue)

    def withdraw(self, submission: Submission, reason: DropReason) -> None:
        """Take the submission off its entries; an entry without waiters leaves the queue."""
        for entry in submission.pending:
            del entry.waiters[submission]
            queue = entry.queue
            if queue is not None and not entry.waiters:
                queue.discard(entry)
                self.drop(entry, queue, reason)
                self.report(queue)
        submission.pending.clear()

    def drop(self, entry: Entry, queue: LaneQueue, reason: DropReason) -> None:
        """Forget an entry that has left its queue, because no caller waits for it any more."""
        del self._entries[entry.work.key]
        self._observer.dropped(queue.lane, reason)

    def settle(self, entry: Entry) -> dict[Submission, list[int]]:
        """Forget an entry that was computed; return who waits for it, and for which of their results."""
        self._entries.pop(entry.work.key, None)
        waiters, entry.waiters = entry.waiters, {}
        for submission in waiters:
            submission.pending.discard(entry)
        return waiters

    def keep(self, key: Hashable, result: ResultT) -> None:
        """Keep a result for works with the same key that come later."""
        self._cache.add(key, result)

    def clear(self) -> None:
        """Forget all entries."""
        self._entries.clear()

    def report(self, queue: LaneQueue) -> None:
        """Tell the observer how long a queue is."""
        self._observer.queue_changed(queue.lane, queue.entries, queue.tokens)
