"""Verdicts, each with its reasons, and their order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.experiment.flags import Overrides
from services.experiment.guardrails import Guardrail
from services.rollout.evidence import GuardrailEvidence
from services.rollout.experiments.experiments import Cause, Verdict
from services.rollout.experiments.findings import ArmGuardrail, MetricFinding
from services.rollout.experiments.plan import DAY_SECONDS, ExperimentArm, ExperimentPlan, Method, MetricGuardrail
from services.rollout.experiments.verdicts import Evidence, judge
from sluice_statistics.answers import Metric

ARMS = (ExperimentArm("dense", Overrides(lexical=False)), ExperimentArm("hybrid", Overrides(lexical=True)))
PLAN = ExperimentPlan(
    "hybrid", "", Method.AB, ARMS, 500_000, 0.02, guardrails=(MetricGuardrail(Metric.SATISFACTION, 0.05),)
)
THREE = replace(PLAN, arms=(*ARMS, ExperimentArm("rerank", Overrides(rerank=True))))
INTERLEAVED = ExperimentPlan("hybrid", "", Method.INTERLEAVE, ARMS, 500_000, 0.05, primary_metric=Metric.PREFERENCE)


def finding(
    lower: float, upper: float, arm: str = "hybrid", metric: Metric = Metric.RECIPROCAL_RANK, control: float = 0.5
) -> MetricFinding:
    middle = (lower + upper) / 2
    return MetricFinding(metric, arm, control, control + middle, middle, lower, upper, 1000)


def evidence(*primary: MetricFinding) -> Evidence:
    return Evidence("", (), (), primary, 3600.0)


def breach(arm: str = "hybrid", guardrail: Guardrail = Guardrail.ERRORS) -> ArmGuardrail:
    return ArmGuardrail(arm, GuardrailEvidence(guardrail, 20, 1, 9.0, 5.7, 0.0, 5.7))


def test_a_better_arm_is_shipped() -> None:
    judgment = judge(PLAN, evidence(finding(0.01, 0.05)))
    assert (judgment.verdict, judgment.arm, judgment.cause) == (Verdict.SHIP, "hybrid", Cause.METRIC)
    assert judgment.reasons == ("reciprocal rank of hybrid +6.0% (+2.0% to +10.0%), 0.53 against 0.5: better",)


def test_a_worse_arm_is_stopped() -> None:
    judgment = judge(PLAN, evidence(finding(-0.05, -0.01)))
    assert (judgment.verdict, judgment.arm, judgment.cause) == (Verdict.STOP, "hybrid", Cause.METRIC)
    assert judgment.reasons[0].endswith("worse")


def test_where_less_is_better_a_smaller_mean_is_shipped() -> None:
    plan = replace(PLAN, primary_metric=Metric.LATENCY)
    assert judge(plan, evidence(finding(-0.05, -0.01, metric=Metric.LATENCY))).verdict is Verdict.SHIP
    assert judge(plan, evidence(finding(0.01, 0.05, metric=Metric.LATENCY))).verdict is Verdict.STOP


def test_an_interval_within_what_does_not_matter_is_inconclusive() -> None:
    judgment = judge(PLAN, evidence(finding(-0.009, 0.008)))
    assert (judgment.verdict, judgment.cause, judgment.arm) == (Verdict.INCONCLUSIVE, Cause.METRIC, "")
    assert "excluded" in judgment.reasons[0]
    assert judge(PLAN, evidence(finding(-0.011, 0.008))).verdict is Verdict.GO_ON


def test_what_is_missing_is_said() -> None:
    judgment = judge(PLAN, evidence(finding(-0.03, 0.05)))
    assert (judgment.verdict, judgment.cause) == (Verdict.GO_ON, Cause.NONE)
    # The half width of 0.04 has to become the difference of 0.01: sixteen times the users.
    assert judgment.reasons == (
        "reciprocal rank of hybrid +2.0% (-6.0% to +10.0%), 0.51 against 0.5: not decided; about 16,000 users may be "
        "needed, 1,000 are there",
    )
    assert "fewer than 50 users" in judge(PLAN, evidence()).reasons[0]


def test_after_the_horizon_it_is_inconclusive() -> None:
    late = replace(evidence(finding(-0.03, 0.05)), seconds=28 * DAY_SECONDS)
    judgment = judge(PLAN, late)
    assert (judgment.verdict, judgment.cause) == (Verdict.INCONCLUSIVE, Cause.TIME)
    assert judgment.reasons[0] == "the time is over (28 days)"
    assert judge(PLAN, replace(late, primary=(finding(0.01, 0.05),))).verdict is Verdict.SHIP
    assert judge(PLAN, replace(late, primary=())).verdict is Verdict.INCONCLUSIVE


def test_a_guardrail_comes_before_the_metric() -> None:
    judgment = judge(PLAN, replace(evidence(finding(0.01, 0.05)), guardrails=(breach(),)))
    assert (judgment.verdict, judgment.arm, judgment.cause) == (Verdict.STOP, "hybrid", Cause.GUARDRAIL)
    assert judgment.reasons[0].startswith("guardrail errors: 20 of 21 users with such an answer are those of hybrid")


@pytest.mark.parametrize(("upper", "verdict"), [(-0.026, Verdict.STOP), (-0.02, Verdict.GO_ON)])
def test_a_metric_may_become_worse_by_what_its_guardrail_allows(upper: float, verdict: Verdict) -> None:
    worse = finding(-0.1, upper, metric=Metric.SATISFACTION)
    judgment = judge(PLAN, replace(evidence(finding(-0.03, 0.05)), limits=(worse,)))
    assert judgment.verdict is verdict
    if verdict is Verdict.STOP:
        assert "satisfaction of hybrid" in judgment.reasons[0]


def test_the_sample_ratio_comes_before_all() -> None:
    odd = replace(evidence(finding(0.01, 0.05)), guardrails=(breach(),), mismatch="900 in dense, 1,200 in hybrid")
    judgment = judge(PLAN, odd)
    assert (judgment.verdict, judgment.cause, judgment.arm) == (Verdict.STOP, Cause.SAMPLE_RATIO, "")
    assert judgment.reasons == ("users do not fall into the arms as they must: 900 in dense, 1,200 in hybrid",)


def test_of_several_better_arms_the_best_is_shipped() -> None:
    both = evidence(finding(0.01, 0.03), finding(0.02, 0.06, "rerank"))
    assert judge(THREE, both).arm == "rerank"
    assert judge(THREE, evidence(finding(0.01, 0.03))).verdict is Verdict.SHIP


def test_one_worse_arm_of_several_does_not_end_it_for_the_others() -> None:
    assert judge(THREE, evidence(finding(-0.05, -0.01), finding(-0.03, 0.05, "rerank"))).verdict is Verdict.GO_ON
    assert judge(THREE, evidence(finding(-0.05, -0.01))).verdict is Verdict.GO_ON
    both = evidence(finding(-0.05, -0.01), finding(-0.06, -0.02, "rerank"))
    assert (judge(THREE, both).verdict, judge(THREE, both).arm) == (Verdict.STOP, "rerank")
    rest = evidence(finding(-0.05, -0.01), finding(-0.005, 0.005, "rerank"))
    assert judge(THREE, rest).verdict is Verdict.INCONCLUSIVE


def test_a_broken_guardrail_of_any_arm_stops_it() -> None:
    judgment = judge(THREE, replace(evidence(finding(0.01, 0.05)), guardrails=(breach("rerank"),)))
    assert (judgment.verdict, judgment.arm) == (Verdict.STOP, "rerank")


def test_a_preference_is_judged_as_it_is() -> None:
    def preferred(lower: float, upper: float) -> Evidence:
        return evidence(finding(lower, upper, metric=Metric.PREFERENCE, control=0.0))

    shipped = judge(INTERLEAVED, preferred(0.1, 0.3))
    assert (shipped.verdict, shipped.reasons) == (Verdict.SHIP, ("preference for hybrid +0.2 (+0.1 to +0.3): better",))
    assert judge(INTERLEAVED, preferred(-0.3, -0.1)).verdict is Verdict.STOP
    assert judge(INTERLEAVED, preferred(-0.04, 0.04)).verdict is Verdict.INCONCLUSIVE
    assert judge(INTERLEAVED, preferred(-0.06, 0.04)).verdict is Verdict.GO_ON
