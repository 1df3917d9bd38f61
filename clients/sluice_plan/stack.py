"""Searches on their way through the stages of a stack.

    gateway ─┬─▶ expander ───────────┬─▶ embedder (variants) ─▶ retriever ─▶ reranker
             └─▶ embedder (query) ───┘

On one machine all stages are simulated together. With replicas of their own each stage is simulated alone, one replica
with its share of the searches (Poisson), and a search's time is the sum over its steps: so a prediction takes as long
for a thousand replicas as for one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sluice_plan.measurements import MODEL_STAGES, Feature, Measurements, SearchCost, Stage
from sluice_plan.simulation import Chain, Outcome, Step, Work, simulate
from sluice_statistics.percentiles import percentile

Times = NDArray[np.float64]

SIMULATED = 8000  # searches: a p99 at 0.75 of capacity is then known to about 10 %
PERCENTILES = (50, 90, 95, 99)
NEARLY_SATURATED = 0.985
"""Use of the capacity from which on queues count as endless: the rest is within the error of any measurement."""
_SIGNALS: Mapping[Stage, str] = {
    "gateway": "grpc_server_in_flight",
    "embedder": 'sluice_queued_tokens{lane="interactive"}',
    "retriever": "grpc_server_in_flight",
    "reranker": 'sluice_queued_tokens{lane="interactive"}',
}
_SHORTEST_MS = 0.01  # processor time too short to be counted is not nothing
_CALLERS = 12  # that find out how much a machine can do
_ENDLESS = np.array([math.inf])


@dataclass(frozen=True, slots=True)
class Search:
    """A kind of search."""

    features: frozenset[Feature]
    candidates: int | None = None
    """To rerank; None is what was measured."""


@dataclass(frozen=True, slots=True)
class StageState:
    """One stage under load. Figures are for each replica; times are those of a search, all its calls together."""

    replicas: int
    use: float
    """Of its capacity; from 1 on it cannot keep up."""
    mean_ms: float
    p50_ms: float
    p99_ms: float
    cores: float
    """To request."""
    cpu_percent: int
    """Processor time in percent of that, for an autoscaler to fall back on."""
    signal: str
    """Series that an autoscaler averages over pods; empty for a stage that has processor time alone."""
    signal_target: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """Searches at a rate. Times are infinite where the stack cannot keep up."""

    qps: float
    mean_ms: float
    percentiles: Mapping[int, float]
    """In milliseconds, of whole searches."""
    stages: Mapping[Stage, StageState]
    capacity: float
    """Searches a second that cannot be exceeded."""
    saturating: Stage
    """The stage that gives way first as the rate grows."""

    @property
    def keeps_up(self) -> bool:
        """True if all searches are answered."""
        return math.isfinite(self.percentiles[99])


class Stack:
    """Predicts from measurements. Keeps what was simulated, since sizing changes one stage at a time."""

    def __init__(
        self,
        measurements: Measurements,
        simulated: int = SIMULATED,
        on_simulation: Callable[[], None] = lambda: None,
    ) -> None:
        self.measurements = measurements
        self._simulated = simulated
        self._on_simulation = on_simulation
        self._steps = lru_cache(maxsize=None)(self._compute_steps)
        self._replica = lru_cache(maxsize=None)(self._simulate_replica)

    def alone(self, search: Search) -> Prediction:
        """Predict a search that meets no other. Raises UnfitMeasurementsError for features that were not measured."""
        found = self._run(self._steps(search), callers=1, searches=self._simulated // 2)
        return self._prediction(search, 0.0, found.times, found.station_times, {}, (math.inf, "gateway"))

    def predict(self, search: Search, qps: float, replicas: Mapping[Stage, int]) -> Prediction:
        """Predict searches where every replica has its own processors."""
        stages = self._cost(search).stages
        rates = {stage: replicas[stage] * self.replica_capacity(search, stage) for stage in stages}
        saturating = min(rates, key=lambda stage: rates[stage])
        uses = {stage: (replicas[stage], qps / rates[stage]) for stage in stages}
        limit = rates[saturating], saturating
        if qps >= NEARLY_SATURATED * limit[0]:
            return self._prediction(search, qps, _ENDLESS, {}, uses, limit)
        alone = {stage: self._replica(search, stage, qps / replicas[stage]) for stage in stages}
        times = np.zeros(self._simulated)
        for number, step in enumerate(self._steps(search)):
            times += np.max([alone[chain.station][1][number] for chain in step], axis=0)  # type: ignore[index]
        return self._prediction(search, qps, times, {stage: found for stage, (found, _) in alone.items()}, uses, limit)

    def predict_together(self, search: Search, qps: float, cores: float) -> Prediction:
        """Predict searches where one of each stage, and the caller, share one machine's processors."""
        stages, steps = self._cost(search).stages, self._steps(search)
        most = self._run(steps, callers=_CALLERS, cores=cores, searches=self._simulated // 4)
        limit = most.rate * 1000, max(stages, key=lambda stage: most.busy[stage])
        if qps >= NEARLY_SATURATED * limit[0]:
            return self._prediction(search, qps, _ENDLESS, {}, dict.fromkeys(stages, (1, qps / limit[0])), limit)
        found = self._run(steps, rate=qps / 1000, cores=cores, searches=self._simulated)
        uses = {stage: (1, found.busy[stage]) for stage in stages}
        return self._prediction(search, qps, found.times, found.station_times, uses, limit)

    def replica_capacity(self, search: Search, stage: Stage) -> float:
        """Searches a second that one replica of a stage cannot exceed, every pass of a model being full."""
        chains = (chain for step in self._steps(search) for chain in step if chain.station == stage)
        works = [work for chain in chains for work in chain.works if work.servers]
        held = sum(work.once / work.batch + work.time - work.once for work in works)
        cpu = 0.0 if stage in MODEL_STAGES else self._cost(search).stages[stage].cpu_ms
        return 1000 * works[0].servers / max(held, cpu)

    def _cost(self, search: Search) -> SearchCost:
        return self.measurements.cost(search.features, search.candidates)

    def _run(self, steps: Sequence[Step], *, seed: int = 0, **load: float) -> Outcome:
        self._on_simulation()
        return simulate(steps, seed=seed, **load)  # type: ignore[arg-type]

    def _simulate_replica(self, search: Search, stage: Stage, qps: float) -> tuple[Times, dict[int, Times]]:
        """One replica: a search's times in the stage, and in each step that takes part."""
        steps = enumerate(self._steps(search))
        own = {number: [chain] for number, step in steps for chain in step if chain.station == stage}
        # Another seed for each stage: times that move together would add up to too wide a spread.
        seed = list(self._cost(search).stages).index(stage)
        found = self._run(list(own.values()), rate=qps / 1000, searches=self._simulated, seed=seed)
        by_step = {number: np.asarray(times) for number, times in zip(own, found.step_times, strict=True)}
        return np.asarray(found.station_times[stage]), by_step

    def _prediction(
        self,
        search: Search,
        qps: float,
        times: Sequence[float] | Times,
        stage_times: Mapping[str, Sequence[float]] | Mapping[Stage, Times],
        uses: Mapping[Stage, tuple[int, float]],
        limit: tuple[float, Stage],
    ) -> Prediction:
        states = {}
        for stage, cost in self._cost(search).stages.items():
            found = stage_times.get(stage, _ENDLESS)
            replicas, use = uses.get(stage, (1, 0.0))
            rate, mean = qps / replicas / 1000, float(np.mean(found))
            cores = float(self.measurements.measured.cores)
            target = rate * mean  # calls under way, by Little's law
            if stage in MODEL_STAGES:  # tokens that wait; less than those of one call are no queue
                target = max(1.0, rate * max(0.0, mean - cost.wall_ms)) * cost.tokens / cost.calls
            else:  # a process gets the processors that it can use
                cores = float(max(1, math.ceil(self.replica_capacity(search, stage) * cost.cpu_ms / 1000 - 0.05)))
            signal = _SIGNALS.get(stage, "")
            states[stage] = StageState(
                replicas=replicas,
                use=use,
                mean_ms=mean,
                p50_ms=_at(found, 50),
                p99_ms=_at(found, 99),
                cores=cores,
                cpu_percent=max(1, min(100, round(100 * rate * cost.cpu_ms / cores))),
                signal=signal,
                signal_target=math.ceil(target) if signal and math.isfinite(target) else 0,
            )
        percentiles = {percent: _at(times, percent) for percent in PERCENTILES}
        return Prediction(qps, float(np.mean(times)), percentiles, states, *limit)

    def _compute_steps(self, search: Search) -> list[Step]:
        """A search as works: what holds a stage, and what goes on around it."""
        cost, first = self._cost(search), 1.0
        if "expander" in cost.stages:  # the query is embedded before the variants, as without expansion
            alone = self.measurements.cost(search.features - {"expansion"}).stages["embedder"].wall_ms
            first = min(0.9, alone / cost.stages["embedder"].wall_ms)
        calls = [[self._chain("embedder", cost, first)]]
        if "expander" in cost.stages:
            calls[0].append(self._chain("expander", cost))
            calls.append([self._chain("embedder", cost, 1 - first)])
        calls += [[self._chain(stage, cost)] for stage in ("retriever", "reranker") if stage in cost.stages]
        gateway = cost.stages["gateway"]
        # Before, between and after the calls the gateway has its part to do, and so has the caller meanwhile.
        threads = (gateway.cpu_ms + cost.caller_cpu_ms) / gateway.wall_ms
        between = [Chain("gateway", [Work(gateway.wall_ms / (len(calls) + 1), min(1.0, gateway.wall_cv), threads)])]
        return [between, *(step for call in calls for step in (call, between))]

    def _chain(self, stage: Stage, search: SearchCost, part: float = 1.0) -> Chain:
        """One call of a stage, which is a part of all its calls."""
        cost = search.stages[stage]
        busy = min(max(_SHORTEST_MS, cost.busy_ms), cost.wall_ms)
        around, threads, batch, once = cost.wall_ms - busy, cost.cpu_ms / busy, 1, 0.0
        if stage in MODEL_STAGES:
            model = self.measurements.models[stage]
            threads = min(threads, model.cores)
            batch = max(1, int(model.batch_tokens / max(1.0, cost.tokens / cost.calls)))
            once = max(0.0, busy - cost.tokens * model.token_ms)
        servers = self.measurements.measured.connections if stage == "retriever" else 1
        held = Work(busy * part, min(1.0, cost.wall_cv), threads, servers, batch, once * part)
        if not around:
            return Chain(stage, [held])
        left = max(0.0, cost.cpu_ms - busy * threads) / around
        return Chain(stage, [Work(around * part, threads=left, servers=0), held])


def _at(times: Sequence[float] | Times, percent: float) -> float:
    return math.inf if times is _ENDLESS else percentile(times, percent)
