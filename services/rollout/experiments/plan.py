"""Plans of experiments: what is compared, for whom, and when it ends. Pure."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Self

from services.chassis.errors import InvalidArgument
from services.chassis.timing import duration, seconds_of
from services.experiment.bucketing import BUCKETS
from services.experiment.enums import from_number
from services.experiment.flags import Overrides, check_alternatives
from services.rollout.features import StoredOverrides, check_name
from sluice.rollout.v1 import experiment_pb2 as pb
from sluice.type.v1 import experiment_pb2, features_pb2
from sluice_statistics.answers import Metric

DAY_SECONDS = 86_400.0
MOST_ARMS = 8
_MAX_HYPOTHESIS_BYTES = 4096
_MAX_SECONDS = 366 * DAY_SECONDS
_MAX_CHANGE = 10.0


class Method(enum.Enum):
    """A way to compare."""

    AB = "ab"
    INTERLEAVE = "interleave"

    @classmethod
    def from_proto(cls, number: int, field: str) -> Self:
        """Read a method. Raises InvalidArgument, naming the field, where there is none."""
        return from_number(cls, experiment_pb2.ExperimentMethod, number, field)

    def to_proto(self) -> experiment_pb2.ExperimentMethod.ValueType:
        """Write the method."""
        return experiment_pb2.ExperimentMethod.Value(f"EXPERIMENT_METHOD_{self.name}")


def metric_from(number: int, field: str) -> Metric:
    """Read a metric. Raises InvalidArgument, naming the field, where there is none."""
    return from_number(Metric, pb.ExperimentMetric, number, field)


def metric_to_proto(metric: Metric) -> pb.ExperimentMetric.ValueType:
    """Write a metric."""
    return pb.ExperimentMetric.Value(f"EXPERIMENT_METRIC_{metric.name}")


METRICS_OF = {
    Method.AB: tuple(metric for metric in Metric if metric is not Metric.PREFERENCE),
    Method.INTERLEAVE: (Metric.PREFERENCE,),
}
"""Metrics that a method can measure."""


@dataclass(frozen=True, slots=True)
class ExperimentArm:
    """One of the configurations."""

    name: str
    overrides: StoredOverrides

    @classmethod
    def from_proto(cls, message: experiment_pb2.ExperimentArm, field: str) -> Self:
        """Read an arm. Raises InvalidArgument, naming the flag, for an illegal value."""
        return cls(message.name, _overrides(message.features, field))

    def to_proto(self) -> experiment_pb2.ExperimentArm:
        """Write the arm."""
        return experiment_pb2.ExperimentArm(name=self.name, features=self.overrides.to_proto())


@dataclass(frozen=True, slots=True)
class MetricGuardrail:
    """A metric that must not become worse by more than a share of control's mean."""

    metric: Metric
    allowed_change: float


@dataclass(frozen=True, slots=True)
class ExperimentPlan:
    """The question of an experiment, and the conditions under which it ends."""

    name: str
    hypothesis: str
    method: Method
    arms: tuple[ExperimentArm, ...]
    """The first is the control."""
    share_ppm: int
    """Share of all users, all arms together."""
    minimum_effect: float
    """Least change that matters, as a share of control's mean; of the preference, as it is."""
    layer: str = "default"
    primary_metric: Metric = Metric.RECIPROCAL_RANK
    guardrails: tuple[MetricGuardrail, ...] = ()
    horizon_seconds: float = 28 * DAY_SECONDS
    alpha: float = 0.05
    """Probability of a false verdict on the primary metric, over the whole experiment."""
    history_seconds: float = 7 * DAY_SECONDS
    """Length of the time before the run that adjusts the metrics; 0 for none."""

    @classmethod
    def from_proto(cls, message: pb.ExperimentPlan) -> Self:
        """Read a plan, with the defaults for what is unset.

        Raises InvalidArgument for values that cannot be read; `check_plan` checks the rest.
        """
        method = Method.from_proto(message.method, "plan.method")
        primary = Metric.PREFERENCE if method is Method.INTERLEAVE else Metric.RECIPROCAL_RANK
        if message.primary_metric:
            primary = metric_from(message.primary_metric, "plan.primary_metric")
        given = {
            f"{name}_seconds": seconds_of(getattr(message, name), f"plan.{name}")
            for name in ("horizon", "history")
            if message.HasField(name)
        }
        if message.HasField("alpha"):
            given["alpha"] = message.alpha
        return cls(
            message.name,
            message.hypothesis,
            method,
            tuple(ExperimentArm.from_proto(arm, f"plan.arms[{place}]") for place, arm in enumerate(message.arms)),
            message.share_ppm,
            message.minimum_effect,
            message.layer or "default",
            primary,
            tuple(
                MetricGuardrail(metric_from(rule.metric, f"plan.guardrails[{place}].metric"), rule.allowed_change)
                for place, rule in enumerate(message.guardrails)
            ),
            **given,
        )

    def to_proto(self) -> pb.ExperimentPlan:
        """Write the plan, defaults included."""
        return pb.ExperimentPlan(
            name=self.name,
            hypothesis=self.hypothesis,
            method=self.method.to_proto(),
            arms=[arm.to_proto() for arm in self.arms],
            layer=self.layer,
            share_ppm=self.share_ppm,
            primary_metric=metric_to_proto(self.primary_metric),
            guardrails=[
                pb.MetricGuardrail(metric=metric_to_proto(rule.metric), allowed_change=rule.allowed_change)
                for rule in self.guardrails
            ],
            minimum_effect=self.minimum_effect,
            horizon=duration(self.horizon_seconds),
            alpha=self.alpha,
            history=duration(self.history_seconds),
        )

    @property
    def control(self) -> ExperimentArm:
        """The arm with which the others are compared."""
        return self.arms[0]


def check_plan(plan: ExperimentPlan) -> None:
    """Raise InvalidArgument, naming the field, for a plan that makes no sense."""
    check_name(plan.name, "plan.name")
    check_name(plan.layer, "plan.layer")
    if len(plan.hypothesis.encode()) > _MAX_HYPOTHESIS_BYTES or "\0" in plan.hypothesis:
        raise InvalidArgument("plan.hypothesis", f"must be at most {_MAX_HYPOTHESIS_BYTES:,} bytes of text")
    _check_arms(plan)
    if not 1 <= plan.share_ppm <= BUCKETS:
        raise InvalidArgument("plan.share_ppm", f"must be between 1 and {BUCKETS:,}, not {plan.share_ppm:,}")
    _check_metrics(plan)
    most = 1.0 if plan.primary_metric is Metric.PREFERENCE else _MAX_CHANGE
    if not 0 < plan.minimum_effect <= most:
        raise InvalidArgument("plan.minimum_effect", f"must be above 0 and at most {most:g}: 0.02 is 2 %")
    if not 0 < plan.horizon_seconds <= _MAX_SECONDS:
        raise InvalidArgument("plan.horizon", "must be more than nothing and at most 366 days")
    if not 0 < plan.alpha <= 0.5:
        raise InvalidArgument("plan.alpha", f"must be above 0 and at most 0.5, not {plan.alpha:g}")
    if not 0 <= plan.history_seconds <= _MAX_SECONDS:
        raise InvalidArgument("plan.history", "must be at most 366 days")


def _check_arms(plan: ExperimentPlan) -> None:
    arms = plan.arms
    if not 2 <= len(arms) <= MOST_ARMS:
        raise InvalidArgument("plan.arms", f"must be between 2 and {MOST_ARMS}, not {len(arms)}")
    if plan.method is Method.INTERLEAVE and len(arms) != 2:
        raise InvalidArgument("plan.arms", f"must be exactly 2 where answers are interleaved, not {len(arms)}")
    for place, arm in enumerate(arms):
        where = f"plan.arms[{place}]"
        check_name(arm.name, f"{where}.name")
        check_alternatives(arm.overrides.values, f"{where}.features")
        if place and not arm.overrides:
            raise InvalidArgument(f"{where}.features", "are empty; only the first arm, the control, may set no flag")
        for other in arms[:place]:
            if arm.name == other.name:
                raise InvalidArgument(f"{where}.name", f"is that of another arm, too: {arm.name!r}")
            if dict(arm.overrides.values) == dict(other.overrides.values):
                raise InvalidArgument(f"{where}.features", f"are those of arm {other.name!r}, too")


def _check_metrics(plan: ExperimentPlan) -> None:
    legal = METRICS_OF[plan.method]
    if plan.primary_metric not in legal:
        raise InvalidArgument(
            "plan.primary_metric", f"must be one of {', '.join(metric.name for metric in legal)} for {plan.method.name}"
        )
    if plan.method is Method.INTERLEAVE and plan.guardrails:
        raise InvalidArgument(
            "plan.guardrails", "must be empty where answers are interleaved: an answer is then of both arms"
        )
    for place, rule in enumerate(plan.guardrails):
        where = f"plan.guardrails[{place}]"
        if rule.metric not in legal:
            raise InvalidArgument(f"{where}.metric", "cannot be measured with this method")
        if rule.metric is plan.primary_metric:
            raise InvalidArgument(f"{where}.metric", "is the primary metric, which is watched already")
        if any(rule.metric is other.metric for other in plan.guardrails[:place]):
            raise InvalidArgument(f"{where}.metric", "is there twice")
        if not (math.isfinite(rule.allowed_change) and 0 <= rule.allowed_change <= _MAX_CHANGE):
            raise InvalidArgument(f"{where}.allowed_change", f"must be between 0 and {_MAX_CHANGE:g}: 0.05 is 5 %")


def _overrides(message: features_pb2.Features, field: str) -> Overrides:
    try:
        return Overrides.from_proto(message)
    except InvalidArgument as error:
        raise InvalidArgument(f"{field}.{error.field}", error.problem, reason=error.reason) from None
