"""Plan files of rollouts: features in their order, with steps and criteria."""

from __future__ import annotations

from datetime import timedelta
from importlib import resources
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from sluice_cli.calls import WRONG_COMMAND_LINE, Problem
from sluice_cli.plan_files import Duration, FileTable, Name, Overrides, PlanFiles, Rate, Ratio, Share, Words
from sluice_client import Criteria, Plan, PlanStep


def _bounded(latency: timedelta) -> timedelta:
    if not timedelta() < latency <= timedelta(hours=1):
        raise ValueError("must be above 0 and at most 1 h")
    return latency


Latency = Annotated[Duration, AfterValidator(_bounded)]


class StepFile(FileTable):
    """A step."""

    share: Annotated[Share, Field(gt=0)]
    dwell: Duration
    automatic: bool = False


class CriteriaFile(FileTable):
    """Criteria of a promotion; one that is not named is ignored."""

    error_rate_max: Rate | None = None
    exposure_failure_rate_max: Rate | None = None
    satisfaction_min: Annotated[float, Field(gt=0, lt=1)] | None = None
    p95_increase_max: Annotated[Ratio, Field(gt=0)] | None = None
    p99_increase_max: Annotated[Ratio, Field(gt=0)] | None = None
    p95_max: Latency | None = None
    p99_max: Latency | None = None
    quality_score_min: Annotated[float, Field(gt=0, lt=1)] | None = None
    allowed_ratio: Annotated[float, Field(ge=0.5, le=10)] | None = None
    non_inferiority_ratio: Annotated[float, Field(gt=1, le=10)] | None = None


Steps = Annotated[list[StepFile], Field(min_length=1, max_length=20)]


def _growing(steps: list[StepFile]) -> None:
    for place in range(1, len(steps)):
        if steps[place].share <= steps[place - 1].share:
            raise ValueError(f"steps[{place}].share must be more than that of the step before")


class FeatureFile(FileTable):
    """A feature, with steps of its own if they differ."""

    name: Name
    description: Words = ""
    overrides: Overrides
    steps: Steps | None = None

    @model_validator(mode="after")
    def _steps_grow(self) -> Self:
        _growing(self.steps or [])
        return self


class PlanFile(FileTable):
    """A whole file."""

    name: Name
    description: Words = ""
    criteria: CriteriaFile
    shadow: Share = 0
    holdout: Annotated[Share, Field(le=500_000)] = 0
    steps: Steps
    features: Annotated[list[FeatureFile], Field(min_length=1, max_length=50)]

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        _growing(self.steps)
        names = [feature.name for feature in self.features]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"features: {', '.join(twice)} appears more than once")
        if not self.criteria.model_dump(exclude_none=True):
            raise ValueError("criteria: names nothing that must hold; a ramp without criteria only watches guardrails")
        return self

    def feature(self, name: str) -> FeatureFile:
        """Find a feature by name. Raises Problem for an unknown one."""
        for feature in self.features:
            if feature.name == name:
                return feature
        names = ", ".join(feature.name for feature in self.features)
        raise Problem(f"the plan {self.name} has no feature {name}", f"it has: {names}", exit_code=WRONG_COMMAND_LINE)

    def plan(self, feature: FeatureFile) -> Plan:
        """Make the plan of a feature, as the service takes it."""
        return Plan(
            name=self.name,
            steps=[
                PlanStep(treatment_ppm=step.share, dwell=step.dwell, automatic=step.automatic)
                for step in feature.steps or self.steps
            ],
            criteria=Criteria(**self.criteria.model_dump()),
            holdout_ppm=self.holdout,
            shadow_ppm=self.shadow,
        )


PLANS = PlanFiles(PlanFile, resources.files("sluice_cli.rollout") / "templates", "sluice rollout plan")
