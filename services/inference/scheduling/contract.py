"""What callers of the scheduler give, and what they are told."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Literal, TypeVar

PayloadT = TypeVar("PayloadT")
ResultT = TypeVar("ResultT")

Compute = Callable[[Sequence[PayloadT]], Sequence[ResultT]]
"""Blocking; called in a worker thread (in several at once if there are several) with rows of about one length.
Answers one result a row, each owning its memory: a view would keep its whole batch alive in the cache."""


class Lane(Enum):
    """Who waits: a person, or a job."""

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
    """Defaults for all-MiniLM-L6-v2, fp32, ONNX Runtime on 2 cores, where 1 s is about 8,000 to 12,000 tokens."""

    batch_tokens: int = 512
    """Largest batch, in padded tokens: rows times the longest row. A single row that is longer runs alone."""
    padding_tokens: int = 16
    """Most padding in one batch: the tokens that one more pass would cost (measured: 11 to 17)."""
    bulk_pass_seconds: float = 0.025
    """Time that one pass of the bulk lane aims at: what an arrival in the other lane may have to wait for."""
    bulk_share: float = 0.2
    """Share of the machine that the bulk lane gets when the other lane wants all of it. Between 0 and 1."""
    run_ahead_tokens: int = 8192
    """How far ahead of its turn a row may run because its length fits. Less is fairer; more pads less."""
    queued_tokens: int = 262_144
    """Tokens that may wait in one lane. One caller may fill half of what the others leave free."""
    cache_entries: int = 4096
    """Results kept; the least recently used go first. 0 keeps none."""
    workers: int = 1
    """Threads that call `compute`. One is right where the runtime itself uses all cores."""
    express: bool = False
    """Whether one more thread takes from the interactive lane while all workers are in passes of the bulk lane: what
    arrives then shares the processors with such a pass instead of waiting for its end. Right where the runtime can
    compute two passes at once."""
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
    failed_rows: int = 0
    origins: Sequence[object] = ()
    """What `SchedulerObserver.call_began` answered for the calls that waited for these rows."""


DropReason = Literal["cancelled", "expired", "failed"]
RefusalReason = Literal["late", "full", "too_large"]


class SchedulerObserver:
    """Told what happens; this one looks away. Called by the event loop and by workers, mostly with the scheduler's lock
    held: what overrides these is quick and never raises."""

    def call_began(self) -> object | None:
        """A call began, in whose context this is called; the answer, if any, comes back in its batches' reports."""
        return None

    def queue_changed(self, lane: Lane, entries: int, tokens: int) -> None:
        """So much waits in this lane now."""

    def batch_finished(self, report: BatchReport) -> None:
        """A pass ended, well or not; nobody knows the results yet, and the lock is not held."""

    def reused(self, requested: int, cached: int, shared: int) -> None:
        """Works of one submit: all, those that the cache answered, and those that joined the same key in flight."""

    def dropped(self, lane: Lane, reason: DropReason) -> None:
        """An entry that nobody waits for any more will not be computed."""

    def refused(self, lane: Lane, reason: RefusalReason) -> None:
        """A whole submit was turned away."""
