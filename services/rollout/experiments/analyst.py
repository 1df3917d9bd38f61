"""The analyst of running experiments: while this replica leads, it looks at each of them again and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from services.chassis import logs
from services.chassis.errors import SluiceError
from services.rollout.experiments.analysis import Histories, analyse, histories, history_metrics
from services.rollout.experiments.control import ExperimentControl
from services.rollout.experiments.experiments import Experiment
from services.rollout.experiments.findings import Findings
from services.rollout.experiments.records import ExperimentRecords
from services.rollout.experiments.turns import Turns
from services.rollout.feedback.storage import FeedbackRecords
from services.rollout.leader_election import LeaderElection
from services.rollout.storage.database import Database
from services.rollout.storage.records import Records

_log = logs.get_logger("rollout")


class Observer(Protocol):
    """Receiver of what is found, for metrics."""

    def looked(self, experiments: list[Experiment], now: float) -> None:
        """Take the experiments that run, before they are analysed; none where this replica does not lead."""

    def analysed(self, experiment: Experiment, findings: Findings, seconds: float) -> None:
        """Take the findings of a run, and the time that they took."""

    def decided(self, findings: Findings) -> None:
        """Take findings whose verdict ended a run."""

    def failed(self) -> None:
        """Count an analysis that failed."""


class Analyst:
    """Analyses running experiments from the stored rows, and has their verdicts carried out.

    `pause_seconds` is the least time between two analyses; after long ones it is longer. `clock` gives seconds since
    1970.
    """

    def __init__(
        self,
        replica: LeaderElection,
        control: ExperimentControl,
        database: Database,
        observer: Observer,
        *,
        pause_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._replica = replica
        self._control = control
        self._database = database
        self._observer = observer
        self._pause_seconds = pause_seconds
        self._clock = clock
        self._histories: dict[str, Histories] = {}
        self._turns = Turns()

    async def work(self) -> None:
        """Analyse for ever, at most a tenth of the time; a long analysis of one run delays no other run."""
        while True:
            if self._replica.problem is not None:
                self._observer.looked([], self._clock())
            else:
                try:
                    await self.look()
                except SluiceError as error:
                    _log.warning("could not look at experiments", problem=error.message)
                except Exception:
                    _log.exception("could not look at experiments")
            await asyncio.sleep(self._pause_seconds)

    async def look(self) -> None:
        """Analyse every running experiment once that is due: after a long analysis a run has a long pause.

        One that fails does not keep the others from being analysed.
        """
        running = await self._replica.read(lambda records: ExperimentRecords(records.connection).running())
        self._observer.looked(running, self._clock())
        self._histories = {one.run_id: self._histories[one.run_id] for one in running if one.run_id in self._histories}
        self._turns.keep([one.run_id for one in running])
        for experiment in running:
            began = time.monotonic()
            if not self._turns.due(experiment.run_id, began):
                continue
            try:
                history = await self._history(experiment)
                began = time.monotonic()
                findings = await asyncio.to_thread(self._findings, experiment, history)
                if await self._replica.write(self._judging(experiment, findings)):
                    self._observer.decided(findings)
            except SluiceError as error:
                _log.warning("could not analyse", experiment=experiment.name, problem=error.message)
                self._observer.failed()
            except Exception:
                _log.exception("could not analyse", experiment=experiment.name)
                self._observer.failed()
            else:
                self._observer.analysed(experiment, findings, time.monotonic() - began)
            ended = time.monotonic()
            self._turns.took(experiment.run_id, ended - began, ended)  # without reading histories

    async def _history(self, experiment: Experiment) -> Histories:
        """The history of users, read once: only late events change it, and may be the run's doing."""

        def read() -> Histories:
            with self._database.reading_feedback() as feedback:
                return history_of(experiment, feedback)

        if experiment.run_id not in self._histories:
            self._histories[experiment.run_id] = await asyncio.to_thread(read)
        return self._histories[experiment.run_id]

    def _judging(self, experiment: Experiment, findings: Findings) -> Callable[[Records], bool]:
        return lambda records: self._control.judge(records, experiment.name, experiment.run, findings)

    def _findings(self, experiment: Experiment, history: Histories) -> Findings:
        with self._database.reading_feedback() as feedback:
            return analyse(experiment, feedback.answers_of_run(experiment.run_id), history, self._clock())


def history_of(experiment: Experiment, feedback: FeedbackRecords) -> Histories:
    """The values of users before the run.

    Gateways have clocks of their own: an answer of a run is none of its history, whatever time it says.
    """
    start, end = experiment.history_time, experiment.start_time
    if start is None or end is None or start >= end or not history_metrics(experiment.plan):
        return {}
    return histories(experiment.plan, feedback.answers_of_time(start, end, experiment.run_ids))
