"""Replicas that hold a rate and a percentile, and what each feature costs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sluice_plan.measurements import MODEL_STAGES, Feature, Stage
from sluice_plan.stack import Prediction, Search, Stack

DEFAULT_USE = 0.75
LEAST_USE = 0.05
"""Use below which more replicas are no answer: hardly a search waits any more."""
_SAME_USE = 1.1  # ratio of two uses that are not told apart
_SAME_REPLICAS = 0.03  # share of a stage's replicas that is within the error of the simulation
_SIGNALS = {
    "gateway": "grpc_server_in_flight",
    "embedder": 'sluice_queued_tokens{lane="interactive"}',
    "retriever": "grpc_server_in_flight",
    "reranker": 'sluice_queued_tokens{lane="interactive"}',
}


@dataclass(frozen=True, slots=True)
class Target:
    """A load, and how soon it is to be answered."""

    qps: float
    p99_ms: float
    use: float = DEFAULT_USE
    """Most of its capacity that a stage is planned to use: the rest is for a pod that is lost, and for the time until
    an autoscaler's new one has loaded its model."""


class CannotHoldError(ValueError):
    """No number of replicas holds the target; the message says why."""

    def __init__(self, reason: str, stage: Stage, prediction: Prediction, candidates: int | None) -> None:
        super().__init__(reason)
        self.stage = stage
        """The stage that takes most of the time."""
        self.prediction = prediction
        """The best that was found."""
        self.candidates = candidates
        """Most candidates to rerank that leave enough time, if any number does."""


@dataclass(frozen=True, slots=True)
class Pods:
    """One stage of a plan."""

    stage: Stage
    replicas: int
    cores: float
    """To request for each."""
    signal: str
    """Series that an autoscaler averages over pods; empty for one that has processor time alone."""
    signal_target: int
    cpu_target: int
    """Percent of the requested processors, for the autoscaler to fall back on."""


@dataclass(frozen=True, slots=True)
class FeatureCost:
    """What a feature adds to a plan."""

    feature: Feature
    replicas: int
    cores: float
    mean_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Replicas that hold a target."""

    search: Search
    target: Target
    pods: tuple[Pods, ...]
    prediction: Prediction
    features: tuple[FeatureCost, ...] = ()

    @property
    def replicas(self) -> int:
        """Of all stages."""
        return sum(pods.replicas for pods in self.pods)

    @property
    def cores(self) -> float:
        """Of all pods."""
        return sum(pods.replicas * pods.cores for pods in self.pods)


def size(stack: Stack, search: Search, target: Target) -> Plan:
    """Find replicas that hold the target, and the cost of each feature.

    All stages are filled alike, to the largest share of their capacity that holds the target; then replicas that turn
    out not to be needed are taken back, those with most processors first.

    Raises CannotHoldError, or UnfitMeasurementsError for features that were not measured.
    """
    plan = _sized(stack, search, target)
    costs = []
    for feature in sorted(search.features):
        without = _sized(stack, replace(search, features=search.features - {feature}), target)
        costs.append(
            FeatureCost(
                feature,
                plan.replicas - without.replicas,
                plan.cores - without.cores,
                plan.prediction.mean_ms - without.prediction.mean_ms,
                plan.prediction.percentiles[99] - without.prediction.percentiles[99],
            )
        )
    return replace(plan, features=tuple(costs))


def _sized(stack: Stack, search: Search, target: Target) -> Plan:
    alone = stack.alone(search)
    if alone.percentiles[99] >= target.p99_ms:
        told = f"a search that meets no other takes {alone.percentiles[99]:,.1f} ms at the 99th percentile"
        raise _cannot_hold(stack, search, target, alone, told)
    capacity = {stage: stack.replica_capacity(search, stage) for stage in alone.stages}

    def filled(use: float) -> dict[Stage, int]:
        return {stage: max(1, math.ceil(target.qps / use / capacity[stage])) for stage in capacity}

    replicas = fewest = filled(target.use)
    found = stack.predict(search, target.qps, replicas)
    if found.percentiles[99] > target.p99_ms:
        low, high = LEAST_USE, target.use
        replicas = filled(low)
        found = stack.predict(search, target.qps, replicas)
        if found.percentiles[99] > target.p99_ms:
            told = (
                f"a search that meets no other takes {alone.percentiles[99]:,.1f} ms at the 99th percentile, and with "
                f"every stage idle {1 - low:.0%} of the time it is still {found.percentiles[99]:,.1f} ms"
            )
            raise _cannot_hold(stack, search, target, found, told)
        while high > _SAME_USE * low:
            use = math.sqrt(low * high)
            trial = stack.predict(search, target.qps, filled(use))
            if trial.percentiles[99] <= target.p99_ms:
                low, replicas, found = use, filled(use), trial
            else:
                high = use
    cores = {stage: _cores(stack, search, stage) for stage in capacity}
    for stage in sorted(capacity, key=lambda stage: -cores[stage]):
        least = fewest[stage]
        while replicas[stage] - least > _SAME_REPLICAS * replicas[stage]:
            middle = (least + replicas[stage]) // 2
            trial = stack.predict(search, target.qps, {**replicas, stage: middle})
            if trial.percentiles[99] <= target.p99_ms:
                replicas, found = {**replicas, stage: middle}, trial
            else:
                least = middle + 1
    return Plan(search, target, tuple(_pods(stack, search, found, stage, cores[stage]) for stage in capacity), found)


def _cannot_hold(stack: Stack, search: Search, target: Target, best: Prediction, reason: str) -> CannotHoldError:
    slowest = max(best.stages, key=lambda stage: best.stages[stage].mean_ms)
    low, high = 0, stack.measurements.cost(search.features, search.candidates).candidates
    while high - low > 1:  # the most candidates that hold lie between
        middle = (low + high) // 2
        holds = stack.alone(replace(search, candidates=middle)).percentiles[99] < target.p99_ms
        low, high = (middle, high) if holds else (low, middle)
    told = f"{reason}, {best.stages[slowest].mean_ms:,.1f} of them in the {slowest} alone"
    return CannotHoldError(told, slowest, best, low or None)


def _pods(stack: Stack, search: Search, prediction: Prediction, stage: Stage, cores: float) -> Pods:
    state, signal = prediction.stages[stage], _SIGNALS.get(stage, "")
    aim = state.in_flight
    if stage in MODEL_STAGES:
        cost = stack.measurements.cost(search.features, search.candidates).stages[stage]
        aim = max(cost.tokens / cost.calls, state.queued_tokens)  # less than one call is no queue
    return Pods(
        stage=stage,
        replicas=state.replicas,
        cores=cores,
        signal=signal,
        signal_target=max(1, math.ceil(aim)) if signal else 0,
        cpu_target=max(1, min(100, round(100 * state.cpu / cores))),
    )


def _cores(stack: Stack, search: Search, stage: Stage) -> float:
    """Processors of one replica: those of the measured machine for a model, else what its process can use."""
    if stage in MODEL_STAGES:
        return float(stack.measurements.measured.cores)
    cost = stack.measurements.cost(search.features, search.candidates).stages[stage]
    return float(max(1, math.ceil(stack.replica_capacity(search, stage) * cost.cpu_ms / 1000 - 0.05)))
