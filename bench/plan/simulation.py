"""The same searches, played through one by one: a check of the arithmetic in `sluice_plan` that shares no code with it.

A discrete-event simulation (Law, Simulation Modeling and Analysis, chapter 1) of everything on one machine: stages
serve one thing at a time, in order of arrival, and whatever runs gets an equal part of the processors. Between two
events every speed is constant, so the next event is found by looking.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Work:
    """What a search does at one station."""

    station: str
    seconds: float
    """Mean, alone on the machine; gamma distributed."""
    cv: float
    threads: float


@dataclass(slots=True)
class Outcome:
    """What became of the searches."""

    seconds: list[float]
    """Of every search, in order of arrival."""
    in_system: float
    """Searches under way, on average over time."""
    busy: dict[str, float]
    """The share of time that each station served."""
    span: float
    """Seconds simulated."""


@dataclass(slots=True)
class _Search:
    arrived: float
    done_parts: int = 0
    next_step: int = 0


@dataclass(slots=True)
class _Station:
    waiting: deque[tuple[_Search, Work]] = field(default_factory=deque)
    serving: tuple[_Search, Work] | None = None
    left: float = 0.0
    busy: float = 0.0


def simulate(
    steps: Sequence[Sequence[Work]], rate: float, cores: float, *, searches: int, seed: int, warm_up: int = 0
) -> Outcome:
    """Poisson arrivals, each doing step after step; the works of one step run side by side.

    `cores` may be infinite: then every station has its own. The first `warm_up` searches are left out of `seconds`.
    """
    chance = random.Random(seed)
    stations = {work.station: _Station() for step in steps for work in step}
    seconds: list[float | None] = []
    order: dict[int, int] = {}
    now, due, arrived, answered = 0.0, chance.expovariate(rate), 0, 0
    area, under_way = 0.0, 0

    def enter(search: _Search) -> None:
        search.done_parts = 0
        for work in steps[search.next_step]:
            stations[work.station].waiting.append((search, work))

    while answered < searches:
        for station in stations.values():
            if station.serving is None and station.waiting:
                station.serving = station.waiting.popleft()
                work = station.serving[1]
                shape = work.cv**-2 if work.cv else 0.0
                station.left = chance.gammavariate(shape, work.seconds / shape) if shape else work.seconds
        active = [station for station in stations.values() if station.serving is not None]
        threads = sum(station.serving[1].threads for station in active if station.serving)
        slow = max(1.0, threads / cores)
        until_done = min((station.left for station in active), default=float("inf")) * slow
        step = min(until_done, due - now)
        area += under_way * step
        now += step
        for station in active:
            station.left -= step / slow
            station.busy += step
        if now >= due - 1e-12 and step < until_done:
            search = _Search(now)
            order[id(search)] = arrived
            seconds.append(None)
            arrived += 1
            under_way += 1
            due = now + chance.expovariate(rate)
            enter(search)
            continue
        for station in active:
            if station.left <= 1e-12 and station.serving:
                search, _ = station.serving
                station.serving = None
                search.done_parts += 1
                if search.done_parts < len(steps[search.next_step]):
                    continue
                search.next_step += 1
                if search.next_step < len(steps):
                    enter(search)
                else:
                    seconds[order.pop(id(search))] = now - search.arrived
                    under_way -= 1
                    answered += 1
    whole = [value for value in seconds[warm_up:] if value is not None]
    return Outcome(whole, area / now, {name: station.busy / now for name, station in stations.items()}, now)


def simulate_batches(
    rate: float, pass_seconds: Sequence[float], cv: float, *, calls: int, seed: int
) -> tuple[list[float], float]:
    """One model that computes whatever waits: how long calls take, and calls a pass.

    `pass_seconds[n - 1]` is the mean time of a pass of n calls, which are at most as many as it has entries.
    """
    chance = random.Random(seed)
    arrivals: list[float] = []
    moment = 0.0
    for _ in range(calls):
        moment += chance.expovariate(rate)
        arrivals.append(moment)
    now, first, passes = 0.0, 0, 0
    seconds: list[float] = []
    while first < calls:
        now = max(now, arrivals[first])
        last = first
        while last < calls and last - first < len(pass_seconds) and arrivals[last] <= now:
            last += 1
        mean = pass_seconds[last - first - 1]
        now += chance.gammavariate(cv**-2, mean * cv**2) if cv else mean
        seconds += [now - arrived for arrived in arrivals[first:last]]
        passes += 1
        first = last
    return seconds, calls / passes
