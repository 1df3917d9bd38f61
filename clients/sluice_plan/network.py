"""Searches on their way through the stages, as a network of queues: how long they take, and what gives way first.

    gateway ─┬─▶ expander ───────────┬─▶ embedder (variants) ─▶ retriever ─▶ reranker
             └─▶ embedder (query) ───┘

The gateway and the expander are event loops that do one thing at a time, the retriever has so many connections, the
model stages compute whatever waits. The stages are taken as independent of one another, each with Poisson arrivals (as
in Jackson's networks; Whitt's decomposition with all variability set to 1), so durations one after the other are
convolved, and what runs side by side is waited for until the later one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from sluice_plan import contention
from sluice_plan.contention import Worker
from sluice_plan.measurements import MODEL_STAGES, STAGES, Feature, Measurements, SearchCost, Stage, StageCost
from sluice_plan.queues import BatchServer, servers_wait
from sluice_plan.times import Grid, Times, sequence

PLACES = 4096
_GRID_REACH = 16.0  # times an undisturbed search
_CALLER = "caller"


@dataclass(frozen=True, slots=True)
class Search:
    """What is asked."""

    features: frozenset[Feature]
    candidates: int | None = None
    """To rerank; None is what was measured."""


@dataclass(frozen=True)
class Layout:
    """On what the stages run."""

    replicas: Mapping[Stage, int] = field(default_factory=dict)
    """Of each stage; 1 where nothing is said."""
    cores: Mapping[Stage, float] = field(default_factory=dict)
    """Of each replica of a model stage; as many as were measured with where nothing is said."""
    shared_cores: float | None = None
    """Processors of one machine that runs everything, whoever asks included; None: every replica has its own."""


@dataclass(frozen=True, slots=True)
class StageState:
    """One stage under load. Figures are for each replica."""

    stage: Stage
    replicas: int
    calls_per_second: float
    use: float
    """Of its capacity; from 1 on it cannot keep up."""
    slowdown: float
    """How many times as long it takes for sharing the machine."""
    mean_seconds: float
    """All of a search's time in this stage, waiting included."""
    p99_seconds: float
    alone_seconds: float
    """The same with nobody else there, in the mean."""
    in_flight: float
    """Calls under way."""
    queued_tokens: float
    """That wait for the model; 0 where there is none."""
    cpu: float
    """Processors kept busy."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What becomes of searches at a rate."""

    qps: float
    times: Times
    """Of whole searches."""
    stages: Mapping[Stage, StageState]
    capacity: float
    """Searches a second that cannot be exceeded."""
    saturating: Stage
    """The stage that gives way first as the rate grows."""

    @property
    def keeps_up(self) -> bool:
        """Whether all stages answer as much as is asked."""
        return self.qps < self.capacity and math.isfinite(self.times.percentile(50))


class Network:
    """Predicts from measurements. Keeps what it has worked out, since sizing changes one stage at a time."""

    def __init__(self, measurements: Measurements) -> None:
        self.measurements = measurements
        self._state = lru_cache(maxsize=4096)(self._compute_state)

    def alone(self, search: Search) -> Prediction:
        """A search that is alone with everything to itself."""
        return self.predict(search, 1e-9, Layout())

    def predict(self, search: Search, qps: float, layout: Layout) -> Prediction:
        """What becomes of so many searches a second. Raises UnfitMeasurementsError for features not measured."""
        cost = self._cost(search)
        grid = Grid(cost.wall_seconds * _GRID_REACH / PLACES, PLACES)
        workers = _workers(cost)
        slow = dict.fromkeys(workers, 1.0)
        if layout.shared_cores is not None:
            slow = contention.slowdowns(workers, qps, layout.shared_cores)
        states: dict[Stage, StageState] = {}
        parts: dict[Stage, tuple[Times, ...]] = {}
        for stage in cost.stages:
            states[stage], parts[stage] = self._state(
                search, stage, qps, layout.replicas.get(stage, 1), layout.cores.get(stage), slow[stage], grid
            )
        if layout.shared_cores is None:
            capacity, saturating = self.capacity(search, layout)
        else:
            capacity, name = contention.capacity(workers, layout.shared_cores)
            saturating = next((stage for stage in STAGES if stage == name), "gateway")  # who asks weighs on it
        return Prediction(qps, _whole(parts), states, capacity, saturating)

    def capacity(self, search: Search, layout: Layout) -> tuple[float, Stage]:
        """Searches a second that replicas with processors of their own cannot exceed, and the stage that says so."""
        rates = {
            stage: layout.replicas.get(stage, 1) * self.replica_capacity(search, stage, layout.cores.get(stage))
            for stage in self._cost(search).stages
        }
        saturating = min(rates, key=lambda stage: rates[stage])
        return rates[saturating], saturating

    def replica_capacity(self, search: Search, stage: Stage, cores: float | None = None) -> float:
        """Searches a second that one replica of a stage cannot exceed."""
        cost = self._cost(search).stages[stage]
        if stage in MODEL_STAGES:
            return self._batch_server(stage, cost, self._time_factor(stage, cores)).capacity / cost.calls
        servers = self._servers(stage)
        return min(servers / cost.busy_seconds, max(1.0, servers) / cost.cpu_seconds)

    def _cost(self, search: Search) -> SearchCost:
        return self.measurements.cost(search.features, search.candidates)

    def _compute_state(
        self, search: Search, stage: Stage, qps: float, replicas: int, cores: float | None, slow: float, grid: Grid
    ) -> tuple[StageState, tuple[Times, ...]]:
        """One stage, and the times of a search's calls of it."""
        cost = self._cost(search).stages[stage]
        rate = qps / replicas
        if stage in MODEL_STAGES:
            pace = slow * self._time_factor(stage, cores)
            return self._model_state(search, stage, cost, rate, replicas, pace, slow, grid)
        servers = self._servers(stage)
        # The gateway's loop is asked at the start and after each of the stages; what it has to do then is a part.
        bursts = 2 + len(self._cost(search).stages) if stage == "gateway" else 1
        busy = cost.busy_seconds * slow
        wait = servers_wait(grid, rate * bursts, busy / bursts, min(1.0, cost.wall_cv), servers)
        times = Times.gamma(grid, cost.wall_seconds * slow, cost.wall_cv)
        spent = wait.times(bursts).then(times)
        state = StageState(
            stage=stage,
            replicas=replicas,
            calls_per_second=rate,
            use=rate * slow / self.replica_capacity(search, stage),
            slowdown=slow,
            mean_seconds=spent.mean,
            p99_seconds=spent.percentile(99),
            alone_seconds=cost.wall_seconds,
            in_flight=rate * spent.mean,
            queued_tokens=0.0,
            cpu=rate * cost.cpu_seconds,
        )
        return state, (spent,)

    def _model_state(
        self,
        search: Search,
        stage: Stage,
        cost: StageCost,
        rate: float,
        replicas: int,
        pace: float,
        slow: float,
        grid: Grid,
    ) -> tuple[StageState, tuple[Times, ...]]:
        calls = cost.calls
        server = self._batch_server(stage, cost, pace)
        answer = server.answer(grid, rate * calls)
        around = (cost.wall_seconds - cost.busy_seconds) * slow
        walls = self._walls(search, stage, cost)
        times = tuple(answer.sojourn.then(Times.exactly(grid, around * wall / cost.wall_seconds)) for wall in walls)
        spent = sequence(times)
        state = StageState(
            stage=stage,
            replicas=replicas,
            calls_per_second=rate * calls,
            use=rate * calls / server.capacity,
            slowdown=slow,
            mean_seconds=spent.mean,
            p99_seconds=spent.percentile(99),
            alone_seconds=cost.wall_seconds - cost.busy_seconds + cost.busy_seconds * pace / slow,
            in_flight=rate * spent.mean,
            queued_tokens=rate * answer.wait.mean * cost.tokens,
            cpu=rate * cost.cpu_seconds,
        )
        return state, times

    def _batch_server(self, stage: Stage, cost: StageCost, pace: float) -> BatchServer:
        """The model as a server of calls; `pace` is how many times as long it takes as measured."""
        model = self.measurements.models[stage]
        tokens, busy = cost.tokens / cost.calls, cost.busy_seconds / cost.calls * pace
        limit = max(1, int(model.batch_tokens / tokens)) if tokens else 1
        more = min(tokens * model.token_seconds * pace, busy)
        return BatchServer(lambda calls: busy + (calls - 1) * more, limit, min(1.0, cost.wall_cv))

    def _servers(self, stage: Stage) -> int:
        return self.measurements.connections if stage == "retriever" else 1

    def _walls(self, search: Search, stage: Stage, cost: StageCost) -> tuple[float, ...]:
        """How long each call of a search takes: the variants are embedded after the query itself."""
        if stage != "embedder" or "expansion" not in search.features:
            return (cost.wall_seconds,)
        first = self.measurements.cost(search.features - {"expansion"}).stages[stage].wall_seconds
        first = min(first, cost.wall_seconds * 0.9)
        return first, cost.wall_seconds - first

    def _time_factor(self, stage: Stage, cores: float | None) -> float:
        """How many times as long a pass takes on so many processors as on those measured (Amdahl, 1967)."""
        measured = self.measurements.cores
        if cores is None or measured in (cores, 1):
            return 1.0
        used = min(float(measured), max(1.0, self.measurements.models[stage].cores))
        parallel = (used - 1) / (measured - 1)
        return (1 - parallel) + parallel * measured / cores


def _workers(cost: SearchCost) -> dict[str, Worker]:
    workers = {stage: Worker(one.busy_seconds, one.cpu_seconds) for stage, one in cost.stages.items()}
    return {**workers, _CALLER: Worker(cost.caller_cpu_seconds, cost.caller_cpu_seconds)}


def _whole(parts: Mapping[Stage, tuple[Times, ...]]) -> Times:
    first, *rest = parts["embedder"]
    if "expander" in parts:
        first = first.beside(parts["expander"][0])
    return sequence([*parts["gateway"], first, *rest, *parts["retriever"], *parts.get("reranker", ())])
