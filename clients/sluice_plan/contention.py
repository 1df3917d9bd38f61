"""What stages cost one another that share the processors of one machine.

The kernel gives every thread that wants to run an equal part (processor sharing). How many want to is taken as if the
stages were busy independently of one another, each for the share of time that its own slowed-down work needs: a mean
field, found as a fixed point.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_ITERATIONS = 200
_DAMPING = 0.5
_CLOSE = 1e-6
_SATURATED = 1.0
_BISECTIONS = 30


@dataclass(frozen=True, slots=True)
class Worker:
    """Something that runs on the machine: a stage, or whoever asks."""

    busy_seconds: float
    """That a search keeps it busy, alone on the machine. It serves one search at a time."""
    cpu_seconds: float
    """Processor time that it uses meanwhile."""

    @property
    def threads(self) -> float:
        """That run while it is busy."""
        return self.cpu_seconds / self.busy_seconds if self.busy_seconds else 0.0


def slowdowns(workers: Mapping[str, Worker], rate: float, cores: float) -> dict[str, float]:
    """How many times as long everybody takes at so many searches a second, compared with being alone."""
    slow = dict.fromkeys(workers, 1.0)
    for _ in range(_ITERATIONS):
        busy = {name: min(1.0, rate * worker.busy_seconds * slow[name]) for name, worker in workers.items()}
        fresh = {name: _slowdown(name, workers, busy, cores) for name in workers}
        if all(abs(fresh[name] - slow[name]) < _CLOSE for name in workers):
            break
        slow = {name: slow[name] + _DAMPING * (fresh[name] - slow[name]) for name in workers}
    return slow


def busy_shares(workers: Mapping[str, Worker], rate: float, cores: float) -> dict[str, float]:
    """The share of time that everybody is busy; from 1 on they cannot keep up."""
    slow = slowdowns(workers, rate, cores)
    return {name: rate * worker.busy_seconds * slow[name] for name, worker in workers.items()}


def capacity(workers: Mapping[str, Worker], cores: float) -> tuple[float, str]:
    """Searches a second at which the first of them cannot keep up any more, and which one that is."""
    high = cores / sum(worker.cpu_seconds for worker in workers.values())
    low = 0.0
    for _ in range(_BISECTIONS):
        rate = (low + high) / 2
        if max(busy_shares(workers, rate, cores).values()) < _SATURATED:
            low = rate
        else:
            high = rate
    shares = busy_shares(workers, low, cores)
    return low, max(shares, key=lambda name: shares[name])


def _slowdown(name: str, workers: Mapping[str, Worker], busy: Mapping[str, float], cores: float) -> float:
    """The mean of threads that want to run over processors, where that is more than one, while this one is busy."""
    own = workers[name].threads
    others = [other for other in workers if other != name]
    running = _subsets(len(others))
    chances = np.where(running, [busy[other] for other in others], [1 - busy[other] for other in others]).prod(axis=1)
    threads = own + running @ np.array([workers[other].threads for other in others])
    return float(chances @ np.maximum(1.0, threads / cores)) / max(1.0, own / cores)


@lru_cache
def _subsets(count: int) -> NDArray[np.bool_]:
    """A row for each way in which some of so many can be running."""
    return np.array(list(itertools.product((False, True), repeat=count)))
