"""Plan files of experiments: configurations, the metric that decides, guardrails and an end."""

from __future__ import annotations

from importlib import resources
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from sluice_cli.plan_files import Duration, FileTable, Name, PerhapsOverrides, PlanFiles, Ratio, Share
from sluice_client import (
    ExperimentArm,
    ExperimentMethod,
    ExperimentMetric,
    ExperimentPlan,
    Features,
    MetricGuardrail,
)

_METHODS = [method for method in ExperimentMethod if method is not ExperimentMethod.UNKNOWN]
METRICS = [metric for metric in ExperimentMetric if metric is not ExperimentMetric.UNKNOWN]


def _method(given: object) -> ExperimentMethod:
    if given not in _METHODS:
        raise ValueError(f"must be {' or '.join(_METHODS)}")
    return ExperimentMethod(str(given))


def _metric(given: object) -> ExperimentMetric:
    if given not in METRICS:
        raise ValueError(f"must be one of {', '.join(METRICS)}")
    return ExperimentMetric(str(given))


Method = Annotated[ExperimentMethod, BeforeValidator(_method)]
Metric = Annotated[ExperimentMetric, BeforeValidator(_metric)]


class ArmFile(FileTable):
    """A configuration."""

    name: Name
    overrides: PerhapsOverrides = Features()


class GuardrailFile(FileTable):
    """A metric that must not become worse."""

    metric: Metric
    allowed_change: Ratio


class ExperimentFile(FileTable):
    """A whole file."""

    name: Name
    hypothesis: Annotated[str, StringConstraints(min_length=1, max_length=1000)]
    method: Method
    arms: Annotated[list[ArmFile], Field(min_length=2, max_length=8)]
    layer: Name = "default"
    share: Annotated[Share, Field(gt=0)]
    primary_metric: Metric | None = None
    guardrails: Annotated[list[GuardrailFile], Field(max_length=len(METRICS), default_factory=list)]
    minimum_effect: Annotated[Ratio, Field(gt=0)]
    horizon: Duration | None = None
    alpha: Annotated[Ratio, Field(gt=0, le=0.5)] | None = None
    history: Duration | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        names = [arm.name for arm in self.arms]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"arms: {', '.join(twice)} appears more than once")
        for place, arm in enumerate(self.arms[1:], start=1):
            if arm.overrides == Features():
                raise ValueError(f"arms[{place}].overrides: only the first arm, the control, may set nothing")
            if any(arm.overrides == other.overrides for other in self.arms[:place]):
                raise ValueError(f"arms[{place}].overrides: an arm before it sets the same; nothing would be compared")
        if self.method is ExperimentMethod.INTERLEAVE:
            self._may_be_interleaved()
        elif ExperimentMetric.PREFERENCE in {self.primary_metric, *(rule.metric for rule in self.guardrails)}:
            raise ValueError("preference is measured by interleaving alone; with ab, name another metric")
        watched = [self.plan().primary, *(rule.metric for rule in self.guardrails)]
        twice = sorted({metric for metric in watched if watched.count(metric) > 1})
        if twice:
            raise ValueError(f"guardrails: {', '.join(twice)} is watched already")
        return self

    def _may_be_interleaved(self) -> None:
        if len(self.arms) != 2:
            raise ValueError(f"arms: interleaving compares exactly two, not {len(self.arms)}")
        if self.primary_metric not in {None, ExperimentMetric.PREFERENCE}:
            raise ValueError("primary_metric: interleaving measures the preference alone; leave it out, or use ab")
        if self.guardrails:
            raise ValueError("guardrails: an interleaved answer is of both arms; leave them out, or use ab")
        if self.minimum_effect > 1:
            raise ValueError("minimum_effect: no preference is above 100 %")

    def plan(self) -> ExperimentPlan:
        """Make the plan, as the service takes it."""
        return ExperimentPlan(
            name=self.name,
            hypothesis=self.hypothesis,
            method=self.method,
            arms=[ExperimentArm(arm.name, arm.overrides) for arm in self.arms],
            layer=self.layer,
            share_ppm=self.share,
            primary_metric=self.primary_metric,
            guardrails=[MetricGuardrail(rule.metric, rule.allowed_change) for rule in self.guardrails],
            minimum_effect=self.minimum_effect,
            horizon=self.horizon,
            alpha=self.alpha,
            history=self.history,
        )


PLANS = PlanFiles(ExperimentFile, resources.files("sluice_cli.experiment") / "templates", "sluice experiment template")
