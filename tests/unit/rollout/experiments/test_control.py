"""Commands about experiments, over a real SQLite file, with a clock that the test moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from services.chassis.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from services.experiment.flags import Overrides
from services.experiment.snapshot_hash import content_hash
from services.rollout.commands import Command
from services.rollout.experiments.experiments import ExperimentState, Judgment, Verdict
from services.rollout.experiments.plan import DAY_SECONDS
from services.rollout.experiments.records import AttachedEvidence, ExperimentRecords, LadderStep
from services.rollout.features import FeatureState, HistoryAction
from services.rollout.storage.records import Records
from tests.unit.rollout.experiments.desk import PLAN, WHO, Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "rollout.db")


def test_a_plan_reaches_no_users_until_it_is_started(desk: Desk) -> None:
    assert desk.create().state is ExperimentState.READY
    assert not desk.snapshot().features
    experiment = desk.start()
    assert (experiment.state, experiment.run_id, experiment.start_time) == (
        ExperimentState.RUNNING,
        "hybrid.1",
        1_000_000.0,
    )
    snapshot = desk.snapshot()
    assert snapshot.content_hash == content_hash(snapshot.features)
    (served,) = snapshot.features
    assert (served.name, served.salt, served.ramp_id) == ("hybrid", "experiment/hybrid", "hybrid.1")
    assert served.lease_duration.ToMilliseconds() == 2000
    assert (served.experiment.layer_salt, served.experiment.first_bucket, served.experiment.bucket_count) == (
        "layer/default",
        0,
        400_000,
    )
    assert [arm.name for arm in served.experiment.arms] == ["dense", "hybrid"]
    assert not served.features.ListFields()
    assert served.treatment_ppm == 0


def test_a_stop_gives_all_users_the_standard_and_the_history_says_who_and_why(desk: Desk) -> None:
    desk.create()
    desk.start()
    experiment = desk.stop(command=Command("ada", "no more budget", ""))
    assert not desk.snapshot().features
    assert (experiment.state, experiment.verdict) == (ExperimentState.ENDED, Verdict.INCONCLUSIVE)
    assert experiment.reasons == ("stopped by ada: no more budget",)
    history = desk.do(lambda records: records.history("hybrid"))
    assert [(entry.action, entry.new_treatment_ppm, entry.state) for entry in history] == [
        (HistoryAction.CREATED, 0, FeatureState.READY),
        (HistoryAction.STARTED, 400_000, FeatureState.RAMPING),
        (HistoryAction.STOPPED, 0, FeatureState.READY),
    ]
    assert history[-1].reason == "no more budget"
    assert history[-1].snapshot_version == desk.snapshot().version


def test_each_start_is_another_run_with_the_same_users_in_the_same_arms(desk: Desk) -> None:
    desk.create()
    first = desk.start()
    desk.stop()
    desk.now += 10
    second = desk.start()
    assert (first.run_id, second.run_id) == ("hybrid.1", "hybrid.2")
    assert first.salt == second.salt
    assert (second.verdict, second.end_time) == (Verdict.GO_ON, None)


def test_experiments_of_a_layer_stand_side_by_side_until_it_is_full(desk: Desk) -> None:
    for name, layer in (("a", "default"), ("b", "default"), ("c", "default"), ("d", "other")):
        desk.create(replace(PLAN, name=name, layer=layer))
    assert [desk.start(name).first_bucket for name in ("a", "b", "d")] == [0, 400_000, 0]
    with pytest.raises(ResourceExhausted, match=r"20 % of the users free") as caught:
        desk.start("c")
    assert caught.value.reason == "LAYER_FULL"
    assert desk.experiment("c").state is ExperimentState.READY
    desk.stop("a")
    assert desk.start("c").first_bucket == 0


def test_features_and_experiments_share_one_space_of_names(desk: Desk) -> None:
    desk.create()
    with pytest.raises(AlreadyExists) as caught:
        desk.do(lambda records: desk.features.create(records, WHO, "hybrid", "", Overrides(rerank=True), ""))
    assert caught.value.reason == "EXPERIMENT_EXISTS"
    desk.do(lambda records: desk.features.create(records, WHO, "rerank", "", Overrides(rerank=True), ""))
    with pytest.raises(AlreadyExists) as caught:
        desk.create(replace(PLAN, name="rerank"))
    assert caught.value.reason == "FEATURE_EXISTS"
    with pytest.raises(AlreadyExists):
        desk.create()


def test_a_repeated_command_changes_nothing_and_returns_what_the_first_one_did(desk: Desk) -> None:
    made = desk.create(command=Command("ada", "to see", "c1"))
    assert desk.create(command=Command("ada", "to see", "c1")) == made
    started = desk.start(command=Command("ada", "now", "c2"))
    stopped = desk.stop()
    assert desk.start(command=Command("ada", "now", "c2")) == started
    assert desk.experiment() == stopped
    with pytest.raises(AlreadyExists) as caught:
        desk.stop(command=Command("ada", "now", "c2"))
    assert caught.value.reason == "COMMAND_ID_REUSED"


@pytest.mark.parametrize("command", [Command("", "why", ""), Command("sluice", "why", ""), Command("ada", " ", "")])
def test_a_command_names_who_and_why(desk: Desk, command: Command) -> None:
    with pytest.raises(InvalidArgument, match="command"):
        desk.create(command=command)


def test_answers_outlive_the_horizon(desk: Desk) -> None:
    with pytest.raises(InvalidArgument, match="at most 89 days"):
        desk.create(replace(PLAN, horizon_seconds=90 * DAY_SECONDS))
    desk.create(replace(PLAN, horizon_seconds=89 * DAY_SECONDS))


def test_what_the_state_forbids_is_refused_with_a_reason(desk: Desk) -> None:
    with pytest.raises(NotFound) as caught:
        desk.start()
    assert caught.value.reason == "EXPERIMENT_NOT_FOUND"
    desk.create()
    with pytest.raises(FailedPrecondition) as refused:
        desk.stop()
    assert refused.value.reason == "NOT_RUNNING"
    desk.start()
    with pytest.raises(FailedPrecondition) as refused:
        desk.start()
    assert refused.value.reason == "ALREADY_RUNNING"


def test_a_verdict_ends_the_run_and_its_findings_stay(desk: Desk) -> None:
    desk.create()
    desk.start()
    assert desk.judge(Judgment(Verdict.GO_ON, ("few users yet",))).reasons == ("few users yet",)
    experiment = desk.judge(Judgment(Verdict.SHIP, ("more clicks",), "hybrid"))
    assert (experiment.state, experiment.verdict, experiment.arm) == (ExperimentState.ENDED, Verdict.SHIP, "hybrid")
    assert not desk.snapshot().features
    entry = desk.do(lambda records: records.history("hybrid"))[-1]
    assert (entry.action, entry.actor, entry.reason) == (
        HistoryAction.DECIDED,
        "sluice",
        "ship (hybrid): more clicks",
    )
    newest = desk.do(lambda records: ExperimentRecords(records.connection).newest_findings(experiment))
    assert newest is not None
    assert newest.judgment.verdict is Verdict.SHIP


def test_a_verdict_on_a_run_that_is_over_changes_nothing(desk: Desk) -> None:
    desk.create()
    desk.start()
    desk.stop()
    second = desk.start()
    assert desk.judge(Judgment(Verdict.STOP, ("worse",), "hybrid"), run=1) == second


def test_findings_over_time_are_bounded_and_the_newest_is_always_there(desk: Desk) -> None:
    desk.create()
    desk.start()
    for _ in range(150):
        experiment = desk.judge(Judgment(Verdict.GO_ON, ("few users yet",)), seconds=5.0)
    points = desk.do(lambda records: ExperimentRecords(records.connection).points(experiment))
    assert len(points) < 110
    assert points[-1].time == desk.now
    assert points[0].time == 1_000_005.0
    assert [point.time for point in points] == sorted(point.time for point in points)


def test_evidence_of_an_earlier_step_takes_the_place_of_the_one_before(desk: Desk) -> None:
    desk.create()
    for summary in ("first", "second"):
        evidence = AttachedEvidence(LadderStep.REPLAY, desk.now, summary, "{}")
        desk.do(lambda records, one=evidence: desk.control.attach(records, WHO, "hybrid", one))
    offline = AttachedEvidence(LadderStep.OFFLINE, desk.now, "nDCG +3 %", "{}")
    desk.do(lambda records: desk.control.attach(records, WHO, "hybrid", offline))
    kept = desk.do(lambda records: ExperimentRecords(records.connection).attached("hybrid"))
    assert [evidence.summary for evidence in kept] == ["nDCG +3 %", "second"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"summary": " "}, "summary"),
        ({"summary": "a\0"}, "evidence"),
        ({"result_json": "x" * 300_000}, "result_json"),
        ({"result_json": "{\0}"}, "evidence"),
    ],
)
def test_evidence_that_cannot_be_kept_is_refused(desk: Desk, wrong: dict[str, str], field: str) -> None:
    desk.create()
    evidence = AttachedEvidence(LadderStep.OFFLINE, desk.now, "nDCG +3 %", "{}")
    with pytest.raises(InvalidArgument, match=field):
        desk.do(lambda records: desk.control.attach(records, WHO, "hybrid", replace(evidence, **wrong)))


def test_a_new_process_goes_on_with_the_experiments_that_run(desk: Desk) -> None:
    desk.create()
    started = desk.start()
    before = desk.snapshot()
    desk.database.close()
    desk.open()
    assert desk.experiment() == started
    assert desk.snapshot() == before


def test_a_damaged_experiment_is_off_and_takes_no_other_with_it(desk: Desk) -> None:
    desk.create()
    desk.create(replace(PLAN, name="other", layer="other"))
    desk.start()
    desk.start("other")

    def damage(records: Records) -> None:
        records.connection.exec_driver_sql("UPDATE experiment SET plan = '{' WHERE name = 'hybrid'")

    desk.do(damage)
    desk.do(desk.features.take_over)
    assert [feature.name for feature in desk.snapshot().features] == ["other"]
    with pytest.raises(AlreadyExists):
        desk.create()
