"""One experiment on the real stack: its plan, people who ask until the product decides, and what came of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drills.experiments.answers import ARMS, CONTROL, TREATMENT
from drills.experiments.asking import Asked, Crowd
from drills.experiments.world import World
from sluice_client import (
    EVERYBODY_PPM,
    ExperimentArm,
    ExperimentMethod,
    ExperimentPlan,
    ExperimentReport,
    ExperimentState,
    ExperimentStatus,
    Verdict,
)

_LOOK_SECONDS = 0.5
_SAY_SECONDS = 15.0
Told = Callable[[str], None]


@dataclass(frozen=True)
class Ended:
    """The end of an experiment."""

    name: str
    method: str
    by_itself: bool
    """False if the drill had to stop it, because the time was over."""
    verdict: str
    arm: str
    reasons: list[str]
    users: int
    """Users that the product had counted by then."""
    answers: int
    events: int
    seconds: float
    asked: Asked
    findings: Mapping[str, Any]
    """The last findings, metric by metric."""
    course: Sequence[Sequence[float]]
    """Of the metric that decides: users, value, and ends of the interval, as they changed."""

    @property
    def words(self) -> str:
        """One readable line."""
        return f"{self.verdict}{f' ({self.arm})' if self.arm else ''}: {'; '.join(self.reasons)}"


def plan(name: str, method: ExperimentMethod, hypothesis: str, minimum_effect: float) -> ExperimentPlan:
    """Plan dense against hybrid, for all users."""
    return ExperimentPlan(
        name,
        method,
        [ExperimentArm(arm, ARMS[arm]) for arm in (CONTROL, TREATMENT)],
        share_ppm=EVERYBODY_PPM,
        minimum_effect=minimum_effect,
        hypothesis=hypothesis,
        layer=name,
    )


async def run(world: World, planned: ExperimentPlan, crowd: Crowd, most_seconds: float, told: Told) -> Ended:
    """Create and start an experiment, and let people ask until it has ended, or the time is over."""
    await world.experiments.create(planned, reason="to be drilled")
    await world.experiments.start(planned.name, reason="to see what people prefer")
    started = time.monotonic()
    said = started
    by_itself = True
    async with crowd.at_work() as asked:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            status = await world.experiments.experiment(planned.name)
            if status.experiment.state is ExperimentState.ENDED:
                break
            if time.monotonic() - said > _SAY_SECONDS:
                said = time.monotonic()
                told(f"{planned.name}: {_users(status):,} users, {asked.answers:,} answers so far")
            if time.monotonic() - started > most_seconds:
                by_itself = False
                await world.experiments.stop(planned.name, reason="the drill has no more time for it")
                status = await world.experiments.experiment(planned.name)
                break
    seconds = time.monotonic() - started
    found, findings = status.experiment, status.findings
    return Ended(
        planned.name,
        planned.method.value,
        by_itself,
        (found.verdict or Verdict.UNKNOWN).value,
        found.arm,
        list(found.reasons),
        _users(status),
        sum(arm.impression_count for arm in findings.arms) if findings else 0,
        sum(arm.event_count for arm in findings.arms) if findings else 0,
        round(seconds, 1),
        asked,
        {
            f"{finding.metric.value} {finding.arm}".rstrip(): [finding.difference, finding.lower, finding.upper]
            for finding in (findings.metrics if findings else ())
        },
        _course(await world.experiments.report(planned.name)),
    )


def _course(report: ExperimentReport) -> list[list[float]]:
    primary = report.experiment.plan.primary
    return [
        [sum(arm.user_count for arm in point.arms), finding.difference, finding.lower, finding.upper]
        for point in report.points
        for finding in point.of(primary)
    ]


def _users(status: ExperimentStatus) -> int:
    return sum(arm.user_count for arm in status.findings.arms) if status.findings else 0
