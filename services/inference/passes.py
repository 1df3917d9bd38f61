"""From what a caller sends to what a model computes: tokenized in threads, scheduled, computed, with the times it took.

What the embedder and the reranker have in common. Nothing in here knows what the rows mean.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from services.inference.scheduling import Compute, Lane, Scheduler, SchedulerLimits, SchedulerObserver, Submission, Work

# Tokenizing is fast next to the model; a second thread keeps a query from waiting behind a bulk batch.
TOKENIZER_THREADS = 2


class Tokenized(Protocol):
    """One row for the model."""

    @property
    def token_count(self) -> int:
        """Tokens, special tokens included, padding not."""


RowT = TypeVar("RowT", bound=Tokenized)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Computed(Generic[RowT, ResultT]):
    """Rows and their results, in the caller's order."""

    rows: Sequence[RowT]
    results: Sequence[ResultT]
    tokenize_seconds: float
    compute_seconds: float
    """Waiting for the model included."""


class Inference(Generic[RowT, ResultT]):
    """One model behind one scheduler. An async context manager; `died` is set when it will never work again.

    `compute` runs a batch in a worker thread; `key_of` names a row, so that the same row is computed once; `width_of`
    says how many tokens a row of so many costs.
    """

    def __init__(
        self,
        compute: Compute[RowT, ResultT],
        key_of: Callable[[RowT], Hashable],
        width_of: Callable[[int], int],
        limits: SchedulerLimits,
        observer: SchedulerObserver,
    ) -> None:
        self.died = asyncio.Event()
        self._key_of = key_of
        self._width_of = width_of
        self._tokenizing = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenize")
        self._scheduler: Scheduler[RowT, ResultT] = Scheduler(
            compute, limits, observer, on_death=lambda _error: self.died.set()
        )

    @property
    def problem(self) -> str | None:
        """Why nothing can be computed, or None."""
        return None if self._scheduler.ready else "the model's worker has died"

    async def __aenter__(self) -> Self:
        await self._scheduler.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._scheduler.__aexit__(kind, error, trace)
        self._tokenizing.shutdown(wait=False)

    async def run(
        self,
        tokenize: Callable[[], Sequence[RowT]],
        *,
        least_tokens: int,
        lane: Lane,
        caller: str,
        deadline: float | None,
    ) -> Computed[RowT, ResultT]:
        """Tokenizes and computes by a moment on the monotonic clock. Raises what `Scheduler.submit` raises.

        `least_tokens` is what the rows will have at the very least. If not even that can be done in time, nothing is
        tokenized.
        """
        started = time.perf_counter()
        submission = self._scheduler.begin(lane=lane, caller=caller, deadline=deadline, foreseen=least_tokens)
        call = _Call[RowT](tokenize, submission, started)
        # The tokenizing thread queues the rows itself: the event loop is woken once, when all is done.
        self._tokenizing.submit(self._enter, call)
        results = await self._scheduler.answer(call.submission)
        return Computed(
            rows=call.rows,
            results=results,
            tokenize_seconds=call.tokenized - started,
            compute_seconds=time.perf_counter() - call.tokenized,
        )

    def _enter(self, call: _Call[RowT]) -> None:
        try:
            call.rows = call.tokenize()
            works = [Work(self._key_of(row), row, self._width_of(row.token_count)) for row in call.rows]
            call.tokenized = time.perf_counter()
            self._scheduler.enter(call.submission, works)
        except Exception as error:  # raised where the answer is awaited
            self._scheduler.fail(call.submission, error)


@dataclass(slots=True)
class _Call(Generic[RowT]):
    """What the event loop and a tokenizing thread know of one call."""

    tokenize: Callable[[], Sequence[RowT]]
    submission: Submission
    tokenized: float
    """When that was done."""
    rows: Sequence[RowT] = ()


def least_tokens(texts: Sequence[str], most: int) -> int:
    """Tokens that texts have at the very least, cut to `most` each: one for every space. A single text counts as
    none: it is soon tokenized, and may turn out to be in the cache."""
    return sum(min(text.count(" "), most) for text in texts) if len(texts) > 1 else 0
