"""How long one waits: for one or several servers, and for a model that computes whatever waits in one pass.

Arrivals are Poisson: very many people who know nothing of one another. Times are distributions on a grid, rates in
calls a second. A queue that cannot keep up waits for ever, which is the grid's last place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from sluice_plan.times import Array, Grid, Times, geometric_sum, mixture

NEARLY_SATURATED = 0.985
"""Beyond this use of its capacity a queue counts as endless: what is left is within the error of any measurement."""

Counts = NDArray[np.int64]

_MOST_CALLS = 128  # that a pass is planned to hold: more wait only in stages that are about to be overrun
_LONGEST_QUEUE = 256  # calls, beyond one pass
_MOST_PASSES = 24  # that a call waits for
_MOMENTS = 8  # of a pass, at which a call may come
_NEGLIGIBLE = 1e-7
_STEADY = 0.01  # spread below which a pass always takes the same time


def servers_wait(grid: Grid, rate: float, service: float, cv: float, servers: int = 1) -> Times:
    """The wait for one of some equal servers, first come, first served.

    Exact for one: the formula of Pollaczek and Khinchine, as a geometric sum of residual service times. For several it
    takes the chance to wait of Erlang's C formula, and who waits does so as for one server that is so many times as
    quick (Tijms, A First Course in Stochastic Models, 2003, 9.6; its mean is that of Allen and Cunneen).
    """
    use = rate * service / servers
    if use >= NEARLY_SATURATED:
        return endless(grid)
    residual = Times.gamma(grid, service / servers, cv).residual()
    waiting = residual.then(geometric_sum(residual, use))
    chance = erlang_c(servers, rate * service)
    return mixture([(1 - chance, Times.exactly(grid, 0.0)), (chance, waiting)])


def erlang_c(servers: int, load: float) -> float:
    """The chance that all of the servers are busy (Erlang, 1917); `load` is in servers' worth of work."""
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    use = load / servers
    return blocked / (1 - use * (1 - blocked))


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """What becomes of calls of a model."""

    wait: Times
    """Until the pass begins that computes the call, or its last part."""
    sojourn: Times
    """Until that pass ends."""
    calls_a_pass: float


@dataclass(frozen=True, slots=True)
class BatchServer:
    """A model without a timer: a pass takes whatever waits, `limit` calls at most, and the next one begins at once."""

    pass_seconds: Callable[[int], float]
    """Mean time of a pass of so many calls."""
    limit: int
    cv: float
    """Standard deviation of a pass of a given size over its mean."""

    @property
    def capacity(self) -> float:
        """Calls a second, when every pass is full."""
        return self.limit / self.pass_seconds(self.limit)

    def answer(self, grid: Grid, rate: float) -> BatchAnswer:
        """The bulk-service queue M/G(1,b)/1 (Bailey, 1954; Neuts, 1967), by its Markov chain at the starts of passes.

        GPU servers are described so by Inoue (Performance Evaluation 147, 2021), for passes without a limit. What an
        arrival meets follows from Poisson arrivals seeing time averages. That one sees a pass at one of eight moments,
        and that who comes later lengthens its pass by the mean, are the approximations.
        """
        if rate >= NEARLY_SATURATED * self.capacity:
            return BatchAnswer(endless(grid), endless(grid), self.limit)
        if self.limit == 1:
            service = self.pass_seconds(1)
            wait = servers_wait(grid, rate, service, self.cv)
            return BatchAnswer(wait, wait.then(Times.gamma(grid, service, self.cv)), 1.0)
        return self._answer_in_batches(grid, rate)

    def _answer_in_batches(self, grid: Grid, rate: float) -> BatchAnswer:
        limit = min(self.limit, _MOST_CALLS)
        longest = limit + _LONGEST_QUEUE
        passes = np.array([0.0, *(self.pass_seconds(calls) for calls in range(1, limit + 1))])
        waiting = np.arange(1, longest + 1, dtype=np.int64)
        taken = np.minimum(waiting, limit)
        during = [self._arrivals(rate * seconds, longest) for seconds in passes]
        shares = _stationary(waiting, taken, during)
        busy = shares * passes[taken]
        idle = float(shares[:limit] @ [chances[0] for chances in during[1:]]) / rate
        cycle = float(busy.sum()) + idle

        # Who finds it idle is computed at once; who finds a pass waits for what is left of it, for the full passes of
        # those ahead, and then for their own, in which others may take part who come later.
        rows: list[Array] = [np.zeros(1)]
        lefts, extras, weights = [np.zeros(1)], [np.zeros(1)], [np.full(1, idle / cycle)]
        met = passes * (1 + self.cv**2)  # a pass that is met is longer than others (length bias)
        moments = (np.arange(_MOMENTS) + 0.5) / _MOMENTS
        earlier: dict[int, list[Array]] = {}
        for start, number, part in zip(waiting, taken, busy / cycle, strict=True):
            if part < _NEGLIGIBLE:
                continue
            if number not in earlier:
                earlier[number] = [self._arrivals(rate * met[number] * moment, longest) for moment in moments]
            for moment, before in zip(moments, earlier[number], strict=True):
                left = met[number] * (1 - moment)
                ahead = start - number + np.arange(len(before))
                full_passes = np.minimum(ahead // limit, _MOST_PASSES - 1)
                later = rate * (left + full_passes * passes[limit])
                for side in (-1, 1):  # as many as come in the mean, give or take a standard deviation
                    size = np.minimum(limit, ahead % limit + 1 + later + side * np.sqrt(later))
                    rows.append(full_passes)
                    lefts.append(np.full(len(before), left))
                    extras.append(np.interp(size, np.arange(1, limit + 1), passes[1:]) - passes[1])
                    weights.append(part * before / _MOMENTS / 2)
        row, left, extra, weight = (np.concatenate(parts) for parts in (rows, lefts, extras, weights))
        full = Times.gamma(grid, passes[limit], self.cv)
        wait = _after_full_passes(grid, row.astype(int), left, weight, full)
        sojourn = _after_full_passes(grid, row.astype(int), left + extra, weight, full)
        return BatchAnswer(wait, sojourn.then(Times.gamma(grid, passes[1], self.cv)), float(shares @ taken))

    def _arrivals(self, mean: float, most: int) -> Array:
        """The chances of 0, 1, 2, ... arrivals in a time of gamma distribution, as far as they matter: a negative
        binomial distribution. What is beyond `most` is its last."""
        counts = np.arange(min(most, int(mean + 8 * math.sqrt(mean * (1 + mean * self.cv**2)) + 8)) + 1)
        shape = max(self.cv, _STEADY) ** -2
        chances = np.exp(
            gammaln(counts + shape) - gammaln(shape) - gammaln(counts + 1)
            + shape * math.log(shape / (shape + mean))
            + (counts * math.log(mean / (shape + mean)) if mean else np.where(counts, -np.inf, 0.0))
        )  # fmt: skip
        chances[-1] += max(0.0, 1 - float(chances.sum()))
        return np.asarray(chances)


def _stationary(waiting: Counts, taken: Counts, during: Sequence[Array]) -> Array:
    """How often each number of calls waits at the start of a pass."""
    longest = len(waiting)
    moves = np.zeros((longest, longest))
    for row, (start, number) in enumerate(zip(waiting, taken, strict=True)):
        chances = during[number]
        # Left over and come meanwhile; where that is nobody, the pass begins with the next to come.
        after = np.minimum(np.maximum(start - number + np.arange(len(chances)), 1), longest)
        moves[row] = np.bincount(after - 1, chances, longest)
    balance = moves.T - np.eye(longest)
    balance[-1] = 1.0
    shares = np.maximum(np.linalg.solve(balance, np.eye(longest)[-1]), 0.0)
    return np.asarray(shares / shares.sum())


def _after_full_passes(grid: Grid, row: Array, seconds: Array, weights: Array, full: Times) -> Times:
    """Durations by chance, each after so many full passes as its row says."""
    place = np.minimum(seconds / grid.step, grid.places - 1.001)
    low = place.astype(int)
    size = _MOST_PASSES * grid.places
    parts = np.bincount(row * grid.places + low, weights * (1 - (place - low)), size)
    parts += np.bincount(row * grid.places + low + 1, weights * (place - low), size)
    total, passes = np.zeros(grid.places), Times.exactly(grid, 0.0)
    for part in parts.reshape(_MOST_PASSES, grid.places):
        if weight := float(part.sum()):
            total += weight * Times(grid, part / weight).then(passes).shares
        passes = passes.then(full)
    return Times(grid, total / total.sum())


def endless(grid: Grid) -> Times:
    """Longer than anything."""
    return Times.exactly(grid, grid.end)
