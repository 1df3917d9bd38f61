"""What waits in one lane: whose turn it is, and which rows go together.

Between callers: self-clocked fair queueing (Golestani, INFOCOM 1994). An entry's turn is the number of tokens that its
caller has been given by the time it is done; a caller with nothing waiting starts at the turn of the last leader.
The lowest turn leads the next batch, so callers share the lane evenly in tokens, whatever each of them queues.

Within a batch: rows of the leader's length join it, then the nearest lengths, as long as the padding of the whole
batch stays below what one more pass through the model would cost.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from services.inference.scheduling.contract import Lane, SchedulerLimits, Work


@dataclass(eq=False, slots=True)
class Submission:
    """One call of `submit` while it waits."""

    done: asyncio.Future[None]
    lane: Lane
    caller: str
    deadline: float
    origin: object | None = None
    """What the observer knows the call by."""
    results: list[Any] = field(default_factory=list)
    pending: set[Entry] = field(default_factory=set)
    error: Exception | None = None
    given_up: bool = False
    """Nobody waits for it any more."""
    foreseen: int = 0
    """Tokens for which its lane keeps room while its works are being made."""


@dataclass(eq=False, slots=True)
class Entry:
    """One key in flight, for however many submissions wait for it."""

    work: Work[Any]
    number: int
    """Order of arrival."""
    since: float
    waiters: dict[Submission, list[int]] = field(default_factory=dict)
    """Where in each submission the result goes."""
    queue: LaneQueue | None = None
    """None as soon as a worker has taken it."""
    caller: str = ""
    turn: int = 0


@dataclass(slots=True)
class _Account:
    """A caller with entries in the queue. Forgotten when it has none, and with it what it ran ahead."""

    entries: int = 0
    tokens: int = 0
    last_turn: int = 0


class LaneQueue:
    """The entries of one lane, fair between callers and indexed by length. The scheduler's lock guards it."""

    def __init__(self, lane: Lane, share: float) -> None:
        self.lane = lane
        self.share = share
        self.used = 0.0
        """Padded tokens computed, over the share: the lane with less of it goes next."""
        self.entries = 0
        self.tokens = 0
        self.foreseen = 0
        """Tokens of submissions whose works are still being made: as good as here."""
        self.accounts: dict[str, _Account] = {}
        self._turn = 0
        self._by_length: dict[int, list[tuple[int, int, Entry]]] = {}  # each by turn, then arrival

    def tokens_of(self, caller: str) -> int:
        """What waits for this caller."""
        account = self.accounts.get(caller)
        return account.tokens if account else 0

    def next_turn(self, caller: str, token_count: int) -> int:
        """The turn that an entry would get now."""
        account = self.accounts.get(caller)
        return max(self._turn, account.last_turn if account else 0) + token_count

    def add(self, entry: Entry, caller: str) -> None:
        """Queues the entry at its caller's next turn."""
        length = entry.work.token_count
        entry.queue, entry.caller, entry.turn = self, caller, self.next_turn(caller, length)
        insort(self._by_length.setdefault(length, []), (entry.turn, entry.number, entry))
        self.accounts.setdefault(caller, _Account()).last_turn = entry.turn
        self._count(entry, 1)

    def discard(self, entry: Entry) -> None:
        """Takes out an entry that will not be computed here; its caller gets the tokens back."""
        length = entry.work.token_count
        self._pop(length, bisect_left(self._by_length[length], (entry.turn, entry.number)))
        if account := self.accounts.get(entry.caller):
            account.last_turn -= length

    def take(self, batch_tokens: int, limits: SchedulerLimits) -> list[Entry]:
        """Takes the entry whose turn it is, with the neighbours in length that fill its batch."""
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


def _nearest(length: int, span: int) -> Iterator[int]:
    """The length itself, then those around it, the nearest first."""
    yield length
    for distance in range(1, span + 1):
        yield length - distance
        yield length + distance
