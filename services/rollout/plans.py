"""Plans: the steps in which a feature reaches all users, and the criteria on the way. Pure."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from services.chassis.errors import InvalidArgument
from services.chassis.timing import duration, seconds_of
from services.experiment.bucketing import BUCKETS
from sluice.rollout.v1 import rollout_pb2 as pb

_MAX_STEPS = 100
_MAX_NAME_BYTES = 128
_MAX_DWELL_SECONDS = 366 * 86_400.0


@dataclass(frozen=True, slots=True)
class PlanStep:
    """A share of users, and the least time for which it is watched."""

    treatment_ppm: int
    dwell_seconds: float
    automatic: bool
    """True if the next step begins by itself once all criteria hold; else a person promotes."""


@dataclass(frozen=True, slots=True)
class Criteria:
    """Criteria of a plan. The first four are hard limits of treatment alone, whatever control does.

    Ratios are 0 to 1, times are seconds. A criterion that is None is not checked.
    """

    error_rate_max: float = 0.02
    exposure_failure_rate_max: float = 0.05
    p95_max: float = 3.0
    p99_max: float = 5.0
    p95_increase_max: float | None = None
    p99_increase_max: float | None = None
    quality_score_min: float | None = None
    satisfaction_min: float | None = None
    """Least mean rating of treatment's answers by those who rated them."""
    allowed_ratio: float = 1.0
    """Bad events of treatment over those of control from which on it is a breach."""
    non_inferiority_ratio: float | None = None
    """Ratio that must be shown not to be reached; None is 2 below half of the users, and 1.5 from there."""

    @classmethod
    def from_proto(cls, message: pb.Criteria) -> Self:
        """Read criteria; those that are unset have their defaults. Raises InvalidArgument for a negative time."""
        given: dict[str, Any] = {field.name: value for field, value in message.ListFields()}
        for name in given.keys() & {"p95_max", "p99_max"}:
            given[name] = seconds_of(given[name], f"plan.criteria.{name}")
        return cls(**given)

    def to_proto(self) -> pb.Criteria:
        """Write all criteria that are not None."""
        given = asdict(self)
        p95_max, p99_max = duration(given.pop("p95_max")), duration(given.pop("p99_max"))
        return pb.Criteria(p95_max=p95_max, p99_max=p99_max, **given)


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps of growing share."""

    name: str
    steps: tuple[PlanStep, ...]
    criteria: Criteria = field(default_factory=Criteria)
    holdout_ppm: int = 0
    shadow_ppm: int = 0

    @classmethod
    def from_proto(cls, message: pb.Plan) -> Self:
        """Read a plan. Raises InvalidArgument for a negative time; `check_plan` checks the rest."""
        steps = tuple(
            PlanStep(step.treatment_ppm, seconds_of(step.dwell, f"plan.steps[{place}].dwell"), step.automatic)
            for place, step in enumerate(message.steps)
        )
        criteria = Criteria.from_proto(message.criteria)
        return cls(message.name, steps, criteria, message.holdout_ppm, message.shadow_ppm)

    def to_proto(self) -> pb.Plan:
        """Write the plan."""
        return pb.Plan(
            name=self.name,
            steps=[
                pb.PlanStep(
                    treatment_ppm=step.treatment_ppm, dwell=duration(step.dwell_seconds), automatic=step.automatic
                )
                for step in self.steps
            ],
            criteria=self.criteria.to_proto(),
            holdout_ppm=self.holdout_ppm,
            shadow_ppm=self.shadow_ppm,
        )

    def share(self, step: int) -> int:
        """The share of a step, counted from 1; the holdout is never in it."""
        return min(self.steps[step - 1].treatment_ppm, BUCKETS - self.holdout_ppm)

    def step_after(self, treatment_ppm: int) -> int | None:
        """The first step that reaches more users than that; None where none does."""
        return next((step for step in range(1, len(self.steps) + 1) if self.share(step) > treatment_ppm), None)


def check_plan(plan: Plan) -> None:
    """Raise InvalidArgument, naming the field, for a plan that makes no sense."""
    if not plan.name.strip() or len(plan.name.encode()) > _MAX_NAME_BYTES:
        raise InvalidArgument("plan.name", f"must be 1 to {_MAX_NAME_BYTES} bytes of text")
    if not 1 <= len(plan.steps) <= _MAX_STEPS:
        raise InvalidArgument("plan.steps", f"must hold between 1 and {_MAX_STEPS} steps, not {len(plan.steps)}")
    for name in ("holdout_ppm", "shadow_ppm"):
        if not 0 <= getattr(plan, name) <= BUCKETS:
            raise InvalidArgument(f"plan.{name}", f"must be between 0 and {BUCKETS:,}, not {getattr(plan, name)}")
    before = 0
    for place, step in enumerate(plan.steps):
        where = f"plan.steps[{place}]"
        if not before < step.treatment_ppm <= BUCKETS:
            raise InvalidArgument(
                f"{where}.treatment_ppm",
                f"must be above the step before ({before:,}) and at most {BUCKETS:,}, not {step.treatment_ppm:,}",
            )
        if not 0 <= step.dwell_seconds <= _MAX_DWELL_SECONDS:
            raise InvalidArgument(f"{where}.dwell", "must be between nothing and a year")
        before = step.treatment_ppm
    if len(plan.steps) > 1 and plan.share(len(plan.steps)) <= plan.share(len(plan.steps) - 1):
        raise InvalidArgument("plan.holdout_ppm", "leaves the last step no larger than the one before")
    if plan.share(len(plan.steps)) <= 0:
        raise InvalidArgument("plan.holdout_ppm", "leaves no users to reach")
    _check_criteria(plan.criteria)


def _check_criteria(criteria: Criteria) -> None:
    for rule in fields(criteria):
        value = getattr(criteria, rule.name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise InvalidArgument(f"plan.criteria.{rule.name}", "must be a number of at least 0")
    for name in ("error_rate_max", "exposure_failure_rate_max", "quality_score_min", "satisfaction_min"):
        value = getattr(criteria, name)
        if value is not None and value > 1:
            raise InvalidArgument(f"plan.criteria.{name}", "must be at most 1: it is a share, not a percentage")
    for name in ("error_rate_max", "exposure_failure_rate_max", "p95_max", "p99_max"):
        if getattr(criteria, name) <= 0:
            raise InvalidArgument(f"plan.criteria.{name}", "must be above 0")
    if not 0.5 <= criteria.allowed_ratio <= 10:
        raise InvalidArgument("plan.criteria.allowed_ratio", "must be between 0.5 and 10")
    ratio = criteria.non_inferiority_ratio
    if ratio is not None and not 1 < ratio <= 10:
        raise InvalidArgument("plan.criteria.non_inferiority_ratio", "must be above 1 and at most 10")
