"""The queue of one lane: turns of callers, and rows that go together; and both lanes.

Between callers: self-clocked fair queueing (Golestani, INFOCOM 1994). An entry's turn is the number of tokens that its
caller has received by the time it is done; a caller with nothing queued starts at the turn of the last leader. The
lowest turn leads the next batch, so callers share the lane evenly in tokens, no matter how much each of them queues.

Within a batch: rows of the leader's length join it, then the nearest lengths, while the padding of the whole batch
stays below the cost of one more pass through the model.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.inference.scheduling.contract import Lane, SchedulerLimits, Work


@dataclass(eq=False, slots=True)
class Submission:
    """One call while it waits."""

    done: asyncio.Future[None]
    lane: Lane
    caller: str
    deadline: float
    origin: object | None = None
    """Result of the observer's `call_began`."""
    works: Sequence[Work[Any]] = ()
    results: list[Any] = field(default_factory=list)
    begun: int = 0
    """Number of the first works that were queued, or answered by the cache."""
    turn: int = 0
    """Turn of the last work that was queued: those of later rounds come after it, as if all had come at once."""
    pending: set[Entry] = field(default_factory=set)
    error: Exception | None = None
    abandoned: bool = False
    """True when its caller does not wait any more."""
    expected_tokens: int = 0
    """Tokens for which its lane keeps room while its works are being made."""
    partial: bool = False
    """True if the results of the first works are an answer."""

    @property
    def first_done(self) -> int:
        """Number of the first works that have their results."""
        return min((entry.waiters[self][0] for entry in self.pending), default=self.begun)


@dataclass(eq=False, slots=True)
class Entry:
    """One key in flight, shared by all submissions that wait for it."""

    work: Work[Any]
    number: int
    """Order of arrival."""
    since: float
    waiters: dict[Submission, list[int]] = field(default_factory=dict)
    """Positions of the result in each submission."""
    queue: LaneQueue | None = None
    """None once a worker has taken it."""
    caller: str = ""
    turn: int = 0


@dataclass(slots=True)
class _Account:
    """A caller with entries in the queue. It is forgotten, with the turns it ran ahead, when it has none."""

    entries: int = 0
    tokens: int = 0
    last_turn: int = 0


class LaneQueue:
    """The entries of one lane, fair between callers and indexed by length. The scheduler's lock guards it."""

    def __init__(self, lane: Lane, share: float) -> None:
        self.lane = lane
        self.share = share
        self.used = 0.0
        """Padded tokens computed, divided by the share: the lane with less of it goes next."""
        self.entries = 0
        self.tokens = 0
        self.expected_tokens = 0
        """Tokens of submissions whose works are still being made; they count as queued."""
        self.accounts: dict[str, _Account] = {}
        self._turn = 0
        self._by_length: dict[int, list[tuple[int, int, Entry]]] = {}  # each by turn, then arrival

    def tokens_of(self, caller: str) -> int:
        """Tokens that this caller has in the queue."""
        account = self.accounts.get(caller)
        return account.tokens if account else 0

    def next_turn(self, caller: str, token_count: int, after: int = 0) -> int:
        """The turn that an entry of this caller would get now, later than the turn `after`."""
        account = self.accounts.get(caller)
        return max(self._turn, after, account.last_turn if account else 0) + token_count

    def add(self, entry: Entry, caller: str, after: int = 0) -> None:
        """Queue the entry at its caller's next turn, later than the turn `after`."""
        length = entry.work.token_count
        entry.queue, entry.caller, entry.turn = self, caller, self.next_turn(caller, length, after)
        insort(self._by_length.setdefault(length, []), (entry.turn, entry.number, entry))
        self.accounts.setdefault(caller, _Account()).last_turn = entry.turn
        self._count(entry, 1)

    @property
    def idle(self) -> bool:
        """True if nothing is queued, expected, or remembered of a caller."""
        return not (self.accounts or self._by_length or self.expected_tokens)

    def discard(self, entry: Entry) -> None:
        """Remove an entry that will not be computed here; its caller gets the tokens back."""
        length = entry.work.token_count
        self._pop(length, bisect_left(self._by_length[length], (entry.turn, entry.number)))
        if account := self.accounts.get(entry.caller):
            account.last_turn -= length

    def take(self, batch_tokens: int, limits: SchedulerLimits) -> list[Entry]:
        """Remove the entry whose turn it is, with the neighbours in length that fill its batch."""
        self._turn, _, leader = min(peers[0] for peers in self._by_length.values())
        latest_turn = self._turn + limits.run_ahead_tokens
        batch: list[Entry] = []
        longest = tokens = 0
        span = min(limits.padding_tokens, max(self._by_length))
        for length in _nearest(leader.work.token_count, span):
            while peers := self._by_length.get(length):
                padded = max(longest, length) * (len(batch) + 1)
                padding = padded - tokens - length
                if batch and (padded > batch_tokens or padding > limits.padding_tokens or peers[0][0] > latest_turn):
                    break
                longest = max(longest, length)
                tokens += length
                batch.append(self._pop(length, 0))
        return batch

    def _pop(self, length: int, at: int) -> Entry:
        peers = self._by_length[length]
        entry = peers.pop(at)[2]
        if not peers:
            del self._by_length[length]
        entry.queue = None
        self._count(entry, -1)
        return entry

    def _count(self, entry: Entry, sign: int) -> None:
        account, tokens = self.accounts[entry.caller], sign * entry.work.token_count
        account.entries += sign
        account.tokens += tokens
        self.entries += sign
        self.tokens += tokens
        if not account.entries:
            del self.accounts[entry.caller]


class Lanes:
    """Both lanes, and the share of the machine that each gets."""

    def __init__(self, bulk_share: float) -> None:
        self._lanes = {  # in the order of precedence when both have had their share
            Lane.INTERACTIVE: LaneQueue(Lane.INTERACTIVE, 1 - bulk_share),
            Lane.BULK: LaneQueue(Lane.BULK, bulk_share),
        }

    def __getitem__(self, lane: Lane) -> LaneQueue:
        return self._lanes[lane]

    @property
    def idle(self) -> bool:
        """True if nothing is queued or expected."""
        return all(lane.idle for lane in self._lanes.values())

    def waiting(self) -> list[LaneQueue]:
        """Lanes that are not empty."""
        return [lane for lane in self._lanes.values() if lane.entries]

    def add(self, entry: Entry, queue: LaneQueue, caller: str, after: int = 0) -> None:
        """Queue the entry in a lane, at its caller's next turn, later than the turn `after`."""
        if not queue.entries:
            # A lane saves no credit while it is empty.
            queue.used = max(lane.used for lane in self._lanes.values())
        queue.add(entry, caller, after)

    def promote(self, entry: Entry, queue: LaneQueue, caller: str) -> LaneQueue | None:
        """Move a queued entry to where a new waiter would have put it, if it runs sooner there.

        Returns the lane that it has left.
        """
        previous = entry.queue
        if previous is None:
            return None
        if previous is queue:
            sooner = queue.next_turn(caller, entry.work.token_count) < entry.turn
        else:
            sooner = queue.lane is Lane.INTERACTIVE
        if not sooner:
            return None
        previous.discard(entry)
        self.add(entry, queue, caller)
        return previous

    def tokens_ahead(self, queue: LaneQueue, caller: str, demand: int) -> float:
        """Queued tokens that are done before `demand` more of this caller are, and these.

        Fairness bounds them: until then no other caller gets more than this one, nor the other lane more than its
        share.
        """
        own = queue.tokens_of(caller) + demand
        callers = len(queue.accounts) + (caller not in queue.accounts)
        ahead: float = min(queue.tokens + demand, callers * own)
        other_lanes = sum(lane.tokens for lane in self._lanes.values()) - queue.tokens
        return ahead + min(other_lanes, ahead * (1 - queue.share) / queue.share)


def _nearest(length: int, span: int) -> Iterator[int]:
    """The length itself, then its neighbours, the nearest first."""
    yield length
    for distance in range(1, span + 1):
        yield length - distance
        yield length + distance
