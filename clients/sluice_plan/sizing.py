"""How many replicas of each stage a rate and a percentile ask for, at what the autoscaler should aim, and what each
feature costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from sluice_plan.measurements import MODEL_STAGES, Feature, Stage
from sluice_plan.network import Layout, Network, Prediction, Search

DEFAULT_USE = 0.75
_GROWTH = 1.08  # replicas of a stage that are added at once, as a factor
_STEPS = 400
_MOST_CORES = 64


@dataclass(frozen=True)
class Target:
    """What is to be held."""

    qps: float
    p99_seconds: float
    use: float = DEFAULT_USE
    """The most of its capacity that a stage is planned to use: the rest is for a pod that is lost, and for the time
    until an autoscaler's new one has loaded its model."""
    cores: Mapping[Stage, float] = field(default_factory=dict)
    """Of a replica of a model stage; as many as were measured with where nothing is said."""


class UnreachableError(ValueError):
    """No number of replicas holds the target: a search that is alone takes too long already."""

    def __init__(self, alone: Prediction, candidates: int | None, cores: float | None, slowest: Stage) -> None:
        super().__init__("a search alone exceeds the target")
        self.alone = alone
        self.candidates = candidates
        """Candidates that would leave enough time, where reranking is on and any number does."""
        self.cores = cores
        """Processors for each reranker or embedder that would do, as far as Amdahl's law can be trusted."""
        self.slowest = slowest


@dataclass(frozen=True, slots=True)
class Pods:
    """One stage of a plan."""

    stage: Stage
    replicas: int
    cores: float
    """To request for each."""
    signal: str
    """The series that an autoscaler averages over pods, and per pod; empty where it has CPU alone."""
    signal_target: int
    cpu_target: int
    """In percent of what is requested: what the autoscaler falls back on."""


@dataclass(frozen=True, slots=True)
class FeatureCost:
    """What a feature adds to a plan."""

    feature: Feature
    replicas: int
    cores: float
    mean_seconds: float
    """Of a search, at the planned rate."""
    p99_seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Replicas that hold a target."""

    search: Search
    target: Target
    pods: tuple[Pods, ...]
    prediction: Prediction
    alone: Prediction
    features: tuple[FeatureCost, ...] = ()

    @property
    def cores(self) -> float:
        """Of all pods."""
        return sum(pods.replicas * pods.cores for pods in self.pods)


def size(network: Network, search: Search, target: Target) -> Plan:
    """The fewest processors that hold the target, as far as a greedy search finds them, with what each feature costs.

    It begins with what the rate alone asks for, adds replicas where they take most off the percentile for their
    processors (marginal allocation, Fox 1966), and takes back what turned out not to be needed.
    Raises UnreachableError, or UnfitMeasurementsError.
    """
    plan = _sized(network, search, target)
    costs = []
    for feature in sorted(search.features):
        without = _sized(network, replace(search, features=search.features - {feature}), target)
        costs.append(
            FeatureCost(
                feature=feature,
                replicas=_replicas(plan) - _replicas(without),
                cores=plan.cores - without.cores,
                mean_seconds=plan.prediction.times.mean - without.prediction.times.mean,
                p99_seconds=plan.prediction.times.percentile(99) - without.prediction.times.percentile(99),
            )
        )
    return replace(plan, features=tuple(costs))


def _sized(network: Network, search: Search, target: Target) -> Plan:
    alone = network.predict(search, 1e-6, Layout(cores=target.cores))
    if alone.times.percentile(99) >= target.p99_seconds:
        raise _unreachable(network, search, target, alone)
    stages = tuple(alone.stages)
    fewest = {
        stage: max(
            1, math.ceil(target.qps / target.use / network.replica_capacity(search, stage, target.cores.get(stage)))
        )
        for stage in stages
    }
    cores = {stage: _cores(network, search, stage, target) for stage in stages}

    def p99(replicas: Mapping[Stage, int]) -> float:
        return network.predict(search, target.qps, Layout(replicas, target.cores)).times.percentile(99)

    replicas = dict(fewest)
    for _ in range(_STEPS):
        now = p99(replicas)
        if now <= target.p99_seconds:
            break

        def gain(stage: Stage, now: float = now) -> float:
            more = _more(replicas[stage])
            before = min(now, 1e3)
            return (before - min(1e3, p99({**replicas, stage: more}))) / ((more - replicas[stage]) * cores[stage])

        best = max(stages, key=gain)
        replicas[best] = _more(replicas[best])
    for stage in sorted(stages, key=lambda stage: -cores[stage]):
        replicas[stage] = _fewest(
            fewest[stage],
            replicas[stage],
            lambda count, stage=stage: p99({**replicas, stage: count}) <= target.p99_seconds,  # type: ignore[misc]
        )
    prediction = network.predict(search, target.qps, Layout(replicas, target.cores))
    pods = tuple(_pods(network, search, prediction, stage, cores[stage]) for stage in stages)
    return Plan(search, target, pods, prediction, alone)


def _pods(network: Network, search: Search, prediction: Prediction, stage: Stage, cores: float) -> Pods:
    state = prediction.stages[stage]
    signal, aim = "", 0.0
    if stage in MODEL_STAGES:
        cost = network.measurements.cost(search.features, search.candidates).stages[stage]
        # Less than one call is no queue.
        signal, aim = 'sluice_queued_tokens{lane="interactive"}', max(cost.tokens / cost.calls, state.queued_tokens)
    elif stage in ("gateway", "retriever"):
        signal, aim = "grpc_server_in_flight", state.in_flight
    return Pods(
        stage=stage,
        replicas=state.replicas,
        cores=cores,
        signal=signal,
        signal_target=max(1, math.ceil(aim)) if signal else 0,
        cpu_target=max(1, min(100, round(100 * state.cpu / cores))),
    )


def _cores(network: Network, search: Search, stage: Stage, target: Target) -> float:
    """Processors of one replica: those of the model, or what its process can use."""
    if stage in MODEL_STAGES:
        return float(target.cores.get(stage) or network.measurements.cores)
    cost = network.measurements.cost(search.features, search.candidates).stages[stage]
    return float(max(1, math.ceil(network.replica_capacity(search, stage) * cost.cpu_seconds - 0.05)))


def _unreachable(network: Network, search: Search, target: Target, alone: Prediction) -> UnreachableError:
    def holds(candidates: int | None, cores: Mapping[Stage, float]) -> bool:
        trial = replace(search, candidates=candidates)
        return network.predict(trial, 1e-6, Layout(cores=cores)).times.percentile(99) < target.p99_seconds

    slowest = max(alone.stages, key=lambda stage: alone.stages[stage].alone_seconds)
    wanted = network.measurements.cost(search.features, search.candidates).candidates
    fewer = next((count for count in range(wanted - 1, 0, -1) if holds(count, target.cores)), None)
    cores = None
    if slowest in MODEL_STAGES:
        now = int(target.cores.get(slowest) or network.measurements.cores)
        sizes = (count for count in range(now + 1, _MOST_CORES + 1))
        cores = next((count for count in sizes if holds(search.candidates, {**target.cores, slowest: count})), None)
    return UnreachableError(alone, fewer, cores, slowest)


def _fewest(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The fewest between the two that still hold, where more always do if fewer do."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high


def _more(replicas: int) -> int:
    return max(replicas + 1, math.ceil(replicas * _GROWTH))


def _replicas(plan: Plan) -> int:
    return sum(pods.replicas for pods in plan.pods)
