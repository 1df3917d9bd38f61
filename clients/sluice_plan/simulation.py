"""A discrete-event simulation of searches (Law, Simulation Modeling and Analysis, chapter 1).

Whatever runs shares the processors equally, so all of it is slowed down alike: a work ends at a moment of a virtual
time that passes more slowly while more threads run than there are processors. Any unit of time; the same seed gives
the same answer.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

WARM_UP = 300  # answers that are left out


@dataclass(frozen=True, slots=True)
class Work:
    """Work of a search at a station."""

    time: float
    """Mean, alone on the machine; gamma distributed."""
    cv: float = 0.0
    threads: float = 1.0
    """Threads that run meanwhile."""
    servers: int = 1
    """Works that the station does at once, in order of arrival; 0 for any number."""
    batch: int = 1
    """Most works of one pass, which takes those that wait when it begins."""
    once: float = 0.0
    """Part of `time` that a pass takes once, however many works are in it."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Works at one station, one after the other."""

    station: str
    works: Sequence[Work]


Step = Sequence[Chain]
"""Chains of different stations at the same time; the next step begins when all have ended."""


@dataclass(slots=True)
class Outcome:
    """Results of a simulation."""

    times: list[float]
    """Of every search, in the order of the answers."""
    step_times: list[list[float]]
    """Of every step, in the same order of searches."""
    station_times: dict[str, list[float]]
    """Of every search at each station, waiting included."""
    rate: float
    """Searches answered per unit of time."""
    busy: dict[str, float]
    """Share of time that each station worked."""


@dataclass(slots=True, eq=False)
class _Search:
    began: float
    step_began: float = 0.0
    step: int = -1
    chains_left: int = 0
    step_times: list[float] = field(default_factory=list)
    station_times: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Progress:
    """A search on a chain."""

    search: _Search
    chain: Chain
    place: int = 0

    @property
    def work(self) -> Work:
        return self.chain.works[self.place]


def simulate(
    steps: Sequence[Step],
    *,
    rate: float = 0.0,
    callers: int = 0,
    cores: float = math.inf,
    searches: int,
    seed: int = 0,
) -> Outcome:
    """Simulate searches that go through all steps, on one machine.

    They arrive at random moments at a rate (Poisson), or from callers who ask again at once.
    """
    return _Simulation(steps, cores, random.Random(seed)).run(rate, callers, searches)  # noqa: S311  # no secret


class _Simulation:
    def __init__(self, steps: Sequence[Step], cores: float, chance: random.Random) -> None:
        self._steps = steps
        self._cores = cores
        self._chance = chance
        stations = dict.fromkeys(chain.station for step in steps for chain in step)
        self._waiting: dict[str, deque[_Progress]] = {station: deque() for station in stations}
        self._taken = dict.fromkeys(stations, 0)
        self._busy = dict.fromkeys(stations, 0.0)
        self._running: list[tuple[float, int, float, list[_Progress]]] = []
        self._count = itertools.count()
        self._now = self._virtual = self._threads = 0.0

    def run(self, rate: float, callers: int, searches: int) -> Outcome:
        done: list[tuple[float, _Search]] = []
        began = 0.0
        arrival = self._chance.expovariate(rate) if rate else math.inf
        for _ in range(callers):
            self._go_on(_Search(0.0))
        while len(done) < searches + WARM_UP:
            slowdown = max(1.0, self._threads / self._cores)
            end = self._now + (self._running[0][0] - self._virtual) * slowdown if self._running else math.inf
            if arrival < end:
                self._virtual += (arrival - self._now) / slowdown
                self._now = arrival
                arrival += self._chance.expovariate(rate)
                self._go_on(_Search(self._now))
                continue
            self._now = end
            for search in self._ended():
                done.append((self._now - search.began, search))
                if len(done) == WARM_UP:
                    began, self._busy = self._now, dict.fromkeys(self._busy, 0.0)
                if callers:
                    self._go_on(_Search(self._now))
        counted = done[WARM_UP : WARM_UP + searches]
        span = self._now - began
        return Outcome(
            times=[time for time, _ in counted],
            step_times=[[search.step_times[step] for _, search in counted] for step in range(len(self._steps))],
            station_times={
                station: [search.station_times[station] for _, search in counted] for station in self._waiting
            },
            rate=(len(done) - WARM_UP) / span,
            busy={station: time / span for station, time in self._busy.items()},
        )

    def _go_on(self, search: _Search) -> bool:
        """Begin the next step of a search; False if there is none."""
        search.step += 1
        if search.step == len(self._steps):
            return False
        search.step_began = self._now
        search.chains_left = len(self._steps[search.step])
        for chain in self._steps[search.step]:
            self._arrive(_Progress(search, chain))
        return True

    def _arrive(self, progress: _Progress) -> None:
        work, station = progress.work, progress.chain.station
        if work.servers and self._taken[station] >= work.servers:
            self._waiting[station].append(progress)
        else:
            self._begin([progress])

    def _begin(self, batch: list[_Progress]) -> None:
        work = batch[0].work
        if work.servers:
            self._taken[batch[0].chain.station] += 1
        times = [self._time(progress.work) for progress in batch]
        time = max(sum(times) - sum(progress.work.once for progress in batch[1:]), *times, 0.0)
        self._threads += work.threads
        heappush(self._running, (self._virtual + time, next(self._count), self._now, batch))

    def _time(self, work: Work) -> float:
        return self._chance.gammavariate(work.cv**-2, work.time * work.cv**2) if work.cv else work.time

    def _ended(self) -> list[_Search]:
        """End the pass that is due, and begin what waited for it; the searches that are through."""
        self._virtual, _, began, batch = heappop(self._running)
        work, station = batch[0].work, batch[0].chain.station
        self._threads = self._threads - work.threads if self._running else 0.0
        if work.servers:
            self._busy[station] += (self._now - began) / work.servers
            self._taken[station] -= 1
            if waiting := self._waiting[station]:
                self._begin([waiting.popleft() for _ in range(min(len(waiting), waiting[0].work.batch))])
        return [progress.search for progress in batch if self._is_through(progress)]

    def _is_through(self, progress: _Progress) -> bool:
        """Take a search to its next work or step; True if that was its end."""
        search, station = progress.search, progress.chain.station
        progress.place += 1
        if progress.place < len(progress.chain.works):
            self._arrive(progress)
            return False
        spent = self._now - search.step_began
        search.station_times[station] = search.station_times.get(station, 0.0) + spent
        search.chains_left -= 1
        if search.chains_left:
            return False
        search.step_times.append(spent)
        return not self._go_on(search)
