"""Arms that are broken, each by one fault: the product has to stop the experiment, and to say why."""

from __future__ import annotations

from dataclasses import dataclass, replace

from drills.experiments import faults
from drills.experiments.answers import TREATMENT
from drills.experiments.asking import Crowd
from drills.experiments.faults import Fault, Leak
from drills.experiments.live import Ended, Told, plan, run
from drills.experiments.people import CLICK_MODELS
from drills.experiments.world import LIVE, World
from sluice_client import ExperimentMethod, ExperimentMetric, Verdict

MOST_SECONDS = 150.0
_MINIMUM_EFFECT = 0.02


@dataclass(frozen=True)
class Regression:
    """A fault of the treatment, and the word that has to be among the reasons."""

    name: str
    method: ExperimentMethod
    reason: str
    fault: Fault = faults.NONE
    leak: Leak | None = None
    metric: ExperimentMetric | None = None
    """The metric that decides; None for the usual one."""


REGRESSIONS = (
    Regression("moved-down", ExperimentMethod.INTERLEAVE, "preference", Fault(moved_down=True)),
    Regression("moved-down-ab", ExperimentMethod.AB, "reciprocal rank", Fault(moved_down=True)),
    Regression("slower", ExperimentMethod.AB, "latency", Fault(slower=3.0)),
    Regression("failing", ExperimentMethod.AB, "errors", Fault(failing=0.02)),
    # Nobody rates, so nothing but the loss can end it: by clicks the arm, which is better, may ship before.
    Regression(
        "users-lost", ExperimentMethod.AB, "users", leak=Leak(TREATMENT, 1 / 3), metric=ExperimentMetric.SATISFACTION
    ),
)


@dataclass(frozen=True)
class Stopped:
    """The end of an experiment with a broken arm."""

    regression: Regression
    ended: Ended

    @property
    def ok(self) -> bool:
        """True if the product stopped it, and for what was broken."""
        told = any(self.regression.reason in reason.lower() for reason in self.ended.reasons)
        return self.ended.by_itself and self.ended.verdict == Verdict.STOP.value and told


async def stopped(world: World, regression: Regression, seed: int, told: Told) -> Stopped:
    """Break the treatment, and run an experiment."""
    collection = world.collections[LIVE]
    crowd = Crowd(world.spoilt, collection, CLICK_MODELS[0], regression.name, seed)
    hypothesis = "Words beside vectors help (they are broken)."
    planned = plan(f"broken-{regression.name}", regression.method, hypothesis, _MINIMUM_EFFECT)
    planned = replace(planned, primary_metric=regression.metric)
    world.index.fault, world.way.leak = regression.fault, regression.leak
    try:
        return Stopped(regression, await run(world, planned, crowd, MOST_SECONDS, told))
    finally:
        world.index.fault, world.way.leak = faults.NONE, None
