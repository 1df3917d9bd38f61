from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import InvalidArgument
from services.experiment.bucketing import BUCKETS
from services.rollout.plans import Criteria, Plan, PlanStep, check_plan

PLAN = Plan(
    "careful", (PlanStep(100_000, 7200, False), PlanStep(500_000, 86_400, True), PlanStep(BUCKETS, 172_800, True))
)


def test_a_plan_of_growing_steps_is_taken() -> None:
    check_plan(PLAN)
    check_plan(replace(PLAN, holdout_ppm=50_000, shadow_ppm=10_000))


@pytest.mark.parametrize(
    ("field", "broken"),
    [
        ("plan.name", replace(PLAN, name=" ")),
        ("plan.name", replace(PLAN, name="x" * 129)),
        ("plan.steps", replace(PLAN, steps=())),
        ("plan.steps", replace(PLAN, steps=tuple(PlanStep(share, 1, True) for share in range(1, 102)))),
        ("plan.steps[1].treatment_ppm", replace(PLAN, steps=(PLAN.steps[1], PLAN.steps[0]))),
        ("plan.steps[0].treatment_ppm", replace(PLAN, steps=(PlanStep(0, 1, True),))),
        ("plan.steps[0].treatment_ppm", replace(PLAN, steps=(PlanStep(-5, 1, True),))),
        ("plan.steps[0].treatment_ppm", replace(PLAN, steps=(PlanStep(BUCKETS + 1, 1, True),))),
        ("plan.steps[0].dwell", replace(PLAN, steps=(PlanStep(5, -1, True),))),
        ("plan.steps[0].dwell", replace(PLAN, steps=(PlanStep(5, math.inf, True),))),
        ("plan.steps[0].dwell", replace(PLAN, steps=(PlanStep(5, math.nan, True),))),
        ("plan.holdout_ppm", replace(PLAN, holdout_ppm=-1)),
        ("plan.holdout_ppm", replace(PLAN, holdout_ppm=500_000)),
        ("plan.holdout_ppm", replace(PLAN, steps=PLAN.steps[2:], holdout_ppm=BUCKETS)),
        ("plan.shadow_ppm", replace(PLAN, shadow_ppm=BUCKETS + 1)),
        ("plan.criteria.error_rate_max", replace(PLAN, criteria=Criteria(error_rate_max=2))),
        ("plan.criteria.error_rate_max", replace(PLAN, criteria=Criteria(error_rate_max=0))),
        ("plan.criteria.p95_max", replace(PLAN, criteria=Criteria(p95_max=math.nan))),
        ("plan.criteria.p99_max", replace(PLAN, criteria=Criteria(p99_max=-1))),
        ("plan.criteria.p95_increase_max", replace(PLAN, criteria=Criteria(p95_increase_max=-0.1))),
        ("plan.criteria.quality_score_min", replace(PLAN, criteria=Criteria(quality_score_min=60))),
        ("plan.criteria.satisfaction_min", replace(PLAN, criteria=Criteria(satisfaction_min=60))),
        ("plan.criteria.allowed_ratio", replace(PLAN, criteria=Criteria(allowed_ratio=0.1))),
        ("plan.criteria.non_inferiority_ratio", replace(PLAN, criteria=Criteria(non_inferiority_ratio=1.0))),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_by_the_name_of_its_field(field: str, broken: Plan) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_plan(broken)
    assert refused.value.field == field


def test_the_holdout_is_never_reached() -> None:
    plan = replace(PLAN, holdout_ppm=50_000)
    assert [plan.share(step) for step in (1, 2, 3)] == [100_000, 500_000, 950_000]
    assert plan.step_after(950_000) is None


@given(share=st.integers(0, BUCKETS))
def test_the_next_step_always_reaches_more_and_there_is_one_until_the_last(share: int) -> None:
    step = PLAN.step_after(share)
    assert (step is None) == (share >= BUCKETS)
    if step is not None:
        assert PLAN.share(step) > share
        assert step == 1 or PLAN.share(step - 1) <= share
