"""Records of experiments, read and written within one transaction of the caller."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter

from services.chassis.timing import timestamp
from services.rollout.experiments.experiments import Experiment, ExperimentState
from services.rollout.experiments.findings import Findings
from services.rollout.storage import tables
from services.rollout.storage.rows import readable, text
from sluice.rollout.v1 import experiment_pb2 as pb

EXPERIMENT: TypeAdapter[Experiment] = TypeAdapter(Experiment)


class LadderStep(enum.Enum):
    """A step before users, whose evidence is attached."""

    OFFLINE = "offline"
    REPLAY = "replay"


@dataclass(frozen=True, slots=True)
class AttachedEvidence:
    """Result of a step before users. `time` is seconds since 1970."""

    step: LadderStep
    time: float
    summary: str
    result_json: str

    def to_proto(self) -> pb.AttachedEvidence:
        """Write the evidence."""
        return pb.AttachedEvidence(
            step=pb.LadderStep.Value(f"LADDER_STEP_{self.step.name}"),
            time=timestamp(self.time),
            summary=self.summary,
            result_json=self.result_json,
        )


@dataclass(frozen=True, slots=True)
class _Point:
    findings: Findings


_POINT = TypeAdapter(_Point)
_EVIDENCE = TypeAdapter(AttachedEvidence)
_FINDINGS = TypeAdapter(Findings)


class ExperimentRecords:
    """All records of experiments, over one connection within one transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def experiments(self) -> list[Experiment]:
        """All experiments, in the order of their creation; one that cannot be read is left out, and so is off."""
        return self._experiments()

    def running(self) -> list[Experiment]:
        """Experiments that run, in the order of their creation."""
        return self._experiments(tables.experiment.c.state == ExperimentState.RUNNING.value)

    def experiment(self, name: str) -> Experiment | None:
        """Experiment of that name, or None."""
        return next(iter(self._experiments(tables.experiment.c.name == name)), None)

    def knows(self, name: str) -> bool:
        """True if an experiment has that name, readable or not."""
        query = sa.select(tables.experiment.c.position).where(tables.experiment.c.name == name)
        return self._connection.execute(query).one_or_none() is not None

    def _experiments(self, *conditions: sa.ColumnElement[bool]) -> list[Experiment]:
        query = text(tables.experiment).where(*conditions).order_by(tables.experiment.c.position)
        return readable(self._connection.execute(query), tables.experiment, EXPERIMENT)

    def count(self) -> int:
        """Number of experiments."""
        return int(self._connection.execute(sa.select(sa.func.count()).select_from(tables.experiment)).scalar_one())

    def add(self, experiment: Experiment) -> None:
        """Add an experiment, the last in order."""
        self._connection.execute(sa.insert(tables.experiment).values(**_row(experiment)))

    def save(self, experiment: Experiment) -> None:
        """Write an experiment as it is now."""
        table = tables.experiment
        self._connection.execute(sa.update(table).where(table.c.name == experiment.name).values(**_row(experiment)))

    # Findings

    def add_point(self, experiment: Experiment, findings: Findings, *, replacing: bool) -> None:
        """Add findings of the run, or put them in the place of the newest ones, so that there are not too many."""
        table = tables.experiment_point
        values = {"time": findings.time, "findings": _FINDINGS.dump_python(findings, mode="json")}
        newest = sa.select(sa.func.max(table.c.number)).where(_of_run(experiment)).scalar_subquery()
        if replacing:
            self._connection.execute(sa.update(table).where(table.c.number == newest).values(**values))
        else:
            self._connection.execute(sa.insert(table).values(experiment=experiment.name, run=experiment.run, **values))

    def newest_times(self, experiment: Experiment, most: int) -> list[float]:
        """Times of the newest findings of the run, newest first."""
        table = tables.experiment_point
        query = sa.select(table.c.time).where(_of_run(experiment)).order_by(table.c.number.desc()).limit(most)
        return [float(time) for time in self._connection.execute(query).scalars()]

    def points(self, experiment: Experiment) -> list[Findings]:
        """Findings of the run as they grew, oldest first."""
        query = text(tables.experiment_point).where(_of_run(experiment)).order_by(tables.experiment_point.c.number)
        found = readable(self._connection.execute(query), tables.experiment_point, _POINT)
        return [point.findings for point in found]

    def newest_findings(self, experiment: Experiment) -> Findings | None:
        """The newest findings of the run, or None."""
        table = tables.experiment_point
        query = text(table).where(_of_run(experiment)).order_by(table.c.number.desc()).limit(1)
        found = readable(self._connection.execute(query), table, _POINT)
        return found[0].findings if found else None

    # Evidence of earlier steps

    def attach(self, experiment: str, evidence: AttachedEvidence) -> None:
        """Keep the evidence of a step; it takes the place of an earlier one."""
        table = tables.experiment_evidence
        same = sa.and_(table.c.experiment == experiment, table.c.step == evidence.step.value)
        self._connection.execute(sa.delete(table).where(same))
        values = {**asdict(evidence), "step": evidence.step.value}
        self._connection.execute(sa.insert(table).values(experiment=experiment, **values))

    def attached(self, experiment: str) -> list[AttachedEvidence]:
        """Evidence of earlier steps, in the order of the steps."""
        table = tables.experiment_evidence
        rows = self._connection.execute(text(table).where(table.c.experiment == experiment))
        places = list(LadderStep)
        return sorted(readable(rows, table, _EVIDENCE), key=lambda evidence: places.index(evidence.step))


def _of_run(experiment: Experiment) -> sa.ColumnElement[bool]:
    table = tables.experiment_point
    return sa.and_(table.c.experiment == experiment.name, table.c.run == experiment.run)


def _row(experiment: Experiment) -> dict[str, Any]:
    values: dict[str, Any] = EXPERIMENT.dump_python(experiment, mode="json")
    return values
