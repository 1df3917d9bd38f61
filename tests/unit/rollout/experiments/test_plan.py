"""Plans of experiments: read, written and checked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from services.chassis.errors import InvalidArgument
from services.experiment.flags import Overrides
from services.rollout.experiments.plan import (
    DAY_SECONDS,
    ExperimentArm,
    ExperimentPlan,
    Method,
    MetricGuardrail,
    check_plan,
)
from sluice.rollout.v1 import experiment_pb2 as pb
from sluice.type.v1 import experiment_pb2, features_pb2
from sluice_statistics.answers import Metric

ARMS = (ExperimentArm("dense", Overrides(lexical=False)), ExperimentArm("hybrid", Overrides(lexical=True)))
PLAN = ExperimentPlan("hybrid", "words help", Method.AB, ARMS, 500_000, 0.02)
INTERLEAVED = replace(PLAN, method=Method.INTERLEAVE, primary_metric=Metric.PREFERENCE)


def test_a_plan_is_read_as_it_was_written() -> None:
    plan = replace(
        PLAN,
        layer="ranking",
        primary_metric=Metric.SATISFACTION,
        guardrails=(MetricGuardrail(Metric.LATENCY, 0.1),),
        horizon_seconds=3 * DAY_SECONDS,
        alpha=0.01,
        history_seconds=0,
    )
    assert ExperimentPlan.from_proto(plan.to_proto()) == plan


def test_what_is_unset_has_its_default() -> None:
    message = pb.ExperimentPlan(name="hybrid", method=experiment_pb2.EXPERIMENT_METHOD_AB)
    plan = ExperimentPlan.from_proto(message)
    assert (plan.layer, plan.primary_metric, plan.alpha) == ("default", Metric.RECIPROCAL_RANK, 0.05)
    assert (plan.horizon_seconds, plan.history_seconds) == (28 * DAY_SECONDS, 7 * DAY_SECONDS)
    message.method = experiment_pb2.EXPERIMENT_METHOD_INTERLEAVE
    assert ExperimentPlan.from_proto(message).primary_metric is Metric.PREFERENCE
    message.history.CopyFrom(Duration())
    assert ExperimentPlan.from_proto(message).history_seconds == 0


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("plan.method", pb.ExperimentPlan()),
        ("plan.primary_metric", pb.ExperimentPlan(method=experiment_pb2.EXPERIMENT_METHOD_AB, primary_metric=99)),
        (
            "plan.guardrails[0].metric",
            pb.ExperimentPlan(method=experiment_pb2.EXPERIMENT_METHOD_AB, guardrails=[pb.MetricGuardrail()]),
        ),
        (
            "plan.arms[0].features.max_hops",
            pb.ExperimentPlan(
                method=experiment_pb2.EXPERIMENT_METHOD_AB,
                arms=[experiment_pb2.ExperimentArm(name="a", features=features_pb2.Features(max_hops=-1))],
            ),
        ),
        (
            "plan.horizon",
            pb.ExperimentPlan(method=experiment_pb2.EXPERIMENT_METHOD_AB, horizon=Duration(seconds=-1)),
        ),
    ],
)
def test_what_cannot_be_read_is_named(field: str, message: pb.ExperimentPlan) -> None:
    with pytest.raises(InvalidArgument) as caught:
        ExperimentPlan.from_proto(message)
    assert caught.value.field == field


def arms(number: int) -> tuple[ExperimentArm, ...]:
    return tuple(ExperimentArm(f"arm-{place}", Overrides(max_variant_count=1 + place)) for place in range(number))


@pytest.mark.parametrize(
    ("plan", "changes", "field"),
    [
        (PLAN, {"name": "No Name"}, "plan.name"),
        (PLAN, {"layer": "-"}, "plan.layer"),
        (PLAN, {"hypothesis": "x" * 5000}, "plan.hypothesis"),
        (PLAN, {"arms": ARMS[:1]}, "plan.arms"),
        (PLAN, {"arms": (*ARMS, replace(ARMS[1], name="dense"))}, "plan.arms[2].name"),
        (PLAN, {"arms": (*ARMS, replace(ARMS[1], name="again"))}, "plan.arms[2].features"),
        (PLAN, {"arms": (ARMS[0], ExperimentArm("b", Overrides()))}, "plan.arms[1].features"),
        (PLAN, {"arms": (ARMS[0], ExperimentArm("b", Overrides(dense=False, lexical=False)))}, "plan.arms[1].features"),
        (PLAN, {"share_ppm": 0}, "plan.share_ppm"),
        (PLAN, {"share_ppm": 1_000_001}, "plan.share_ppm"),
        (PLAN, {"primary_metric": Metric.PREFERENCE}, "plan.primary_metric"),
        (PLAN, {"minimum_effect": 0.0}, "plan.minimum_effect"),
        (PLAN, {"minimum_effect": float("nan")}, "plan.minimum_effect"),
        (PLAN, {"horizon_seconds": 0.0}, "plan.horizon"),
        (PLAN, {"alpha": 0.0}, "plan.alpha"),
        (PLAN, {"history_seconds": 400 * DAY_SECONDS}, "plan.history"),
        (PLAN, {"guardrails": (MetricGuardrail(Metric.PREFERENCE, 0.1),)}, "plan.guardrails[0].metric"),
        (PLAN, {"guardrails": (MetricGuardrail(Metric.RECIPROCAL_RANK, 0.1),)}, "plan.guardrails[0].metric"),
        (PLAN, {"guardrails": (MetricGuardrail(Metric.COST, 0.1),) * 2}, "plan.guardrails[1].metric"),
        (PLAN, {"guardrails": (MetricGuardrail(Metric.COST, -0.1),)}, "plan.guardrails[0].allowed_change"),
        (INTERLEAVED, {"arms": (*ARMS, ExperimentArm("c", Overrides(rerank=True)))}, "plan.arms"),
        (INTERLEAVED, {"primary_metric": Metric.CLICK_RATE}, "plan.primary_metric"),
        (INTERLEAVED, {"guardrails": (MetricGuardrail(Metric.LATENCY, 0.1),)}, "plan.guardrails"),
        (INTERLEAVED, {"minimum_effect": 1.5}, "plan.minimum_effect"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_by_the_name_of_its_field(
    plan: ExperimentPlan, changes: dict[str, Any], field: str
) -> None:
    check_plan(plan)
    with pytest.raises(InvalidArgument) as caught:
        check_plan(replace(plan, **changes))
    assert caught.value.field == field


def test_eight_arms_are_legal_and_nine_are_not() -> None:
    check_plan(replace(PLAN, arms=arms(8)))
    with pytest.raises(InvalidArgument, match="between 2 and 8"):
        check_plan(replace(PLAN, arms=arms(9)))
