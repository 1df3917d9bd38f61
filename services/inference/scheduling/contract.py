"""Types at the scheduler's boundary: works, lanes, limits and the observer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Literal, TypeVar

from services.chassis.errors import InvalidArgument
from services.inference.scheduling.turns import Turn
from sluice.type.v1 import model_pb2

PayloadT = TypeVar("PayloadT")
ResultT = TypeVar("ResultT")

Compute = Callable[[Sequence[PayloadT]], Sequence[ResultT]]
"""Blocking; called in a worker thread (in several at once if there are several) with rows of about one length.
Returns one result a row, each owning its memory: a view would keep its whole batch alive in the cache."""


class Lane(Enum):
    """Priority of a call: a person waits for it, or a job."""

    INTERACTIVE = "interactive"
    BULK = "bulk"

    @classmethod
    def from_proto(cls, number: int, field: str) -> Lane:
        """Read a priority. Raises InvalidArgument, naming the field, if it is unknown."""
        lanes: dict[int, Lane] = {
            model_pb2.PRIORITY_UNSPECIFIED: cls.INTERACTIVE,
            model_pb2.PRIORITY_INTERACTIVE: cls.INTERACTIVE,
            model_pb2.PRIORITY_BULK: cls.BULK,
        }
        if (lane := lanes.get(number)) is None:
            raise InvalidArgument(field, f"is unknown ({number})")
        return lane


@dataclass(frozen=True, slots=True)
class Work(Generic[PayloadT]):
    """One row for the model. Works with the same key are the same computation, and done once."""

    key: Hashable
    """Name of the result."""
    payload: PayloadT
    """Input of `compute`, already tokenized."""
    token_count: int
    """Tokens before padding."""


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Limits of batches and queues.

    The defaults are for all-MiniLM-L6-v2, fp32, ONNX Runtime on 2 cores, where 1 s is about 8,000 to 12,000 tokens.
    """

    batch_tokens: int = 512
    """Largest batch, in padded tokens: rows times the longest row. A single row that is longer runs alone."""
    padding_tokens: int = 16
    """Most padding in one batch: the tokens that one more pass would cost (measured: 11 to 17)."""
    bulk_pass_seconds: float = 0.025
    """Target time of one pass of the bulk lane; an interactive arrival may have to wait this long."""
    bulk_share: float = 0.2
    """Share of the machine that the bulk lane gets when the other lane wants all of it. Between 0 and 1."""
    run_ahead_tokens: int = 8192
    """Tokens that a row may run ahead of its turn because its length fits. Less is fairer; more pads less."""
    queued_tokens: int = 262_144
    """Tokens that may wait in one lane. One caller may fill half of what the others leave free."""
    cache_entries: int = 4096
    """Results kept; the least recently used go first. 0 keeps none."""
    workers: int = 1
    """Threads that call `compute`. One is right where the runtime itself uses all cores."""
    express: bool = False
    """True for one more thread that takes interactive work while all workers are in bulk passes.

    An arrival then shares the processors with such a pass instead of waiting for its end. Right for runtimes that can
    compute two passes at once.
    """
    bulk_turn: Turn | None = None
    """Shared by the schedulers of a process, of which one at a time then computes a bulk pass; None shares nothing.

    So an arrival finds one bulk pass on the processors, not one of each model.
    """
    drain_seconds: float = 10.0
    """Time that the queued work gets when the scheduler ends."""


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One pass through the model."""

    lane: Lane
    rows: int
    tokens: int
    padded_tokens: int
    waited_seconds: float
    """Time that the row that led the batch had waited."""
    compute_seconds: float
    failed_rows: int = 0
    origins: Sequence[object] = ()
    """Results of `SchedulerObserver.call_began` for the calls that wait for these rows."""


DropReason = Literal["cancelled", "expired", "failed"]
RefusalReason = Literal["late", "full", "too_large"]


class SchedulerObserver:
    """Observer of what the scheduler does; this one ignores it.

    Called by the event loop and by workers, mostly with the scheduler's lock held: overrides must be quick and never
    raise.
    """

    def call_began(self) -> object | None:
        """A call began, in the context of this call. The result, if any, comes back in the reports of its batches."""
        return None

    def queue_changed(self, lane: Lane, entries: int, tokens: int) -> None:
        """The queue of a lane has a new length."""

    def batch_finished(self, report: BatchReport) -> None:
        """A pass ended, well or not. Its callers do not have the results yet, and the lock is not held."""

    def reused(self, requested: int, cached: int, shared: int) -> None:
        """Works of one call: all of them, those in the cache, and those that joined the same key in flight."""

    def dropped(self, lane: Lane, reason: DropReason) -> None:
        """An entry left the queue because no caller waits for it any more."""

    def refused(self, lane: Lane, reason: RefusalReason) -> None:
        """A whole call was refused."""
