"""The control plane over a real SQLite file, with a clock that the test moves."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.chassis.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, SluiceError
from services.experiment.bucketing import BUCKETS, Arm, arm_of, bucket_of, unit_hash
from services.experiment.flags import Overrides
from services.experiment.guardrails import Guardrail
from services.experiment.latencies import EDGES, latency_bucket
from services.rollout import transitions
from services.rollout.commands import Command
from services.rollout.control import ArmReport, Control, Look
from services.rollout.decisions import Patience
from services.rollout.features import Feature, FeatureState, HoldCause
from services.rollout.gateways import Gateways
from services.rollout.plans import Plan, PlanStep
from services.rollout.snapshots import Quarantined
from services.rollout.storage.database import SqliteDatabase
from services.rollout.storage.records import HistoryEntry, Records
from sluice.rollout.v1 import rollout_pb2 as pb

T = TypeVar("T")
NAME = "rerank-v1"
PLAN = Plan("careful", (PlanStep(100_000, 60, True), PlanStep(500_000, 60, True), PlanStep(BUCKETS, 60, True)))
UNITS = [unit_hash(NAME, f"user-{number}") for number in range(2000)]


@dataclass
class Told:
    """An observer that remembers."""

    entries: list[HistoryEntry] = field(default_factory=list)
    quarantine: list[str] = field(default_factory=list)
    finished: list[tuple[str, float]] = field(default_factory=list)
    late: int = 0

    def happened(self, entry: HistoryEntry) -> None:
        self.entries.append(entry)

    def done(self, entry: HistoryEntry, seconds: float) -> None:
        self.finished.append((entry.action, seconds))

    def quarantined(self, features: list[Quarantined]) -> None:
        self.quarantine = [feature.name for feature in features]

    def late_evidence(self) -> None:
        self.late += 1

    def looked(self, look: Look) -> None:
        pass


class Desk:
    """A control plane, its file and its clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 1_000_000.0
        self.told = Told()
        self.sequence = 0
        self.open()

    def open(self) -> None:
        """Begins as a new process does."""
        self.database = SqliteDatabase(self.path)
        assert self.database.lead()
        self.control = Control(
            Gateways(5.0, 2.0),
            lease_seconds=2.0,
            observer=self.told,
            patience=Patience(30, 15),
            latency_window_seconds=60,
            clock=lambda: self.now,
        )
        self.do(self.control.take_over)

    def do(self, work: Callable[[Records], T]) -> T:
        with self.database.writing() as records:
            return work(records)

    def create(self, name: str = NAME, overrides: Overrides = Overrides(rerank=True)) -> Feature:  # noqa: B008
        return self.do(lambda records: self.control.create(records, by("me"), name, "", overrides, ""))

    def change(self, command: Command, transition: str, *asked: object, name: str = NAME) -> Feature:
        change = getattr(transitions, transition)
        return self.do(
            lambda records: self.control.change(
                records, command, name, transition, lambda feature: change(feature, *asked), asked
            )
        )

    def start(self, plan: Plan = PLAN, name: str = NAME) -> Feature:
        return self.change(by("me"), "start", plan, name=name)

    def feature(self, name: str = NAME) -> Feature:
        found = self.do(lambda records: records.feature(name))
        assert found is not None
        return found

    def tick(self) -> Feature:
        self.do(self.control.tick)
        return self.feature()

    def see(self, requests: int = 500, seconds: float = 1.0, gateway: str = "g1", **bad: tuple[int, int]) -> None:
        """Reports so many requests of each arm, `errors=(9, 0)` of them failed, by as many users."""
        self.now += seconds
        feature = self.feature()
        arms = [
            report(feature, arm, requests, {Guardrail(name): counts[place] for name, counts in bad.items()})
            for place, arm in enumerate((Arm.TREATMENT, Arm.CONTROL))
        ]
        self.sequence += 1
        sequence = self.sequence
        self.do(lambda records: self.control.report(records, gateway, 1, sequence, arms))

    def acknowledge(self, gateway: str = "g1", version: int | None = None) -> None:
        newest = self.snapshot().version if version is None else version
        self.do(lambda records: self.control.acknowledge(records, gateway, newest, (), ()))

    def snapshot(self) -> pb.Snapshot:
        sealed = self.do(lambda records: records.newest_snapshot())
        assert sealed is not None
        return sealed.to_proto()

    def history(self) -> list[HistoryEntry]:
        return self.do(lambda records: records.history())


def by(actor: str, command_id: str = "") -> Command:
    return Command(actor, "because", command_id)


def report(
    feature: Feature, arm: Arm, requests: int, bad: dict[Guardrail, int], units: list[int] | None = None
) -> ArmReport:
    ours = [unit for unit in UNITS if arm_of(bucket_of(unit), feature.treatment_ppm, feature.control_ppm) is arm]
    latencies = [0] * (len(EDGES) + 1)
    latencies[latency_bucket(0.1)] = requests
    return ArmReport(
        feature=feature.name,
        ramp_id=feature.ramp_id,
        arm=arm,
        request_count=requests,
        units=(ours if units is None else units)[:requests],
        event_counts=bad,
        bad_units={guardrail: ours[:count] for guardrail, count in bad.items()},
        latency_counts=latencies,
        shadow_win_count=0,
        shadow_loss_count=0,
        shadow_tie_count=0,
        shadow_overlap_sum=0.0,
        quality_score_sum=0.0,
        quality_score_count=0,
    )


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "rollout.db")
    yield desk
    desk.database.close()


def test_a_plan_is_followed_to_its_end_on_shown_evidence_alone(desk: Desk) -> None:
    desk.create()
    assert desk.start().treatment_ppm == 100_000
    shares = {100_000}
    for _ in range(60):
        desk.see(40_000, errors=(400, 400), latency=(400, 400), seconds=20)
        shares.add(desk.tick().treatment_ppm)
        if desk.feature().state is FeatureState.COMPLETE:
            break
    assert desk.feature().state is FeatureState.COMPLETE
    assert shares == {100_000, 500_000, BUCKETS}
    assert [entry.action.name for entry in desk.history()] == [
        "CREATED",
        "STARTED",
        "PROMOTED",
        "PROMOTED",
        "COMPLETED",
    ]
    assert {entry.actor for entry in desk.history()[2:]} == {"sluice"}
    assert all(entry.findings.arms for entry in desk.history()[2:])
    (served,) = desk.snapshot().features
    assert (served.treatment_ppm, served.control_ppm, served.ramp_id) == (BUCKETS, 0, "")
    assert not served.HasField("lease_duration")


def test_a_breach_halves_then_ends_and_only_a_person_arms_it_again(desk: Desk) -> None:
    desk.create()
    desk.start()
    desk.see(900, empty_results=(60, 5))
    halved = desk.tick()
    assert (halved.treatment_ppm, halved.state, halved.hold_cause) == (50_000, FeatureState.HELD, HoldCause.BREACH)
    desk.see(900, empty_results=(60, 5))
    ended = desk.tick()
    assert (ended.treatment_ppm, ended.state, ended.breach_count) == (0, FeatureState.ROLLED_BACK, 2)
    assert "second breach: empty_results" in ended.reason
    with pytest.raises(FailedPrecondition) as refused:
        desk.start()
    assert refused.value.reason == "NEEDS_REARM"
    desk.change(by("ada"), "rearm")
    assert desk.start().breach_count == 0


def test_evidence_of_a_run_that_is_over_counts_nowhere(desk: Desk) -> None:
    desk.create()
    before = desk.start()
    desk.change(by("me"), "halve")
    old = [report(before, Arm.TREATMENT, 900, {Guardrail.ERRORS: 90})]
    desk.do(lambda records: desk.control.report(records, "g1", 1, 1, old))
    run = desk.do(lambda records: records.runs())[0]
    assert run.arms[Arm.TREATMENT].request_count == 0
    assert desk.told.late == 1


def test_a_report_that_is_sent_again_counts_once_and_another_life_begins_anew(desk: Desk) -> None:
    desk.create()
    arms = [report(desk.start(), Arm.TREATMENT, 10, {})]
    for incarnation, sequence in [(1, 1), (1, 1), (1, 2), (1, 1), (2**64 - 1, 1), (2**64 - 1, 1)]:
        desk.do(lambda records, life=incarnation, at=sequence: desk.control.report(records, "g1", life, at, arms))
    totals = desk.do(lambda records: records.runs())[0].arms[Arm.TREATMENT]
    assert totals.request_count == 30
    assert totals.unit_count == 10


def test_only_the_first_bad_event_of_a_unit_counts_over_all_gateways(desk: Desk) -> None:
    desk.create()
    desk.start()
    for gateway in ("g1", "g2", "g3"):
        desk.see(100, gateway=gateway, errors=(40, 40))
    totals = desk.do(lambda records: records.runs())[0].arms[Arm.TREATMENT]
    assert totals.event_counts[Guardrail.ERRORS] == 120
    assert totals.first_counts[Guardrail.ERRORS] == 40


def test_a_unit_in_an_arm_that_is_not_its_own_holds_the_ramp(desk: Desk) -> None:
    desk.create()
    feature = desk.start()
    strangers = [unit for unit in UNITS if bucket_of(unit) > 500_000][:5]
    arms = [report(feature, Arm.TREATMENT, 10, {}, strangers)]
    desk.do(lambda records: desk.control.report(records, "g1", 1, 1, arms))
    assert desk.tick().hold_cause is HoldCause.MISMATCH


def test_a_ramp_freezes_while_nothing_is_seen_and_goes_on_with_the_evidence(desk: Desk) -> None:
    desk.create()
    desk.start()
    desk.see(100)
    desk.now += 3600
    assert desk.tick().hold_cause is HoldCause.STALE
    desk.see(100)
    assert desk.tick().state is FeatureState.RAMPING
    assert desk.do(lambda records: records.runs())[0].watched_seconds < 60


def test_the_threshold_of_slow_requests_is_controls_p95_and_outlives_the_step(desk: Desk) -> None:
    desk.create()
    desk.start()
    desk.see(100)
    assert not desk.snapshot().features[0].HasField("latency_threshold")
    desk.see(100, seconds=61)
    desk.tick()
    threshold = desk.snapshot().features[0].latency_threshold.ToNanoseconds() / 1e9
    assert threshold == pytest.approx(0.1, rel=0.11)
    desk.change(by("me"), "halve")
    assert desk.snapshot().features[0].HasField("latency_threshold")


@pytest.mark.parametrize("command", ["kill", "roll_back"])
def test_a_command_is_done_when_every_live_gateway_serves_it(desk: Desk, command: str) -> None:
    desk.create()
    desk.start()
    desk.acknowledge("g1")
    desk.acknowledge("g2")
    desk.change(by("ada"), command)
    desk.now += 0.5
    desk.acknowledge("g1")
    assert desk.history()[-1].done_time is None
    desk.now += 0.25
    desk.acknowledge("g2")
    assert desk.history()[-1].done_time == desk.now
    assert desk.told.finished[-1] == (desk.history()[-1].action, pytest.approx(0.75))


def test_a_gateway_that_fell_silent_is_waited_for_no_longer_than_it_counts_as_live(desk: Desk) -> None:
    desk.create()
    desk.start()
    desk.acknowledge("g1")
    desk.change(by("ada"), "kill")
    desk.now += 4.9
    desk.tick()
    assert desk.history()[-1].done_time is None
    desk.now += 0.2
    desk.tick()
    assert desk.history()[-1].done_time == desk.now


def test_a_repeated_command_changes_nothing_and_returns_what_the_first_did(desk: Desk) -> None:
    desk.create()
    first = desk.change(by("me", "c1"), "set_share", 100_000)
    desk.change(by("me", "c2"), "kill")
    again = desk.change(by("you", "c1"), "set_share", 100_000)
    assert again == first
    assert desk.feature().state is FeatureState.KILLED
    with pytest.raises(AlreadyExists) as refused:
        desk.change(by("me", "c1"), "set_share", 200_000)
    assert refused.value.reason == "COMMAND_ID_REUSED"


def test_what_a_new_process_finds_is_what_the_old_one_left(desk: Desk) -> None:
    desk.create()
    desk.start()
    desk.see(900, errors=(30, 28))
    before = (desk.feature(), desk.history(), desk.snapshot(), desk.do(lambda records: records.runs()))
    desk.database.close()
    desk.open()
    assert (desk.feature(), desk.history(), desk.snapshot(), desk.do(lambda records: records.runs())) == before


def test_units_are_deleted_when_their_step_is_over(desk: Desk) -> None:
    desk.create()
    desk.start()
    desk.see(100, errors=(9, 9))
    desk.change(by("me"), "roll_back")
    desk.tick()
    with sqlite3.connect(desk.path) as raw:
        assert raw.execute("SELECT count(*) FROM unit").fetchone() == (0,)
        assert raw.execute("SELECT count(*) FROM bad_unit").fetchone() == (0,)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("overrides", "{"),
        ("overrides", '{"warp": true}'),
        ("plan", "[1]"),
        ("state", "cool"),
        ("treatment_ppm", "most"),
    ],
)
def test_a_damaged_row_is_left_out_alone_and_can_be_killed(desk: Desk, column: str, value: str) -> None:
    for name in ("first", NAME, "last"):
        desk.create(name)
        desk.change(by("me"), "set_share", 100_000, name=name)
    with sqlite3.connect(desk.path) as raw:
        raw.execute(f"UPDATE feature SET {column} = ? WHERE name = ?", (value, NAME))
    desk.tick()
    assert {feature.name: feature.treatment_ppm for feature in desk.snapshot().features} == {
        "first": 100_000,
        "last": 100_000,
    }
    assert desk.told.quarantine == [NAME]
    desk.change(by("me"), "kill")
    assert {feature.name: feature.killed for feature in desk.snapshot().features}[NAME]


def test_commands_of_nobody_for_no_reason_and_on_nothing_are_refused(desk: Desk) -> None:
    for command, wrong in [
        (Command("", "why", ""), "command.actor"),
        (Command("me\n", "why", ""), "command.actor"),
        (Command("me", " ", ""), "command.reason"),
        (Command("me", "x" * 5000, ""), "command.reason"),
        (Command("me", "why", "x" * 129), "command.command_id"),
    ]:
        with pytest.raises(InvalidArgument) as refused:
            desk.change(command, "kill")
        assert refused.value.field == wrong
    with pytest.raises(NotFound) as missing:
        desk.change(by("me"), "kill", name="nothing")
    assert missing.value.reason == "FEATURE_NOT_FOUND"


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("arms[0].arm", {"arm": Arm.STANDARD}),
        ("arms[0].request_count", {"request_count": -1}),
        ("arms[0].latency_counts", {"latency_counts": [1, 2, 3]}),
        ("arms[0].latency_counts", {"latency_counts": [-1] * (len(EDGES) + 1)}),
        ("arms[0].latency_counts", {"request_count": 1}),
        ("arms[0].shadow_overlap_sum", {"shadow_overlap_sum": float("nan")}),
        ("arms[0].quality_score_sum", {"quality_score_sum": 5.0}),
        ("arms[0].bad_events", {"event_counts": {Guardrail.ERRORS: 1}, "bad_units": {Guardrail.ERRORS: UNITS[:2]}}),
        ("arms[0].bad_events", {"event_counts": {Guardrail.ERRORS: 11}}),
    ],
)
def test_evidence_that_cannot_be_is_refused_whole(desk: Desk, field: str, change: dict[str, object]) -> None:
    desk.create()
    broken = replace(report(desk.start(), Arm.TREATMENT, 10, {}), **change)
    with pytest.raises(InvalidArgument) as refused:
        desk.do(lambda records: desk.control.report(records, "g1", 1, 1, [broken]))
    assert refused.value.field == field
    assert desk.do(lambda records: records.runs())[0].arms[Arm.TREATMENT].request_count == 0


class Life(RuleBasedStateMachine):
    """Commands and evidence in any order; what must always hold, holds."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.desk = Desk(Path(self._folder.name) / "rollout.db")
        self.desk.create()

    def teardown(self) -> None:
        self.desk.database.close()
        self._folder.cleanup()

    @rule(command=st.sampled_from(["hold", "halve", "roll_back", "kill", "rearm"]))
    def command(self, command: str) -> None:
        self._try(lambda: self.desk.change(by("me"), command))

    @rule()
    def promote(self) -> None:
        self._try(lambda: self.desk.do(lambda records: self.desk.control.promote(records, by("me"), NAME)))

    @rule(share=st.sampled_from([0, 1, 100_000, 750_000, BUCKETS]))
    def set_share(self, share: int) -> None:
        self._try(lambda: self.desk.change(by("me"), "set_share", share))

    @rule()
    def start(self) -> None:
        self._try(self.desk.start)

    @precondition(lambda self: self.desk.feature().watched)
    @rule(bad=st.sampled_from([(0, 0), (40, 40), (60, 5)]), seconds=st.sampled_from([1.0, 40.0]))
    def evidence(self, bad: tuple[int, int], seconds: float) -> None:
        self.desk.see(20_000, seconds, errors=bad, latency=(80, 80))

    @rule()
    def decide(self) -> None:
        before = self.desk.feature()
        after = self.desk.tick()
        if before.state is not FeatureState.RAMPING:
            assert after.treatment_ppm <= before.treatment_ppm

    @rule()
    def die(self) -> None:
        self.desk.database.close()
        self.desk.open()

    @invariant()
    def the_history_tells_the_state(self) -> None:
        feature, entries = self.desk.feature(), self.desk.history()
        assert (entries[-1].new_treatment_ppm, entries[-1].state) == (feature.treatment_ppm, feature.state)
        for before, after in pairwise(entries):
            assert after.old_treatment_ppm == before.new_treatment_ppm
            assert after.number == before.number + 1

    @invariant()
    def the_snapshot_is_the_state(self) -> None:
        feature, (served,) = self.desk.feature(), self.desk.snapshot().features
        assert served.treatment_ppm == feature.treatment_ppm
        assert served.ramp_id == feature.ramp_id
        assert served.killed == (feature.state is FeatureState.KILLED)
        assert served.HasField("lease_duration") == feature.watched

    @invariant()
    def there_is_a_run_exactly_where_there_is_something_to_see(self) -> None:
        feature = self.desk.feature()
        runs = self.desk.do(lambda records: records.runs())
        assert [run.number for run in runs] == ([feature.run] if feature.watched else [])
        assert all(run.treatment_ppm == feature.treatment_ppm for run in runs)

    @invariant()
    def nobody_is_reached_by_what_was_taken_back(self) -> None:
        feature = self.desk.feature()
        if feature.state in (FeatureState.READY, FeatureState.ROLLED_BACK, FeatureState.KILLED):
            assert feature.treatment_ppm == 0

    def _try(self, work: Callable[[], Feature]) -> None:
        before = self.desk.feature()
        try:
            work()
        except SluiceError:
            assert self.desk.feature() == before


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)


@pytest.mark.parametrize("actor", ["sluice", " Sluice", "SLUICE "])
def test_nobody_acts_under_the_name_of_the_services_own_decisions(desk: Desk, actor: str) -> None:
    with pytest.raises(InvalidArgument, match=r"command\.actor"):
        desk.do(
            lambda records: desk.control.create(records, Command(actor, "a", ""), NAME, "", Overrides(rerank=True), "")
        )
    assert desk.history() == []
