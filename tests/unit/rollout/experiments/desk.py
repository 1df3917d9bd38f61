"""A control plane over a real SQLite file, with a clock that the test moves, and people who use answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from services.chassis.timing import duration, timestamp
from services.experiment.flags import Overrides
from services.rollout.commands import Command
from services.rollout.control import Control
from services.rollout.decisions import Patience
from services.rollout.experiments.analysis import analyse
from services.rollout.experiments.analyst import history_of
from services.rollout.experiments.control import ExperimentControl
from services.rollout.experiments.experiments import Experiment, Judgment
from services.rollout.experiments.findings import ArmTotals, Findings
from services.rollout.experiments.plan import ExperimentArm, ExperimentPlan, Method
from services.rollout.experiments.records import ExperimentRecords
from services.rollout.feedback.batches import Batch
from services.rollout.gateways import Gateways
from services.rollout.metrics import RolloutMetrics
from services.rollout.storage.database import SqliteDatabase
from services.rollout.storage.records import Records
from sluice.rollout.v1 import feedback_pb2, rollout_pb2
from sluice.type.v1 import feedback_pb2 as event_pb2
from sluice.type.v1 import impression_pb2

T = TypeVar("T")
ARMS = (ExperimentArm("dense", Overrides(lexical=False)), ExperimentArm("hybrid", Overrides(lexical=True)))
PLAN = ExperimentPlan("hybrid", "words help", Method.AB, ARMS, 400_000, 0.02)
WHO = Command("ada", "to see", "")
RESULTS = 10
CLICK, RATE = event_pb2.EVENT_ACTION_CLICK, event_pb2.EVENT_ACTION_RATE


@dataclass(frozen=True)
class Answer:
    """An answer, and what was done with it."""

    unit: int
    arm: str = ""
    teams: tuple[int, ...] = ()
    ending: int = feedback_pb2.IMPRESSION_ENDING_ANSWERED
    seconds: float = 0.1
    tokens: int = 100
    clicks: tuple[int, ...] = ()
    """Positions, from 1."""
    rating: float | None = None
    arm_seconds: tuple[float, ...] = ()
    missing_arm: str = ""


def request_of(
    run_id: str, answers: Iterable[Answer], now: float, rng: random.Random
) -> feedback_pb2.StoreFeedbackRequest:
    """Make the request of gateways about these answers, a millisecond apart."""
    request = feedback_pb2.StoreFeedbackRequest()
    for place, answer in enumerate(answers):
        query_id = f"q-{rng.getrandbits(64):016x}"
        served = request.impressions.add(
            impression=impression_pb2.Impression(
                query_id=query_id,
                time=timestamp(now + place / 1000),
                collection="papers",
                unit=answer.unit,
                object_ids=[f"p{position}" for position in range(1, RESULTS + 1)],
                first_position=1,
                exposures=[
                    impression_pb2.Exposure(
                        experiment=run_id.rpartition(".")[0], run_id=run_id, arm=answer.arm, teams=answer.teams
                    )
                ]
                if run_id
                else [],
            ),
            ending=answer.ending,
            duration=duration(answer.seconds),
            model_token_count=answer.tokens,
            arm_durations=[duration(seconds) for seconds in answer.arm_seconds],
            missing_arm=answer.missing_arm,
        )
        common = {"query_id": query_id, "time": served.impression.time}
        for position in answer.clicks:
            event = event_pb2.Event(
                event_id=f"{query_id}-{position}", action=CLICK, object_id=f"p{position}", position=position, **common
            )
            request.events.add(event=event, impression_index=place)
        if answer.rating is not None:
            event = event_pb2.Event(event_id=f"{query_id}-r", action=RATE, rating=answer.rating, **common)
            request.events.add(event=event, impression_index=place)
    return request


class Desk:
    """A control plane, its file and its clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 1_000_000.0
        self.rng = random.Random(7)
        self.open()

    def open(self) -> None:
        """Begins as a new process does."""
        self.database = SqliteDatabase(self.path)
        assert self.database.lead()
        self.features = Control(
            Gateways(5.0, 2.0),
            lease_seconds=2.0,
            observer=RolloutMetrics(),
            patience=Patience(30, 15),
            latency_window_seconds=60,
            clock=lambda: self.now,
        )
        self.control = ExperimentControl(self.features, kept_days=90, clock=lambda: self.now)
        self.do(self.features.take_over)

    def do(self, work: Callable[[Records], T]) -> T:
        with self.database.writing() as records:
            return work(records)

    def create(self, plan: ExperimentPlan = PLAN, command: Command = WHO) -> Experiment:
        return self.do(lambda records: self.control.create(records, command, plan))

    def start(self, name: str = "hybrid", command: Command = WHO) -> Experiment:
        return self.do(lambda records: self.control.start(records, command, name))

    def stop(self, name: str = "hybrid", command: Command = WHO) -> Experiment:
        return self.do(lambda records: self.control.stop(records, command, name))

    def store(self, answers: list[Answer], run_id: str | None = None, at: float | None = None) -> None:
        """Stores answers of the run, or of no experiment where the run's id is empty."""
        run_id = self.experiment().run_id if run_id is None else run_id
        now = self.now if at is None else at
        for start in range(0, len(answers), 500):
            part = request_of(run_id, answers[start : start + 500], now + start / 1000, self.rng)
            batch = Batch.from_proto(part, now + 60, 90)
            with self.database.storing_feedback() as feedback:
                feedback.prepare({row.served_time // 86_400_000_000 for row in batch.impressions})
                feedback.store(batch.impressions, batch.exposures, batch.events)

    def look(self, name: str = "hybrid", seconds: float = 60.0) -> Findings:
        """Analyses the run from what is stored, and carries out the verdict."""
        self.now += seconds
        experiment = self.experiment(name)
        with self.database.reading_feedback() as feedback:
            history = history_of(experiment, feedback)
            findings = analyse(experiment, feedback.answers_of_run(experiment.run_id), history, self.now)
        self.do(lambda records: self.control.judge(records, experiment.name, experiment.run, findings))
        return findings

    def judge(self, judgment: Judgment, run: int = 1, seconds: float = 1.0) -> Experiment:
        self.now += seconds
        findings = Findings(self.now, (ArmTotals("dense", 7),), (), (), 0.0, 6.9, judgment)
        self.do(lambda records: self.control.judge(records, "hybrid", run, findings))
        return self.experiment()

    def experiment(self, name: str = "hybrid") -> Experiment:
        found = self.do(lambda records: ExperimentRecords(records.connection).experiment(name))
        assert found is not None
        return found

    def snapshot(self) -> rollout_pb2.RolloutSnapshot:
        sealed = self.do(lambda records: records.newest_snapshot())
        assert sealed is not None
        return sealed.to_proto()
