"""A model that serves concurrent calls: rows tokenized in threads, scheduled, and computed in batches.

The embedder and the reranker extend it by what their rows mean.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from services.chassis import logs, tracing
from services.chassis.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted, SluiceError
from services.inference.engine import Engine
from services.inference.models.info import ModelInfo
from services.inference.scheduling import (
    Compute,
    Lane,
    Scheduler,
    SchedulerLimits,
    SchedulerObserver,
    Submission,
    Work,
    row_failed,
)

_log = logs.get_logger("inference")

# Tokenizing is fast next to the model; a second thread keeps a query from waiting behind a bulk batch.
TOKENIZER_THREADS = 2
_WARM_UP_WORDS = (1, 8, 24, 60, 120, 240)
_WARM_UP_ROWS = 8


class Row(Protocol):
    """One tokenized input of a model."""

    @property
    def key(self) -> bytes:
        """Name of its result: rows with the same key have the same result."""

    @property
    def token_count(self) -> int:
        """Tokens, special tokens included, padding not."""

    @property
    def truncated(self) -> bool:
        """True if the end of the input did not fit the model's window."""


RowT = TypeVar("RowT", bound=Row)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Computed(Generic[RowT, ResultT]):
    """Rows and their results, in the caller's order."""

    rows: Sequence[RowT]
    """Those of the first texts alone, where the call was partial and time was short."""
    results: Sequence[ResultT]
    tokenize_seconds: float
    compute_seconds: float
    """Time in the queue included."""

    @property
    def seconds(self) -> float:
        """Time from the call to its results."""
        return self.tokenize_seconds + self.compute_seconds

    @property
    def truncated_count(self) -> int:
        """Number of rows whose end did not fit the model's window."""
        return sum(row.truncated for row in self.rows)

    @property
    def token_count(self) -> int:
        """Tokens that the model read for these results."""
        return sum(row.token_count for row in self.rows)


class ServedModel(Generic[RowT, ResultT]):
    """One model behind one scheduler. An async context manager.

    `compute` runs a batch in a worker thread, and `tokenize_example` makes rows for the warm-up. `row_field` is the
    field of requests that holds the texts, and `text_tokens` the most of a text that a row holds, by default as many as
    the model's window. `died` is set when the model cannot compute any more.
    """

    def __init__(
        self,
        engine: Engine,
        compute: Compute[RowT, ResultT],
        tokenize_example: Callable[[Sequence[str]], Sequence[RowT]],
        limits: SchedulerLimits,
        observer: SchedulerObserver,
        *,
        row_field: str,
        text_tokens: int | None = None,
    ) -> None:
        self.died = asyncio.Event()
        self._row_field = row_field
        self._engine = engine
        self._text_tokens = text_tokens or engine.model.max_token_count
        self._tokenize_example = tokenize_example
        self._batch_tokens = limits.batch_tokens
        # A quarter leaves room for the calls of others.
        self._portion_tokens = limits.queued_tokens / 4
        self._tokenizing = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenize")
        self._scheduler: Scheduler[RowT, ResultT] = Scheduler(
            compute, limits, observer, on_death=self._die, row_field=row_field
        )

    def _die(self, error: BaseException) -> None:
        _log.error("the model cannot compute any more", exc_info=error)
        self.died.set()

    @property
    def model(self) -> ModelInfo:
        """The model that serves."""
        return self._engine.model

    @property
    def problem(self) -> str | None:
        """The reason that nothing can be computed, or None."""
        return None if self._scheduler.ready else "the model's worker has died"

    async def __aenter__(self) -> Self:
        await self._scheduler.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._scheduler.__aexit__(kind, error, trace)
        self._tokenizing.shutdown(wait=False)

    async def warm_up(self) -> None:
        """Compute the shapes that serve once, so that no caller has to wait for it and a rate is known."""
        await asyncio.to_thread(self._engine.warm_up, self._batch_tokens)
        for words in _WARM_UP_WORDS:
            texts = [f"warm up {number} " + "word " * words for number in range(_WARM_UP_ROWS)]
            await self.run(texts, self._tokenize_example, lane=Lane.INTERACTIVE, caller="warm-up", deadline=None)

    async def run(
        self,
        texts: Sequence[str],
        tokenize: Callable[[Sequence[str]], Sequence[RowT]],
        *,
        lane: Lane,
        caller: str,
        deadline: float | None,
        partial: bool = False,
    ) -> Computed[RowT, ResultT]:
        """Tokenize texts and compute their rows before a deadline on the monotonic clock.

        Texts that may be more than a share of the queue are done in portions, one after the other. With `partial` the
        answer has the rows of the first texts alone where there is no room or time for all. Raises what
        `Scheduler.submit` raises, without tokenizing if the length of the texts is reason enough.
        """
        size = max(1, int(self._portion_tokens // self.model.max_token_count))
        parts: list[Computed[RowT, ResultT]] = []
        for start in range(0, len(texts), size):
            some = texts[start : start + size]
            try:
                part = await self._run(some, tokenize, lane=lane, caller=caller, deadline=deadline, partial=partial)
            except InvalidArgument as error:
                raise error.moved(start) from error.__cause__
            except (DeadlineExceeded, ResourceExhausted):
                if partial and parts:
                    break
                raise
            parts.append(part)
            if len(part.results) < len(some):
                break
        if (span := tracing.recorded()) is not None:
            rows = [row for part in parts for row in part.rows]
            span.set_attributes(
                {
                    "sluice.model": self.model.name,
                    "sluice.lane": lane.value,
                    "sluice.rows": len(rows),
                    "sluice.tokens": sum(row.token_count for row in rows),
                    "sluice.truncated": sum(row.truncated for row in rows),
                }
            )
        return Computed(
            rows=[row for part in parts for row in part.rows],
            results=[result for part in parts for result in part.results],
            tokenize_seconds=sum(part.tokenize_seconds for part in parts),
            compute_seconds=sum(part.compute_seconds for part in parts),
        )

    async def _run(
        self,
        texts: Sequence[str],
        tokenize: Callable[[Sequence[str]], Sequence[RowT]],
        *,
        lane: Lane,
        caller: str,
        deadline: float | None,
        partial: bool,
    ) -> Computed[RowT, ResultT]:
        started = time.perf_counter()
        expected = least_tokens(texts, self._text_tokens)
        submission = self._scheduler.begin(
            lane=lane, caller=caller, deadline=deadline, expected_tokens=expected, partial=partial
        )
        call = _Call[RowT](texts, tokenize, submission, started)
        # The tokenizing thread queues the rows itself: the event loop is woken once, when all is done.
        self._tokenizing.submit(self._enter, call)
        try:
            results = await self._scheduler.answer(submission)
        except InvalidArgument as error:
            _log.warning("a row cannot be computed", row=error.field, cause=type(error.__cause__).__name__)
            raise
        return Computed(
            rows=call.rows[: len(results)],
            results=results,
            tokenize_seconds=call.tokenized - started,
            compute_seconds=time.perf_counter() - call.tokenized,
        )

    def _enter(self, call: _Call[RowT]) -> None:
        try:
            call.rows = self._tokenized(call)
            works = [Work(row.key, row, self._engine.width(row.token_count)) for row in call.rows]
            call.tokenized = time.perf_counter()
            self._scheduler.enter(call.submission, works)
        except Exception as error:  # raised where the answer is awaited
            self._scheduler.fail(call.submission, error)

    def _tokenized(self, call: _Call[RowT]) -> Sequence[RowT]:
        """Tokenize the texts of a call. Raises InvalidArgument for a text that alone cannot be tokenized."""
        try:
            return call.tokenize(call.texts)
        except SluiceError:
            raise
        except Exception:
            call.tokenize(["warm up"])
            for index, text in enumerate(call.texts):
                try:
                    call.tokenize([text])
                except Exception as cause:
                    raise row_failed(self._row_field, index, cause) from cause
            raise


@dataclass(slots=True)
class _Call(Generic[RowT]):
    """One call, shared by the event loop and a tokenizing thread."""

    texts: Sequence[str]
    tokenize: Callable[[Sequence[str]], Sequence[RowT]]
    submission: Submission
    tokenized: float
    """Time at which tokenizing ended."""
    rows: Sequence[RowT] = ()


def least_tokens(texts: Sequence[str], most: int) -> int:
    """Lower bound of the tokens of texts, at most `most` each: one for every space.

    A single text counts as 0: it is tokenized quickly, and its result may be in the cache.
    """
    return sum(min(text.count(" "), most) for text in texts) if len(texts) > 1 else 0
