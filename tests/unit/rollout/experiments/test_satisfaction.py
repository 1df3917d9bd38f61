"""Ramps that ask for satisfaction, from stored ratings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from services.experiment.bucketing import Arm
from services.experiment.flags import Overrides
from services.rollout import transitions
from services.rollout.control import ratings_of
from services.rollout.decisions import Ratings
from services.rollout.features import Feature
from services.rollout.plans import Criteria, Plan, PlanStep
from services.rollout.reports import ArmReport
from tests.unit.rollout.experiments.desk import WHO, Answer, Desk

ASKING = Plan("careful", (PlanStep(100_000, 60, True),), Criteria(satisfaction_min=0.6))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "rollout.db")


def ramp(desk: Desk, plan: Plan) -> Feature:
    desk.do(lambda records: desk.features.create(records, WHO, "rerank", "", Overrides(rerank=True), ""))
    return desk.do(
        lambda records: desk.features.change(
            records, WHO, "rerank", "start", lambda feature: transitions.start(feature, plan)
        )
    )


def test_each_user_of_treatment_counts_once_with_the_mean_of_their_ratings(desk: Desk) -> None:
    feature = ramp(desk, ASKING)
    happy = [Answer(unit, "treatment", rating=1.0) for unit in range(1, 31)]
    busy = [Answer(31, "treatment", rating=rating) for rating in (0.0, 0.0, 0.0, 1.0)]
    others = [Answer(0, "treatment", rating=0.0), Answer(99, "control", rating=0.0), Answer(98, "treatment")]
    desk.store([*happy, *busy, *others], feature.ramp_id)
    found = desk.do(lambda records: ratings_of(records, feature))
    assert (found.user_count, found.mean) == (31, pytest.approx((30 + 0.25) / 31))


def test_ratings_are_read_only_where_the_plan_asks_for_them(desk: Desk) -> None:
    feature = ramp(desk, replace(ASKING, criteria=Criteria()))
    desk.store([Answer(1, "treatment", rating=1.0)], feature.ramp_id)
    assert desk.do(lambda records: ratings_of(records, feature)) == Ratings()


def test_a_ramp_goes_on_when_enough_users_are_satisfied(desk: Desk) -> None:
    plan = replace(ASKING, steps=(PlanStep(100_000, 0, True), PlanStep(1_000_000, 0, True)))
    feature = ramp(desk, plan)
    report = ArmReport(
        feature="rerank",
        ramp_id=feature.ramp_id,
        arm=Arm.TREATMENT,
        request_count=20_000,
        units=(),
        event_counts={},
        bad_units={},
        latency_counts=(),
        shadow_win_count=0,
        shadow_loss_count=0,
        shadow_tie_count=0,
        shadow_overlap_sum=0.0,
        quality_score_sum=0.0,
        quality_score_count=0,
    )
    arms = [report, replace(report, arm=Arm.CONTROL)]
    desk.do(lambda records: desk.features.report(records, "g1", 1, 1, arms))

    def step() -> int:
        desk.now += 6
        desk.do(desk.features.tick)
        found = desk.do(lambda records: records.feature("rerank"))
        assert found is not None
        return found.step

    desk.store([Answer(unit, "treatment", rating=1.0) for unit in range(1, 30)], feature.ramp_id)
    assert step() == 1
    desk.store([Answer(30, "treatment", rating=1.0)], feature.ramp_id)
    assert step() == 2
