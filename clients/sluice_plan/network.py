"""Searches on their way through the stages, as a network of queues: how long they take, and what gives way first.

    gateway ─┬─▶ expander ───────────┬─▶ embedder (variants) ─▶ retriever ─▶ reranker
             └─▶ embedder (query) ───┘

The gateway and the expander are event loops that do one thing at a time, the retriever has so many connections, the
model stages compute whatever waits. With processors of their own the stages are taken as independent of one another,
each with Poisson arrivals (as in Jackson's networks; Whitt's decomposition with all variability set to 1), so durations
one after the other are convolved, and what runs side by side is waited for until the later one. On one machine they
slow one another down, and searches are simulated instead (`simulation.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from sluice_plan.measurements import MODEL_STAGES, Feature, Measurements, SearchCost, Stage, StageCost
from sluice_plan.queues import NEARLY_SATURATED, BatchServer, endless, servers_wait
from sluice_plan.simulation import Outcome, Work, simulate
from sluice_plan.times import Grid, Times, sequence

PLACES = 4096
_GRID_REACH = 16.0  # times an undisturbed search
SIMULATED = 12_000  # searches: a p99 at 0.8 of saturation is then told to some 20 %, means to 5 %
_WARM_UP = 300
_CALLERS = 12  # at once, who find out how much a machine can do


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

    def __init__(self, measurements: Measurements, simulated: int = SIMULATED) -> None:
        self.measurements = measurements
        self._simulated = simulated
        self._state = lru_cache(maxsize=4096)(self._compute_state)
        self._most = lru_cache(maxsize=64)(self._compute_most)

    def alone(self, search: Search) -> Prediction:
        """A search that is alone with everything to itself."""
        return self.predict(search, 1e-9, Layout())

    def predict(self, search: Search, qps: float, layout: Layout) -> Prediction:
        """What becomes of so many searches a second. Raises UnfitMeasurementsError for features not measured."""
        cost = self._cost(search)
        grid = Grid(cost.wall_seconds * _GRID_REACH / PLACES, PLACES)
        if layout.shared_cores is not None:
            return self._played(search, qps, layout.shared_cores, grid)
        states: dict[Stage, StageState] = {}
        parts: dict[Stage, tuple[Times, ...]] = {}
        for stage in cost.stages:
            states[stage], parts[stage] = self._state(
                search, stage, qps, layout.replicas.get(stage, 1), layout.cores.get(stage), grid
            )
        capacity, saturating = self.capacity(search, layout)
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
        self, search: Search, stage: Stage, qps: float, replicas: int, cores: float | None, grid: Grid
    ) -> tuple[StageState, tuple[Times, ...]]:
        """One stage, and the times of a search's calls of it."""
        cost = self._cost(search).stages[stage]
        rate = qps / replicas
        if stage in MODEL_STAGES:
            pace = self._time_factor(stage, cores)
            return self._model_state(search, stage, cost, rate, replicas, pace, grid)
        servers = self._servers(stage)
        # The gateway's loop is asked at the start and after each of the stages; what it has to do then is a part.
        bursts = 2 + len(self._cost(search).stages) if stage == "gateway" else 1
        wait = servers_wait(grid, rate * bursts, cost.busy_seconds / bursts, min(1.0, cost.wall_cv), servers)
        times = Times.gamma(grid, cost.wall_seconds, cost.wall_cv)
        spent = wait.times(bursts).then(times)
        state = StageState(
            stage=stage,
            replicas=replicas,
            calls_per_second=rate,
            use=rate / self.replica_capacity(search, stage),
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
        grid: Grid,
    ) -> tuple[StageState, tuple[Times, ...]]:
        calls = cost.calls
        server = self._batch_server(stage, cost, pace)
        answer = server.answer(grid, rate * calls)
        around = cost.wall_seconds - cost.busy_seconds
        walls = self._walls(search, stage, cost)
        times = tuple(answer.sojourn.then(Times.exactly(grid, around * wall / cost.wall_seconds)) for wall in walls)
        spent = sequence(times)
        state = StageState(
            stage=stage,
            replicas=replicas,
            calls_per_second=rate * calls,
            use=rate * calls / server.capacity,
            mean_seconds=spent.mean,
            p99_seconds=spent.percentile(99),
            alone_seconds=cost.wall_seconds - cost.busy_seconds + cost.busy_seconds * pace,
            in_flight=rate * spent.mean,
            queued_tokens=rate * answer.wait.mean * cost.tokens,
            cpu=rate * cost.cpu_seconds,
        )
        return state, times

    def _played(self, search: Search, qps: float, cores: float, grid: Grid) -> Prediction:
        """One machine for everything, who asks included: simulated, at the rate and at the most that it can do."""
        cost = self._cost(search)
        capacity, saturating = self._most(search, cores)
        outcome = None
        times = endless(grid)
        if qps < NEARLY_SATURATED * capacity:
            outcome = simulate(self._steps(search), cores, rate=qps, searches=self._simulated, warm_up=_WARM_UP)
            grid = Grid(max(outcome.seconds) / (PLACES - 2), PLACES)  # as long as was seen
            times = Times.seen(grid, outcome.seconds)
        states = {stage: _played_state(stage, one, qps, capacity, outcome, grid) for stage, one in cost.stages.items()}
        return Prediction(qps, times, states, capacity, saturating)

    def _compute_most(self, search: Search, cores: float) -> tuple[float, Stage]:
        """Searches a second that a machine answers to callers who ask again at once, and the stage busiest then."""
        outcome = simulate(
            self._steps(search), cores, callers=_CALLERS, searches=self._simulated // 4, warm_up=_WARM_UP
        )
        stages = self._cost(search).stages
        return outcome.per_second, max(stages, key=lambda stage: outcome.busy[stage])

    def _steps(self, search: Search) -> list[list[list[Work]]]:
        """A search as works: what holds a stage, and what goes on around it."""
        cost = self._cost(search)
        walls = self._walls(search, "embedder", cost.stages["embedder"])
        fork = [self._chain("embedder", cost, walls[0] / sum(walls))]
        if "expander" in cost.stages:
            fork.append(self._chain("expander", cost))
        calls = [fork, *([self._chain("embedder", cost, wall / sum(walls))] for wall in walls[1:])]
        calls += [[self._chain(stage, cost)] for stage in ("retriever", "reranker") if stage in cost.stages]
        gateway = cost.stages["gateway"]
        bursts = len(calls) + 1
        # Between two calls the gateway has its part to do, and so has whoever asked, who waits for the whole of it.
        threads = (gateway.cpu_seconds + cost.caller_cpu_seconds) / gateway.wall_seconds
        between = [[Work("gateway", gateway.wall_seconds / bursts, gateway.wall_cv, threads)]]
        steps: list[list[list[Work]]] = [between]
        for call in calls:
            steps += [call, between]
        return steps

    def _chain(self, stage: Stage, search: SearchCost, part: float = 1.0) -> list[Work]:
        """One call, or a part of all calls, of a stage."""
        cost = search.stages[stage]
        busy = min(cost.busy_seconds, cost.wall_seconds)
        around = cost.wall_seconds - busy
        threads = cost.cpu_seconds / busy
        batch, once = 1, 0.0
        if stage in MODEL_STAGES:
            threads = min(threads, self.measurements.models[stage].cores)
            batch, more = self._batch(stage, cost)
            once = max(0.0, busy / cost.calls - more) * cost.calls
        works = [Work(stage, busy * part, min(1.0, cost.wall_cv), threads, batch=batch, once_seconds=once * part)]
        if around > 0:
            left = max(0.0, cost.cpu_seconds - busy * threads) / around
            works.insert(0, Work(stage, around * part, 0.0, left, queues=False))
        return works

    def _batch_server(self, stage: Stage, cost: StageCost, pace: float) -> BatchServer:
        """The model as a server of calls; `pace` is how many times as long it takes as measured."""
        busy = cost.busy_seconds / cost.calls * pace
        limit, more = self._batch(stage, cost)
        return BatchServer(lambda calls: busy + (calls - 1) * min(more * pace, busy), limit, min(1.0, cost.wall_cv))

    def _batch(self, stage: Stage, cost: StageCost) -> tuple[int, float]:
        """How many calls fit into a pass of the model, and how many seconds each makes it longer."""
        model = self.measurements.models[stage]
        tokens = cost.tokens / cost.calls
        return max(1, int(model.batch_tokens / tokens)) if tokens else 1, tokens * model.token_seconds

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


def _played_state(
    stage: Stage, cost: StageCost, qps: float, capacity: float, outcome: Outcome | None, grid: Grid
) -> StageState:
    times = Times.seen(grid, outcome.station_seconds[stage]) if outcome else endless(grid)
    return StageState(
        stage=stage,
        replicas=1,
        calls_per_second=qps * cost.calls,
        use=outcome.busy[stage] if outcome else qps / capacity,
        mean_seconds=times.mean,
        p99_seconds=times.percentile(99),
        alone_seconds=cost.wall_seconds,
        in_flight=qps * times.mean,
        queued_tokens=0.0,
        cpu=qps * cost.cpu_seconds,
    )


def _whole(parts: Mapping[Stage, tuple[Times, ...]]) -> Times:
    first, *rest = parts["embedder"]
    if "expander" in parts:
        first = first.beside(parts["expander"][0])
    return sequence([*parts["gateway"], first, *rest, *parts["retriever"], *parts.get("reranker", ())])
