"""Experiments: a plan, and what became of it; their changes, and their entries in snapshots. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from services.chassis.errors import FailedPrecondition, NotFound
from services.chassis.timing import duration, timestamp
from services.rollout.experiments.plan import ExperimentPlan
from sluice.rollout.v1 import experiment_pb2 as pb
from sluice.rollout.v1 import rollout_pb2
from sluice.type.v1 import experiment_pb2


class ExperimentState(enum.Enum):
    """Progress of an experiment."""

    READY = "ready"
    RUNNING = "running"
    ENDED = "ended"

    def to_proto(self) -> pb.ExperimentState.ValueType:
        """Write the state."""
        return pb.ExperimentState.Value(f"EXPERIMENT_STATE_{self.name}")


class Verdict(enum.Enum):
    """The result of a run, as far as it is known."""

    SHIP = "ship"
    STOP = "stop"
    GO_ON = "go_on"
    INCONCLUSIVE = "inconclusive"

    def to_proto(self) -> pb.Verdict.ValueType:
        """Write the verdict."""
        return pb.Verdict.Value(f"VERDICT_{self.name}")


class Cause(enum.Enum):
    """The kind of evidence that a verdict is from."""

    NONE = ""
    SAMPLE_RATIO = "sample_ratio"
    GUARDRAIL = "guardrail"
    METRIC = "metric"
    TIME = "time"


@dataclass(frozen=True, slots=True)
class Judgment:
    """A verdict, its reasons, and the arm that it is about; empty where it is about none."""

    verdict: Verdict
    reasons: tuple[str, ...]
    arm: str = ""
    cause: Cause = Cause.NONE


@dataclass(frozen=True, slots=True)
class Experiment:
    """A plan and what became of it. Times are seconds since 1970."""

    name: str
    plan: ExperimentPlan
    state: ExperimentState = ExperimentState.READY
    run: int = 0
    """Number of the run, from 1; 0 before the first."""
    first_bucket: int = 0
    history_time: float | None = None
    """Start of the time before the run whose answers adjust its metrics; never within a run before."""
    start_time: float | None = None
    end_time: float | None = None
    verdict: Verdict | None = None
    reasons: tuple[str, ...] = ()
    arm: str = ""

    @property
    def running(self) -> bool:
        """True while users are in its arms."""
        return self.state is ExperimentState.RUNNING

    @property
    def run_id(self) -> str:
        """Name of the run, for gateways and in what is stored; empty before the first."""
        return f"{self.name}.{self.run}" if self.run else ""

    @property
    def run_ids(self) -> list[str]:
        """Names of all of its runs."""
        return [f"{self.name}.{run}" for run in range(1, self.run + 1)]

    @property
    def salt(self) -> str:
        """Part of the hash that decides the arm; it stays over all runs, so that users stay in their arm."""
        return f"experiment/{self.name}"

    @property
    def layer_salt(self) -> str:
        """Part of the hash that decides the bucket in the layer, the same for all experiments of one layer."""
        return f"layer/{self.plan.layer}"

    def to_proto(self) -> pb.Experiment:
        """Write it as operators see it."""
        message = pb.Experiment(
            plan=self.plan.to_proto(),
            state=self.state.to_proto(),
            run_id=self.run_id,
            first_bucket=self.first_bucket,
            verdict=self.verdict.to_proto() if self.verdict else pb.VERDICT_UNSPECIFIED,
            reasons=self.reasons,
            arm=self.arm,
        )
        for name in ("start_time", "end_time"):
            if (seconds := getattr(self, name)) is not None:
                getattr(message, name).CopyFrom(timestamp(seconds))
        return message

    def to_snapshot(self, lease_seconds: float) -> rollout_pb2.SnapshotFeature:
        """Write it as gateways need it."""
        return rollout_pb2.SnapshotFeature(
            name=self.name,
            salt=self.salt,
            ramp_id=self.run_id,
            lease_duration=duration(lease_seconds),
            experiment=experiment_pb2.ServedExperiment(
                method=self.plan.method.to_proto(),
                layer_salt=self.layer_salt,
                first_bucket=self.first_bucket,
                bucket_count=self.plan.share_ppm,
                arms=[arm.to_proto() for arm in self.plan.arms],
            ),
        )


def known(experiment: Experiment | None, name: str) -> Experiment:
    """The experiment itself. Raises NotFound where there is none."""
    if experiment is None:
        raise NotFound(f"there is no experiment {name!r}", reason="EXPERIMENT_NOT_FOUND", experiment=name)
    return experiment


def started(experiment: Experiment, now: float) -> Experiment:
    """The experiment at the beginning of its next run, without a place. Raises FailedPrecondition for one that runs."""
    if experiment.running:
        raise FailedPrecondition(
            f"{experiment.name!r} is running: stop it first", reason="ALREADY_RUNNING", experiment=experiment.name
        )
    return Experiment(
        experiment.name,
        experiment.plan,
        ExperimentState.RUNNING,
        experiment.run + 1,
        # Users stay in their arms, so what they did in an earlier run is no history: it is of that arm's making.
        history_time=max(now - experiment.plan.history_seconds, experiment.end_time or 0.0),
        start_time=now,
        verdict=Verdict.GO_ON,
        reasons=("it has just begun",),
    )


def ended(experiment: Experiment, judgment: Judgment, now: float) -> Experiment:
    """The experiment at the end of its run. Raises FailedPrecondition for one that does not run."""
    if not experiment.running:
        raise FailedPrecondition(
            f"{experiment.name!r} is not running", reason="NOT_RUNNING", experiment=experiment.name
        )
    return replace(judged(experiment, judgment), state=ExperimentState.ENDED, end_time=now)


def judged(experiment: Experiment, judgment: Judgment) -> Experiment:
    """The experiment with the newest verdict on its run."""
    return replace(experiment, verdict=judgment.verdict, reasons=judgment.reasons, arm=judgment.arm)
