"""Times of whole searches: one caller at a time, several at once, and under a load below saturation."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.quality.asking import check
from bench.rerank.methods import HYBRID, Method
from sluice_cli.load import opened
from sluice_client import Answer, AsyncClient, SluiceError
from sluice_statistics.percentiles import percentile

LIMIT = 10
CALLERS = 8
LOAD = 0.6
"""Of what the stack answers to callers who always wait."""
_PATIENCE_SECONDS = 60.0


@dataclass(slots=True)
class Times:
    """Milliseconds of the searches of one method."""

    searches: list[float] = field(default_factory=list)
    added: list[float] = field(default_factory=list)
    """Those of a search, less those of the same question without reranking, asked right before or after."""


class Asking:
    """Asks one collection."""

    def __init__(self, client: AsyncClient, collection: str, questions: Sequence[str]) -> None:
        self._client = client
        self._collection = collection
        self.questions = questions
        self._next = itertools.cycle(questions)

    async def ask(self, method: Method, question: str | None = None, limit: int = LIMIT) -> tuple[Answer, float]:
        """Ask a question, or the next one; its answer, and milliseconds. Raises StartupError where a stage failed."""
        started = time.perf_counter()
        answer = await self._client.search(
            question or next(self._next),
            limit=limit,
            collection=self._collection,
            features=method.config.features,
            policies=method.config.policies,
            timeout=_PATIENCE_SECONDS,
        )
        took = (time.perf_counter() - started) * 1000
        check(answer)
        return answer, took


async def alone(asking: Asking, methods: Sequence[Method], on_question: Callable[[], None]) -> dict[Method, Times]:
    """Ask every question by every method, one search at a time, in an order that turns with each question."""
    times = {method: Times() for method in methods}
    for method in methods:
        await asking.ask(method, asking.questions[0])  # the first search of a kind warms up
    for number, question in enumerate(asking.questions):
        asked = [method for method in methods if number % round(1 / method.timed_share) == 0]
        turn = number % len(asked)
        took = {method: (await asking.ask(method, question))[1] for method in asked[turn:] + asked[:turn]}
        for method, milliseconds in took.items():
            times[method].searches.append(milliseconds)
            times[method].added.append(milliseconds - took[HYBRID])
        on_question()
    return times


async def saturated(asking: Asking, method: Method, seconds: float) -> float:
    """Answers a second to callers who ask again as soon as they are answered."""
    answered = 0
    started = time.perf_counter()

    async def caller() -> None:
        nonlocal answered
        while time.perf_counter() - started < seconds:
            await asking.ask(method)
            answered += 1

    async with asyncio.TaskGroup() as callers:
        for _ in range(CALLERS):
            callers.create_task(caller())
    return answered / (time.perf_counter() - started)


async def rates(
    asking: Asking, methods: Mapping[Method, float], rounds: int, on_window: Callable[[], None]
) -> dict[Method, float]:
    """Answers a second of each method, asked for so many seconds a round: medians of rounds that take turns."""
    found: dict[Method, list[float]] = {method: [] for method in methods}
    for number in range(rounds):
        for method in list(methods) if number % 2 == 0 else list(methods)[::-1]:
            found[method].append(await saturated(asking, method, methods[method]))
            on_window()
    return {method: statistics.median(each) for method, each in found.items()}


@dataclass(frozen=True, slots=True)
class Loaded:
    """Searches that came at random moments."""

    p50_ms: float
    p99_ms: float
    searches: int
    failed: int
    """Refused, late or with a stage that failed."""


async def loaded(asking: Asking, method: Method, rate: float, seconds: float) -> Loaded:
    """Ask at a rate, whatever becomes of earlier searches (Poisson arrivals)."""
    took: list[float] = []
    failed = 0

    async def one() -> None:
        nonlocal failed
        try:
            took.append((await asking.ask(method))[1])
        except SluiceError:
            failed += 1

    offered = await opened(one, rate=rate, seconds=seconds)
    return Loaded(percentile(took, 50), percentile(took, 99), offered, failed)
