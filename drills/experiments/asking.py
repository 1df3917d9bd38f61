"""People at work: they ask the real stack by the real client, click as a model says, and their events are recorded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from drills.experiments.people import ClickModel, drawn
from drills.experiments.world import RESULTS, Collection
from sluice_client import Answer, AsyncClient, Event, SluiceError

ASKERS = 12
"""People who ask at the same time: more of them would only wait for each other, and hide what a slow arm adds."""
_DRAWN_AT_ONCE = 500
_RATED = 0.1  # share of answers that get a thumb
_PAUSE_SECONDS = 0.01  # after an error

Saw = Callable[[str, int, Answer], None]
"""Takes user, question and answer."""


@dataclass
class Asked:
    """Requests so far."""

    users: int = 0
    answers: int = 0
    clicks: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """Searches that failed, by code and reason."""
    events: Counter[str] = field(default_factory=Counter)
    """Events by what became of them: "stored", "duplicate", or the reason for not storing them."""
    unrecorded: Counter[str] = field(default_factory=Counter)
    """Batches of events that failed, by code and reason."""


@dataclass(frozen=True)
class _Person:
    name: str
    questions: list[int]
    eagerness: float


class Crowd:
    """People who ask one gateway about one collection."""

    def __init__(
        self,
        client: AsyncClient,
        collection: Collection,
        model: ClickModel,
        name: str,
        seed: int,
        saw: Saw = lambda _user, _question, _answer: None,
    ) -> None:
        """`name` keeps the users of one experiment apart from those of another; `saw` is called with each answer."""
        self.asked = Asked()
        self._client = client
        self._collection = collection
        self._model = model
        self._saw = saw
        self._chance = np.random.default_rng(seed)
        self._people = self._coming(name)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[Asked]:
        """People ask until the end of the block."""
        tasks = [asyncio.create_task(self._ask_on()) for _ in range(ASKERS)]
        try:
            yield self.asked
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException) and not isinstance(error, asyncio.CancelledError):
                raise error

    def _coming(self, name: str) -> Iterator[_Person]:
        number = 0
        while True:
            people = drawn(_DRAWN_AT_ONCE, self._chance)
            for questions, eagerness in zip(people.questions, people.eagerness, strict=True):
                asked = self._chance.integers(len(self._collection.questions), size=questions).tolist()
                yield _Person(f"{name}-{number}", asked, float(eagerness))
                number += 1

    async def _ask_on(self) -> None:
        for person in self._people:
            self.asked.users += 1
            for question in person.questions:
                await self._ask(person, question)

    async def _ask(self, person: _Person, question: int) -> None:
        try:
            answer = await self._client.search(
                self._collection.text(question), limit=RESULTS, collection=self._collection.index, user_id=person.name
            )
        except SluiceError as error:
            self.asked.failed[_named(error)] += 1
            await asyncio.sleep(_PAUSE_SECONDS)
            return
        self.asked.answers += 1
        self._saw(person.name, question, answer)
        if events := self._events(person, question, answer):
            try:
                recorded = await self._client.record_events(events)
            except SluiceError as error:
                self.asked.unrecorded[_named(error)] += 1
                return
            self.asked.events["stored"] += recorded.stored_count
            self.asked.events["duplicate"] += recorded.duplicate_count
            for reason, count in recorded.rejected_counts.items():
                self.asked.events[reason.value] += count

    def _events(self, person: _Person, question: int, answer: Answer) -> list[Event]:
        grades = self._collection.grades(question, [result.passage.id for result in answer.results])
        clicked = self._model.clicked(grades[None], np.array([person.eagerness]), self._chance)[0]
        places = np.flatnonzero(clicked).tolist()
        self.asked.clicks += len(places)
        events = [Event.click(answer, answer.results[place]) for place in places]
        if self._chance.random() < _RATED:
            events.append(Event.thumbs(answer, up=bool((grades[clicked] > 0).any())))
        return events


def _named(error: SluiceError) -> str:
    return f"{error.code.name} {error.reason}".rstrip()
