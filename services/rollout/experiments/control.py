"""Commands and decisions about experiments, each in one transaction. Domain code: no transport."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from services.chassis.errors import AlreadyExists, InvalidArgument, ResourceExhausted
from services.rollout.commands import OURSELVES, Command, once
from services.rollout.control import Control
from services.rollout.experiments import experiments
from services.rollout.experiments.experiments import Experiment, Judgment, Verdict, known
from services.rollout.experiments.findings import Findings
from services.rollout.experiments.plan import DAY_SECONDS, ExperimentPlan, check_plan
from services.rollout.experiments.records import EXPERIMENT, AttachedEvidence, ExperimentRecords
from services.rollout.experiments.room import first_fit
from services.rollout.features import FeatureState, HistoryAction
from services.rollout.storage.records import Records

MAX_EXPERIMENTS = 1000
MAX_RUNNING = 100
"""Most experiments at a time: each is in every snapshot, and a label of series."""
MAX_SUMMARY_BYTES = 4096
MAX_RESULT_BYTES = 256 * 1024


class ExperimentControl:
    """Carries out commands and verdicts. Not thread safe: calls are made one after the other.

    `kept_days` is how long answers are kept, `clock` gives seconds since 1970.
    """

    def __init__(self, control: Control, *, kept_days: int, clock: Callable[[], float]) -> None:
        self._control = control
        self._kept_days = kept_days
        self._clock = clock

    def create(self, records: Records, command: Command, plan: ExperimentPlan) -> Experiment:
        """Store a plan; it reaches no users yet. Raises AlreadyExists."""

        def create() -> Experiment:
            check_plan(plan)
            if plan.horizon_seconds > (self._kept_days - 1) * DAY_SECONDS:
                raise InvalidArgument(
                    "plan.horizon",
                    f"is longer than answers are kept: at most {self._kept_days - 1} days, or raise "
                    "ROLLOUT_FEEDBACK_DAYS",
                )
            ours = ExperimentRecords(records.connection)
            if ours.knows(plan.name):
                raise AlreadyExists(
                    f"there is an experiment {plan.name!r} already", reason="EXPERIMENT_EXISTS", experiment=plan.name
                )
            if records.feature(plan.name) is not None:
                raise AlreadyExists(
                    f"there is a feature {plan.name!r}: take another name", reason="FEATURE_EXISTS", feature=plan.name
                )
            if ours.count() >= MAX_EXPERIMENTS:
                raise ResourceExhausted(
                    f"there are {MAX_EXPERIMENTS:,} experiments already", reason="TOO_MANY_EXPERIMENTS"
                )
            experiment = Experiment(plan.name, plan)
            ours.add(experiment)
            self._tell(records, experiment, experiment, HistoryAction.CREATED, command.actor, command.reason)
            return experiment

        return once(records, command, ("create experiment", plan), create, EXPERIMENT, self._clock())

    def start(self, records: Records, command: Command, name: str) -> Experiment:
        """Begin a run. Raises ResourceExhausted, reason LAYER_FULL, where its layer has no room."""

        def start() -> Experiment:
            ours = ExperimentRecords(records.connection)
            before = known(ours.experiment(name), name)
            running = [other for other in ours.running() if other.name != name]
            after = experiments.started(before, self._clock())
            if len(running) >= MAX_RUNNING:
                raise ResourceExhausted(f"{MAX_RUNNING} experiments are running already", reason="TOO_MANY_EXPERIMENTS")
            plan = before.plan
            taken = [(one.first_bucket, one.plan.share_ppm) for one in running if one.plan.layer == plan.layer]
            after = replace(after, first_bucket=first_fit(plan.layer, taken, plan.share_ppm))
            ours.save(after)
            self._tell(records, before, after, HistoryAction.STARTED, command.actor, command.reason)
            return after

        return once(records, command, ("start experiment", name), start, EXPERIMENT, self._clock())

    def stop(self, records: Records, command: Command, name: str) -> Experiment:
        """End the run, undecided: all users get the standard again."""

        def stop() -> Experiment:
            ours = ExperimentRecords(records.connection)
            before = known(ours.experiment(name), name)
            judgment = Judgment(Verdict.INCONCLUSIVE, (f"stopped by {command.actor}: {command.reason}",))
            after = experiments.ended(before, judgment, self._clock())
            ours.save(after)
            self._tell(records, before, after, HistoryAction.STOPPED, command.actor, command.reason)
            return after

        return once(records, command, ("stop experiment", name), stop, EXPERIMENT, self._clock())

    def attach(self, records: Records, command: Command, name: str, evidence: AttachedEvidence) -> Experiment:
        """Keep what was measured before users saw anything; it takes the place of an earlier one of the same step."""

        def attach() -> Experiment:
            experiment = known(ExperimentRecords(records.connection).experiment(name), name)
            if not evidence.summary.strip() or len(evidence.summary.encode()) > MAX_SUMMARY_BYTES:
                raise InvalidArgument("evidence.summary", f"must be 1 to {MAX_SUMMARY_BYTES:,} bytes of text")
            if "\0" in evidence.summary + evidence.result_json:
                raise InvalidArgument("evidence", "holds a text with a null")
            if len(evidence.result_json.encode()) > MAX_RESULT_BYTES:
                raise InvalidArgument("evidence.result_json", f"is longer than {MAX_RESULT_BYTES // 1024} KiB")
            ExperimentRecords(records.connection).attach(name, evidence)
            return experiment

        return once(records, command, ("attach evidence", name, evidence), attach, EXPERIMENT, self._clock())

    def judge(self, records: Records, name: str, run: int, findings: Findings) -> bool:
        """Keep the findings of a run, and end it by their verdict: True if so. Those of an old run are dropped."""
        ours = ExperimentRecords(records.connection)
        before = ours.experiment(name)
        if before is None or not before.running or before.run != run:
            return False
        self._keep(ours, before, findings)
        judgment = findings.judgment
        if judgment.verdict is Verdict.GO_ON:
            ours.save(experiments.judged(before, judgment))
            return False
        after = experiments.ended(before, judgment, self._clock())
        ours.save(after)
        about = f" ({judgment.arm})" if judgment.arm else ""
        reason = f"{judgment.verdict.value}{about}: {'; '.join(judgment.reasons)}"
        self._tell(records, before, after, HistoryAction.DECIDED, OURSELVES, reason)
        return True

    def _keep(self, ours: ExperimentRecords, experiment: Experiment, findings: Findings) -> None:
        """Keep a point of the curve: often at the beginning, where it moves, and rarely later; the newest always."""
        times = ours.newest_times(experiment, 2)
        spacing = max(1.0, (findings.time - (experiment.start_time or 0.0)) / 50)
        ours.add_point(experiment, findings, replacing=len(times) == 2 and times[0] - times[1] < spacing)

    def _tell(
        self, records: Records, before: Experiment, after: Experiment, action: HistoryAction, actor: str, reason: str
    ) -> None:
        shares = (_share(before), _share(after))
        state = FeatureState.RAMPING if after.running else FeatureState.READY
        self._control.tell(records, after.name, action, actor, reason, shares, state)


def _share(experiment: Experiment) -> int:
    return experiment.plan.share_ppm if experiment.running else 0
