"""Replicas that hold a rate and a percentile, with and without each feature."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sluice_plan.measurements import Feature, Stage
from sluice_plan.stack import Prediction, Search, Stack

DEFAULT_USE = 0.75
LEAST_USE = 0.05
"""Use below which more replicas are no answer: hardly a search waits any more."""
_SAME_USE = 1.1  # ratio of two uses that are not told apart
_SAME_REPLICAS = 0.03  # share of a stage's replicas that is within the error of the simulation


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
class Plan:
    """Replicas that hold a target."""

    prediction: Prediction
    without: Mapping[Feature, Plan] = field(default_factory=dict)
    """The plan for the same target without a feature, by feature."""

    @property
    def replicas(self) -> int:
        """Of all stages."""
        return sum(state.replicas for state in self.prediction.stages.values())

    @property
    def cores(self) -> float:
        """Of all replicas."""
        return sum(state.replicas * state.cores for state in self.prediction.stages.values())


def size(stack: Stack, search: Search, qps: float, p99_ms: float, most_use: float = DEFAULT_USE) -> Plan:
    """Find replicas that hold a target, with and without each feature.

    All stages are filled alike, to the largest share of their capacity that holds the target; then replicas that turn
    out not to be needed are taken back, those with most processors first. No stage uses more than `most_use` of its
    capacity: the rest is for a pod that is lost, and for the time until a new one has loaded its model.

    Raises CannotHoldError, or UnfitMeasurementsError for features that were not measured.
    """
    plan = Plan(_sized(stack, search, qps, p99_ms, most_use))
    fewer = {feature: replace(search, features=search.features - {feature}) for feature in sorted(search.features)}
    without = {feature: Plan(_sized(stack, other, qps, p99_ms, most_use)) for feature, other in fewer.items()}
    return replace(plan, without=without)


def _sized(stack: Stack, search: Search, qps: float, p99_ms: float, most_use: float) -> Prediction:
    alone = stack.alone(search)
    told = f"a search that meets no other takes {alone.percentiles[99]:,.1f} ms at the 99th percentile"
    if alone.percentiles[99] >= p99_ms:
        raise _cannot_hold(stack, search, p99_ms, alone, told)
    capacity = {stage: stack.replica_capacity(search, stage) for stage in alone.stages}

    def filled(use: float) -> dict[Stage, int]:
        return {stage: max(1, math.ceil(qps / use / capacity[stage])) for stage in capacity}

    replicas = fewest = filled(most_use)
    found = stack.predict(search, qps, replicas)
    if found.percentiles[99] > p99_ms:
        low, high = LEAST_USE, most_use
        replicas = filled(low)
        found = stack.predict(search, qps, replicas)
        if found.percentiles[99] > p99_ms:
            idle = f"with every stage idle {1 - low:.0%} of the time it is still {found.percentiles[99]:,.1f} ms"
            raise _cannot_hold(stack, search, p99_ms, found, f"{told}, and {idle}")
        while high > _SAME_USE * low:
            use = math.sqrt(low * high)
            trial = stack.predict(search, qps, filled(use))
            if trial.percentiles[99] <= p99_ms:
                low, replicas, found = use, filled(use), trial
            else:
                high = use
    for stage in sorted(capacity, key=lambda stage: -found.stages[stage].cores):
        least = fewest[stage]
        while replicas[stage] - least > _SAME_REPLICAS * replicas[stage]:
            middle = (least + replicas[stage]) // 2
            trial = stack.predict(search, qps, {**replicas, stage: middle})
            if trial.percentiles[99] <= p99_ms:
                replicas, found = {**replicas, stage: middle}, trial
            else:
                least = middle + 1
    return found


def _cannot_hold(stack: Stack, search: Search, p99_ms: float, best: Prediction, reason: str) -> CannotHoldError:
    slowest = max(best.stages, key=lambda stage: best.stages[stage].mean_ms)
    low, high = 0, stack.measurements.cost(search.features, search.candidates).candidates
    while high - low > 1:  # the most candidates that hold lie between
        middle = (low + high) // 2
        holds = stack.alone(replace(search, candidates=middle)).percentiles[99] < p99_ms
        low, high = (middle, high) if holds else (low, middle)
    told = f"{reason}; the {slowest} alone takes {best.stages[slowest].mean_ms:,.1f} ms on average"
    return CannotHoldError(told, slowest, best, low or None)
