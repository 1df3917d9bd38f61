from __future__ import annotations

import math

import pytest

from services.experiment.bucketing import Arm
from services.experiment.flags import Overrides
from services.experiment.guardrails import Guardrail
from services.experiment.latencies import latency_bucket
from services.gateway.rollout.evidence import ArmTotals, Ending, Evidence, Judgement, Lost, Pair, lost_with
from services.gateway.rollout.table import FeatureArm, Ramp, Reason

RAMP = Ramp(
    "rerank-v1",
    salt="rerank-v1",
    overrides=Overrides(rerank=True),
    treatment_ppm=100_000,
    control_ppm=100_000,
    ramp_id="rerank-v1/1",
    lease_seconds=10,
    slow_seconds=1.0,
)


def side(arm: Arm = Arm.TREATMENT, unit: int = 42, ramp: Ramp = RAMP) -> FeatureArm:
    return FeatureArm(ramp.name, ramp.ramp_id, arm, Reason.NONE, ramp, unit)


def only(evidence: Evidence) -> ArmTotals:
    (totals,) = evidence.take()
    return totals


def bad(totals: ArmTotals) -> dict[str, tuple[int, set[int]]]:
    return {guardrail.value: (events.count, events.units) for guardrail, events in totals.bad.items()}


def test_a_request_counts_once_for_its_arm_and_its_unit_once_for_ever() -> None:
    evidence = Evidence()
    for _ in range(3):
        evidence.request([side()], Ending(0.25))
    totals = only(evidence)
    assert (totals.request_count, totals.units, totals.bad) == (3, [42], {})
    assert totals.latency_counts[latency_bucket(0.25)] == sum(totals.latency_counts) == 3
    evidence.request([side()], Ending(0.25))
    assert only(evidence).units == []


def test_what_is_taken_is_not_counted_again() -> None:
    evidence = Evidence()
    evidence.request([side()], Ending(0.25))
    evidence.take()
    assert evidence.take() == []


@pytest.mark.parametrize(
    ("arm", "seconds", "slow"),
    [
        (Arm.CONTROL, 1.0, False),
        (Arm.CONTROL, 1.001, True),
        (Arm.TREATMENT, 1.1, False),
        (Arm.TREATMENT, 1.101, True),
    ],
)
def test_control_is_slow_beyond_t_and_treatment_beyond_a_tenth_more(arm: Arm, seconds: float, slow: bool) -> None:
    evidence = Evidence()
    evidence.request([side(arm)], Ending(seconds))
    assert bad(only(evidence)) == ({"latency": (1, {42})} if slow else {})


def test_every_bad_event_is_counted_and_its_unit_once() -> None:
    evidence = Evidence()
    for unit in (1, 1, 2):
        evidence.request([side(unit=unit)], Ending(0.2, failed=True))
    evidence.request([side(unit=3)], Ending(0.2, failed=True, timed_out=True))
    evidence.request([side(unit=4)], Ending(0.2, empty=True))
    assert bad(only(evidence)) == {
        "errors": (4, {1, 2, 3}),
        "latency": (1, {3}),  # a timeout is slow, however little time it was given
        "empty_results": (1, {4}),
    }


def test_without_a_threshold_nothing_is_slow() -> None:
    evidence = Evidence()
    ramp = Ramp("a", "a", Overrides(rerank=True), 1, 1, "a/1", slow_seconds=math.inf)
    evidence.request([side(ramp=ramp)], Ending(99, failed=True, timed_out=True))
    assert bad(only(evidence)) == {"errors": (1, {42})}


def test_a_caller_who_leaves_in_time_counts_without_a_time_and_one_who_leaves_late_found_it_slow() -> None:
    evidence = Evidence()
    evidence.request([side()], Ending(0.5, given_up=True))
    (early,) = evidence.take()
    assert (early.request_count, sum(early.latency_counts), early.bad) == (1, 0, {})
    evidence.request([side()], Ending(5.0, given_up=True))
    (late,) = evidence.take()
    assert (late.request_count, sum(late.latency_counts), set(late.bad)) == (1, 1, {Guardrail.LATENCY})


def test_standard_requests_and_complete_features_are_no_evidence() -> None:
    evidence = Evidence()
    complete = Ramp("b", "b", Overrides(rerank=True), treatment_ppm=1_000_000, ramp_id="b/9")
    standard = FeatureArm("a", "a/1", Arm.STANDARD, Reason.NOT_SELECTED)
    evidence.request([standard, side(ramp=complete)], Ending(0.2, failed=True))
    assert evidence.take() == []


def test_a_pair_speaks_against_the_arm_whose_answer_was_worse() -> None:
    evidence = Evidence()
    control = side(Arm.CONTROL)
    evidence.pair(control, Pair(0.5, Judgement.LOSS, 0.8, 0.2))
    evidence.pair(control, Pair(1.0, Judgement.WIN, 0.2, 0.6))
    evidence.pair(control, Pair(0.7, Judgement.TIE, 0.5, 0.5))
    totals = {arm.arm: arm for arm in evidence.take()}
    assert totals[Arm.CONTROL].judgements == {Judgement.WIN: 1, Judgement.LOSS: 1, Judgement.TIE: 1}
    assert totals[Arm.CONTROL].overlap_sum == pytest.approx(2.2)
    assert bad(totals[Arm.CONTROL]) == bad(totals[Arm.TREATMENT]) == {"quality": (1, {42})}
    assert (totals[Arm.TREATMENT].quality_sum, totals[Arm.TREATMENT].quality_count) == (pytest.approx(1.3), 3)
    assert totals[Arm.TREATMENT].request_count == 0


def test_beyond_its_bounds_evidence_is_counted_as_lost_and_the_rest_is_kept() -> None:
    evidence = Evidence(most_units=3, most_arms=1)
    for unit in range(5):
        evidence.request([side(unit=unit)], Ending(0.2))
    evidence.request([side(Arm.CONTROL)], Ending(0.2))
    assert evidence.take_lost() == Lost(requests=1, units=2)
    totals = only(evidence)
    assert (totals.request_count, totals.units) == (5, [0, 1, 2])
    # What was lost for want of room is reported when it comes again.
    evidence.request([side(unit=4)], Ending(0.2))
    assert only(evidence).units == [4]
    assert evidence.take_lost() == Lost()


def test_units_are_remembered_in_bounded_memory() -> None:
    evidence = Evidence(most_seen=100)
    for unit in range(1000):
        evidence.request([side(unit=unit)], Ending(0.2))
    assert 0 < evidence.remembered <= 100
    evidence.keep_only([])
    assert evidence.remembered == 0


def test_what_is_given_up_is_known_to_the_request() -> None:
    evidence = Evidence()
    for unit in range(4):
        evidence.request([side(unit=unit)], Ending(0.2, failed=unit == 0))
    assert lost_with(evidence.take()) == Lost(requests=4, units=5)


def test_guardrails_are_those_of_the_design() -> None:
    assert {guardrail.value for guardrail in Guardrail} == {
        *("errors", "latency", "empty_results", "quality", "exposure")
    }
