"""Findings: what is known of a run at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from services.chassis.timing import duration, timestamp
from services.rollout.evidence import GuardrailEvidence
from services.rollout.experiments.experiments import Judgment
from services.rollout.experiments.plan import metric_to_proto
from sluice.rollout.v1 import experiment_pb2 as pb
from sluice_statistics.answers import Metric


@dataclass(frozen=True, slots=True)
class ArmTotals:
    """Totals of one arm; for interleaving, of both. Times are seconds."""

    arm: str
    user_count: int = 0
    impression_count: int = 0
    event_count: int = 0
    failed_count: int = 0
    one_arm_count: int = 0
    """Interleaved answers that had the results of one arm alone, and are not counted."""
    p50: float | None = None
    p95: float | None = None

    def to_proto(self) -> pb.ExperimentArmTotals:
        """Write the totals."""
        message = pb.ExperimentArmTotals(
            arm=self.arm,
            user_count=self.user_count,
            impression_count=self.impression_count,
            event_count=self.event_count,
            failed_count=self.failed_count,
            one_arm_count=self.one_arm_count,
        )
        for name in ("p50", "p95"):
            if (seconds := getattr(self, name)) is not None:
                getattr(message, name).CopyFrom(duration(seconds))
        return message


@dataclass(frozen=True, slots=True)
class MetricFinding:
    """Difference of an arm from the control in one metric, with its confidence sequence."""

    metric: Metric
    arm: str
    control_mean: float
    arm_mean: float
    difference: float
    lower: float
    upper: float
    user_count: int
    variance_reduction: float = 0.0

    @property
    def better_by(self) -> tuple[float, float]:
        """The interval of the change for the better: turned around where less is better."""
        return (-self.upper, -self.lower) if self.metric.less_is_better else (self.lower, self.upper)

    def to_proto(self) -> pb.MetricFinding:
        """Write the finding."""
        return pb.MetricFinding(
            metric=metric_to_proto(self.metric),
            arm=self.arm,
            control_mean=self.control_mean,
            arm_mean=self.arm_mean,
            difference=self.difference,
            lower=self.lower,
            upper=self.upper,
            user_count=self.user_count,
            variance_reduction=self.variance_reduction,
        )


@dataclass(frozen=True, slots=True)
class ArmGuardrail:
    """Evidence of one guardrail against one arm."""

    arm: str
    evidence: GuardrailEvidence


@dataclass(frozen=True, slots=True)
class Findings:
    """Knowledge of a run at one moment. `time` is seconds since 1970."""

    time: float
    arms: tuple[ArmTotals, ...]
    metrics: tuple[MetricFinding, ...]
    guardrails: tuple[ArmGuardrail, ...]
    log_mismatch: float
    log_mismatch_threshold: float
    judgment: Judgment

    def to_proto(self) -> pb.ExperimentFindings:
        """Write the findings."""
        return pb.ExperimentFindings(
            time=timestamp(self.time),
            arms=[arm.to_proto() for arm in self.arms],
            metrics=[metric.to_proto() for metric in self.metrics],
            guardrails=[pb.ArmGuardrail(arm=row.arm, evidence=row.evidence.to_proto()) for row in self.guardrails],
            log_mismatch=self.log_mismatch,
            log_mismatch_threshold=self.log_mismatch_threshold,
            verdict=self.judgment.verdict.to_proto(),
            reasons=self.judgment.reasons,
            arm=self.judgment.arm,
        )
