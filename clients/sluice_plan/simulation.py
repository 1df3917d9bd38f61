"""Searches played through one by one, where stages share the processors of one machine.

Processor sharing among stages that each serve in order of arrival has no formula that is right about a p99: whoever
meets another search is slowed down in all stages, and most searches meet nobody. So this is a discrete-event simulation
(Law, Simulation Modeling and Analysis, chapter 1): whatever runs gets an equal part of the processors, between two
events every speed is constant, and the next event is found by looking. The same seed gives the same answer.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

_INSTANT = 1e-12


@dataclass(frozen=True, slots=True)
class Work:
    """What a search does at one station."""

    station: str
    seconds: float
    """Mean, alone on the machine; gamma distributed."""
    cv: float
    threads: float
    """That run meanwhile."""
    queues: bool = True
    """Whether the station does this for one search, or one batch of searches, at a time; otherwise for all at once."""
    batch: int = 1
    """Searches that a station takes together, of those that wait when it becomes free: without a timer."""
    once_seconds: float = 0.0
    """Part of `seconds` that a batch takes once, however many searches are in it."""


@dataclass(slots=True)
class Outcome:
    """What became of the searches."""

    seconds: list[float]
    """Of every search that was answered, in the order of the answers."""
    per_second: float
    """Searches answered a second."""
    in_system: float
    """Searches under way, on average over time."""
    busy: dict[str, float]
    """The share of time that each station was taken."""
    station_seconds: dict[str, list[float]]
    """Every search's time at each station, waiting included, all its works there together."""


@dataclass(slots=True, eq=False)
class _Search:
    arrived: float
    next_step: int = 0
    parts_left: int = 0
    at: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Chain:
    """Works of a search that come one after the other."""

    search: _Search
    works: Sequence[Work]
    next_work: int = 0
    since: float = 0.0

    @property
    def work(self) -> Work:
        return self.works[self.next_work]


@dataclass(slots=True, eq=False)
class _Running:
    """Works of the same kind that run together and end together."""

    chains: Sequence[_Chain]
    work: Work
    left: float


def simulate(
    steps: Sequence[Sequence[Sequence[Work]]],
    cores: float,
    *,
    rate: float = 0.0,
    callers: int = 0,
    searches: int,
    warm_up: int = 0,
    seed: int = 0,
) -> Outcome:
    """Searches that do step after step. A step is chains side by side, a chain is works one after the other.

    They arrive at random moments at a rate (Poisson), or from so many callers who ask again at once. `cores` may be
    infinite: then every station has its own. The first `warm_up` answers are left out.
    """
    chance = random.Random(seed)  # noqa: S311  # arrivals, not secrets
    return _Machine(steps, cores, rate, chance).run(callers, searches, warm_up)


class _Machine:
    def __init__(
        self, steps: Sequence[Sequence[Sequence[Work]]], cores: float, rate: float, chance: random.Random
    ) -> None:
        self._steps = steps
        self._cores = cores
        self._rate = rate
        self._chance = chance
        names = dict.fromkeys(work.station for step in steps for chain in step for work in chain)
        self._waiting: dict[str, deque[_Chain]] = {name: deque() for name in names}
        self._taken: dict[str, _Running] = {}
        self._running: list[_Running] = []
        self._now = 0.0

    def run(self, callers: int, searches: int, warm_up: int) -> Outcome:
        outcome = Outcome([], 0.0, 0.0, dict.fromkeys(self._waiting, 0.0), {name: [] for name in self._waiting})
        due = self._chance.expovariate(self._rate) if self._rate else math.inf
        under_way = answered = 0
        area = began = 0.0
        for _ in range(callers):
            under_way += 1
            self._enter(_Search(0.0))
        while answered < searches + warm_up:
            slow = max(1.0, sum(one.work.threads for one in self._running) / self._cores)
            first = min((one.left for one in self._running), default=math.inf) * slow
            step = min(first, due - self._now)
            self._now += step
            area += under_way * step
            for one in self._running:
                one.left -= step / slow
            for name in self._taken:
                outcome.busy[name] += step
            if step < first:
                due = self._now + self._chance.expovariate(self._rate)
                under_way += 1
                self._enter(_Search(self._now))
                continue
            for search in self._finished():
                answered += 1
                if answered > warm_up:
                    outcome.seconds.append(self._now - search.arrived)
                    for name, seconds in search.at.items():
                        outcome.station_seconds[name].append(seconds)
                elif answered == warm_up:
                    began, area, outcome.busy = self._now, 0.0, dict.fromkeys(outcome.busy, 0.0)
                if callers:
                    self._enter(_Search(self._now))
                else:
                    under_way -= 1
        span = self._now - began
        outcome.per_second = searches / span
        outcome.in_system = area / span
        outcome.busy = {name: seconds / span for name, seconds in outcome.busy.items()}
        return outcome

    def _enter(self, search: _Search) -> None:
        step = self._steps[search.next_step]
        search.parts_left = len(step)
        for works in step:
            self._come(_Chain(search, works))

    def _come(self, chain: _Chain) -> None:
        """A chain is at its next work."""
        station = chain.work.station
        chain.since = self._now
        if not chain.work.queues:
            self._begin([chain])
        elif station in self._taken:
            self._waiting[station].append(chain)
        else:
            self._taken[station] = self._begin([chain])

    def _begin(self, chains: Sequence[_Chain]) -> _Running:
        each = [self._seconds(chain.work) for chain in chains]
        saved = sum(chain.work.once_seconds for chain in chains[1:])
        running = _Running(chains, chains[0].work, max(sum(each) - saved, *each))
        self._running.append(running)
        return running

    def _seconds(self, work: Work) -> float:
        if not work.cv:
            return work.seconds
        return self._chance.gammavariate(work.cv**-2, work.seconds * work.cv**2)

    def _next_batch(self, station: str) -> list[_Chain]:
        waiting = self._waiting[station]
        return [waiting.popleft() for _ in range(min(len(waiting), waiting[0].work.batch))]

    def _finished(self) -> list[_Search]:
        """Ends what is done, begins what waited for it, and answers the searches that are through."""
        through = []
        for one in [one for one in self._running if one.left <= _INSTANT]:
            self._running.remove(one)
            name = one.work.station
            if self._taken.get(name) is one:
                del self._taken[name]
                if self._waiting[name]:
                    self._taken[name] = self._begin(self._next_batch(name))
            for chain in one.chains:
                chain.search.at[name] = chain.search.at.get(name, 0.0) + self._now - chain.since
                if self._went_on(chain):
                    through.append(chain.search)
        return through

    def _went_on(self, chain: _Chain) -> bool:
        """Goes on to what comes next; whether that was the search's end."""
        search = chain.search
        chain.next_work += 1
        if chain.next_work < len(chain.works):
            self._come(chain)
            return False
        search.parts_left -= 1
        if search.parts_left:
            return False
        search.next_step += 1
        if search.next_step < len(self._steps):
            self._enter(search)
            return False
        return True
