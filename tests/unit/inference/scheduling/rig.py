"""A scheduler with real threads, and a model behind a gate."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from services.inference.scheduling import (
    BatchReport,
    Lane,
    Scheduler,
    SchedulerLimits,
    SchedulerObserver,
    Work,
)

INTERACTIVE, BULK = Lane.INTERACTIVE, Lane.BULK
PATIENCE = 10.0  # seconds until a test that would hang fails instead


def text(length: int, name: object = "") -> str:
    """A text of this many tokens."""
    return f"{length}:{name}"


def length_of(content: str) -> int:
    return int(content.split(":", maxsplit=1)[0])


class Clock:
    """Stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Model:
    """Puts texts in capitals once its gate is open, and remembers every batch."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.poison: set[str] = set()
        self.error: BaseException | None = None
        self.forgetful = False
        self.before: Callable[[], object] = lambda: None
        self.seconds_per_token = 0.0
        self.clock = Clock()
        self._gate = threading.Event()
        self._changed = threading.Condition()

    def __call__(self, payloads: Sequence[str]) -> list[str]:
        self.before()
        with self._changed:
            self.batches.append(list(payloads))
            self._changed.notify_all()
        assert self._gate.wait(PATIENCE)
        self.clock.now += self.seconds_per_token * sum(map(length_of, payloads))
        if self.error is not None:
            raise self.error
        if self.poison.intersection(payloads):
            raise ValueError(f"cannot compute one of {payloads}")
        if self.forgetful:
            return []
        return [payload.upper() for payload in payloads]

    def open(self) -> None:
        self._gate.set()

    def close(self) -> None:
        self._gate.clear()

    def wait_for_batches(self, count: int) -> None:
        """Block, the event loop too, until the workers have brought this many batches."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.batches) >= count, PATIENCE)

    @property
    def computed(self) -> list[str]:
        return [content for batch in self.batches for content in batch]


@dataclass
class Record(SchedulerObserver):
    """Remembers all reports."""

    depth: dict[Lane, tuple[int, int]] = field(default_factory=dict)
    most_tokens: Counter[Lane] = field(default_factory=Counter)
    reports: list[BatchReport] = field(default_factory=list)
    counts: Counter[Any] = field(default_factory=Counter)

    def queue_changed(self, lane: Lane, entries: int, tokens: int) -> None:
        self.depth[lane] = entries, tokens
        self.most_tokens[lane] = max(self.most_tokens[lane], tokens)

    def batch_finished(self, report: BatchReport) -> None:
        self.reports.append(report)

    def reused(self, requested: int, cached: int, shared: int) -> None:
        self.counts["requested"] += requested
        self.counts["cached"] += cached
        self.counts["shared"] += shared

    def dropped(self, lane: Lane, reason: str) -> None:
        self.counts[lane, reason] += 1

    def refused(self, lane: Lane, reason: str) -> None:
        self.counts[lane, reason] += 1


@dataclass
class Rig:
    """A started scheduler, its model and its observer."""

    model: Model
    scheduler: Scheduler[str, str]
    record: Record
    deaths: list[BaseException]

    async def submit(
        self,
        *texts: str,
        lane: Lane = INTERACTIVE,
        caller: str = "ann",
        deadline: float | None = None,
        partial: bool = False,
    ) -> list[str]:
        works = [Work(key=content, payload=content, token_count=length_of(content)) for content in texts]
        return await self.scheduler.submit(works, lane=lane, caller=caller, deadline=deadline, partial=partial)

    async def queue(self, *texts: str, **how: Any) -> asyncio.Task[list[str]]:
        """Submit, and return as soon as the call waits."""
        task = asyncio.create_task(self.submit(*texts, **how))
        await asyncio.sleep(0)
        return task

    async def occupy(self, workers: int = 1) -> list[asyncio.Task[list[str]]]:
        """Give each worker something to compute, so that all later work waits for the gate."""
        before = len(self.model.batches)
        plugs = []
        for number in range(workers):
            plugs.append(await self.queue(text(1, f"plug {before + number}"), caller="plug"))
            self.model.wait_for_batches(before + number + 1)
        return plugs

    async def measure(self, seconds_per_token: float) -> None:
        """Let the scheduler measure the rate of its model."""
        self.model.seconds_per_token = seconds_per_token
        self.model.open()
        await self.submit(text(500, "measured"), caller="measure")
        self.model.close()

    def assert_nothing_is_left(self) -> None:
        assert set(self.record.depth.values()) <= {(0, 0)}
        assert self.scheduler.idle


@asynccontextmanager
async def rig(*, rate: float | None = None, **limits: Any) -> AsyncIterator[Rig]:
    model, record = Model(), Record()
    deaths: list[BaseException] = []
    scheduler = Scheduler(
        model,
        SchedulerLimits(**limits),
        record,
        on_death=deaths.append,
        tokens_per_second=rate,
        clock=model.clock,
    )
    try:
        async with scheduler:
            yield Rig(model, scheduler, record, deaths)
            model.open()
    finally:
        model.open()


async def gathered(*tasks: asyncio.Task[list[str]]) -> list[Any]:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*tasks, return_exceptions=True)
