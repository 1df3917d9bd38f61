"""Experiments from plan to verdict, by answers that are stored as gateways send them: each verdict and reason."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from services.experiment.flags import Overrides
from services.experiment.guardrails import Guardrail
from services.rollout.experiments.experiments import Cause, ExperimentState, Verdict
from services.rollout.experiments.findings import Findings
from services.rollout.experiments.plan import ExperimentArm, ExperimentPlan, Method, MetricGuardrail
from services.rollout.features import HistoryAction
from sluice.rollout.v1 import feedback_pb2 as pb
from sluice_statistics.answers import Metric
from tests.unit.rollout.experiments.desk import ARMS, PLAN, Answer, Desk

INTERLEAVED = replace(PLAN, method=Method.INTERLEAVE, primary_metric=Metric.PREFERENCE, minimum_effect=0.05)
FAILED, EMPTY = pb.IMPRESSION_ENDING_FAILED, pb.IMPRESSION_ENDING_EMPTY
ONE_ARM = pb.IMPRESSION_ENDING_ONE_ARM
RNG = random.Random


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "rollout.db")


def run(desk: Desk, plan: ExperimentPlan, answers: list[Answer]) -> Findings:
    """Starts the plan, stores the answers, and looks once."""
    desk.create(plan)
    desk.start()
    desk.store(answers)
    return desk.look()


def people(
    count: int, answer: Callable[[int, str], Answer], arms: tuple[str, ...] = ("dense", "hybrid")
) -> list[Answer]:
    """Two answers of each user, who are spread evenly over the arms."""
    return [answer(1 + unit, arms[unit % len(arms)]) for _ in range(2) for unit in range(count)]


def clicking(rates: dict[str, float], seed: int = 1) -> Callable[[int, str], Answer]:
    """People who open the first result with a probability that depends on the arm."""
    rng = RNG(seed)
    return lambda unit, arm: Answer(unit, arm, clicks=(1,) if rng.random() < rates[arm] else ())


def test_a_better_arm_is_shipped_and_all_users_have_the_standard_again(desk: Desk) -> None:
    findings = run(desk, PLAN, people(1200, clicking({"dense": 0.3, "hybrid": 0.6})))
    assert (findings.judgment.verdict, findings.judgment.arm) == (Verdict.SHIP, "hybrid")
    assert desk.experiment().state is ExperimentState.ENDED
    assert not desk.snapshot().features
    entry = desk.do(lambda records: records.history("hybrid"))[-1]
    assert (entry.action, entry.reason.split(":")[0]) == (HistoryAction.DECIDED, "ship (hybrid)")
    control, treatment = findings.arms
    assert (control.arm, control.user_count, control.impression_count) == ("dense", 600, 1200)
    assert treatment.event_count > control.event_count
    assert treatment.p50 == pytest.approx(0.1)
    found = {finding.metric: finding for finding in findings.metrics}
    assert found[Metric.CLICK_RATE].difference == pytest.approx(0.3, abs=0.05)
    assert found[Metric.ABANDONMENT].difference == pytest.approx(-0.3, abs=0.05)
    assert findings.metrics[0].metric is Metric.RECIPROCAL_RANK
    assert Metric.SATISFACTION not in found


def test_a_worse_arm_is_stopped(desk: Desk) -> None:
    findings = run(desk, PLAN, people(1200, clicking({"dense": 0.6, "hybrid": 0.3})))
    assert (findings.judgment.verdict, findings.judgment.cause) == (Verdict.STOP, Cause.METRIC)


def test_equal_arms_go_on_and_end_inconclusive_by_what_is_excluded_or_by_the_time(desk: Desk) -> None:
    equal = people(600, clicking({"dense": 0.5, "hybrid": 0.5}))
    findings = run(desk, PLAN, equal)
    assert findings.judgment.verdict is Verdict.GO_ON
    assert desk.experiment().reasons == findings.judgment.reasons
    assert "users may be needed" in findings.judgment.reasons[0]
    assert desk.look(seconds=28 * 86_400.0).judgment.cause is Cause.TIME
    assert desk.experiment().verdict is Verdict.INCONCLUSIVE
    wide = replace(PLAN, name="wide", minimum_effect=0.5)
    desk.create(wide)
    desk.start("wide")
    desk.store(equal, "wide.1")
    wide_findings = desk.look("wide")
    assert (wide_findings.judgment.verdict, wide_findings.judgment.cause) == (Verdict.INCONCLUSIVE, Cause.METRIC)


def test_few_users_decide_nothing(desk: Desk) -> None:
    findings = run(desk, PLAN, people(80, clicking({"dense": 0.0, "hybrid": 1.0})))
    assert findings.judgment.verdict is Verdict.GO_ON
    assert "fewer than 50 users" in findings.judgment.reasons[0]


def test_a_user_counts_once_however_active(desk: Desk) -> None:
    busy = [Answer(1, "dense", clicks=(1,)) for _ in range(1500)]
    findings = run(desk, PLAN, [*people(200, clicking({"dense": 0.4, "hybrid": 0.4})), *busy])
    assert findings.judgment.verdict is Verdict.GO_ON
    assert findings.arms[0].user_count == 100
    assert findings.metrics[0].control_mean < 0.6


@pytest.mark.parametrize(
    ("guardrail", "changes"),
    [
        (Guardrail.ERRORS, {"ending": FAILED}),
        (Guardrail.EMPTY_RESULTS, {"ending": EMPTY}),
        (Guardrail.LATENCY, {"seconds": 0.9}),
    ],
)
def test_an_arm_that_breaks_a_guardrail_is_stopped_though_people_like_it(
    desk: Desk, guardrail: Guardrail, changes: dict[str, object]
) -> None:
    rng = RNG(3)
    liked = clicking({"dense": 0.3, "hybrid": 0.7})

    def answer(unit: int, arm: str) -> Answer:
        bad = arm == "hybrid" and rng.random() < 0.04
        return replace(liked(unit, arm), **(changes if bad else {}))

    findings = run(desk, PLAN, people(1000, answer))
    assert (findings.judgment.verdict, findings.judgment.cause) == (Verdict.STOP, Cause.GUARDRAIL)
    assert findings.judgment.arm == "hybrid"
    assert guardrail.value in findings.judgment.reasons[0]


def test_both_arms_may_fail_alike(desk: Desk) -> None:
    rng = RNG(3)

    def answer(unit: int, arm: str) -> Answer:
        bad = rng.random() < 0.04
        return Answer(unit, arm, ending=FAILED if bad else 1, seconds=0.05 + rng.random() / 10)

    assert run(desk, PLAN, people(1000, answer)).judgment.verdict is Verdict.GO_ON


def test_a_metric_that_is_a_guardrail_stops_a_better_arm(desk: Desk) -> None:
    rng = RNG(5)
    liked = clicking({"dense": 0.3, "hybrid": 0.7})

    def answer(unit: int, arm: str) -> Answer:
        rating = min(1.0, max(0.0, (0.8 if arm == "dense" else 0.5) + rng.gauss(0, 0.1)))
        return replace(liked(unit, arm), rating=rating)

    plan = replace(PLAN, guardrails=(MetricGuardrail(Metric.SATISFACTION, 0.05),))
    findings = run(desk, plan, people(600, answer))
    assert (findings.judgment.verdict, findings.judgment.cause) == (Verdict.STOP, Cause.GUARDRAIL)
    assert "satisfaction of hybrid" in findings.judgment.reasons[0]


def test_users_who_are_missing_from_an_arm_stop_it(desk: Desk) -> None:
    liked = clicking({"dense": 0.3, "hybrid": 0.7})
    answers = [answer for answer in people(1500, liked) if answer.arm == "dense" or answer.unit % 3]
    findings = run(desk, PLAN, answers)
    assert (findings.judgment.verdict, findings.judgment.cause) == (Verdict.STOP, Cause.SAMPLE_RATIO)
    assert findings.log_mismatch > findings.log_mismatch_threshold
    assert "750 in dense, 500 in hybrid" in findings.judgment.reasons[0]


def test_users_in_two_arms_stop_it(desk: Desk) -> None:
    liked = clicking({"dense": 0.3, "hybrid": 0.7})
    crossing = [Answer(unit, "hybrid") for unit in range(1, 23, 2)]
    findings = run(desk, PLAN, [*people(400, liked), *crossing])
    assert findings.judgment.cause is Cause.SAMPLE_RATIO
    assert "11 of them were in more than one arm" in findings.judgment.reasons[0]


def test_a_user_who_opens_the_next_page_of_somebody_elses_search_counts_in_the_own_arm_alone(desk: Desk) -> None:
    liked = clicking({"dense": 0.3, "hybrid": 0.7})
    findings = run(desk, PLAN, [*people(400, liked), Answer(1, "hybrid", clicks=(1,))])
    assert findings.judgment.cause is not Cause.SAMPLE_RATIO
    assert [arm.user_count for arm in findings.arms] == [200, 200]
    assert sum(arm.impression_count for arm in findings.arms) == 800


def test_answers_of_nobody_of_other_arms_and_of_other_runs_do_not_count(desk: Desk) -> None:
    desk.create()
    desk.start()
    desk.store([Answer(0, "dense"), Answer(1, "other")])
    desk.store([Answer(2, "dense")], "hybrid.7")
    assert [arm.impression_count for arm in desk.look().arms] == [0, 0]


def test_of_three_arms_the_best_is_shipped(desk: Desk) -> None:
    plan = replace(PLAN, arms=(*ARMS, ExperimentArm("rerank", Overrides(rerank=True))))
    rates = {"dense": 0.3, "hybrid": 0.5, "rerank": 0.8}
    findings = run(desk, plan, people(1800, clicking(rates), ("dense", "hybrid", "rerank")))
    assert (findings.judgment.verdict, findings.judgment.arm) == (Verdict.SHIP, "rerank")
    assert [finding.arm for finding in findings.metrics if finding.metric is Metric.RECIPROCAL_RANK] == [
        "hybrid",
        "rerank",
    ]


def test_what_users_did_before_narrows_the_interval(desk: Desk) -> None:
    rng = RNG(9)
    habits = {unit: rng.random() for unit in range(1, 801)}

    def answer(unit: int, arm: str) -> Answer:
        return Answer(unit, arm, clicks=(1,) if rng.random() < habits[unit] else ())

    before = [answer(unit, "") for _ in range(6) for unit in habits]
    desk.store(before, "", at=desk.now - 86_400)
    findings = run(desk, PLAN, [found for _ in range(3) for found in people(800, answer)])
    primary = findings.metrics[0]
    assert primary.variance_reduction > 0.4
    assert findings.metrics[1].variance_reduction == 0.0


def test_an_earlier_run_is_no_history(desk: Desk) -> None:
    run(desk, PLAN, people(800, clicking({"dense": 0.5, "hybrid": 0.5})))
    desk.stop()
    desk.now += 10
    desk.start()
    desk.store(people(800, clicking({"dense": 0.5, "hybrid": 0.5}, seed=2)))
    assert desk.look().metrics[0].variance_reduction == 0.0


def test_answers_of_a_gateway_whose_clock_is_behind_are_no_history_of_their_own_run(desk: Desk) -> None:
    desk.create()
    desk.start()
    desk.store(people(1000, clicking({"dense": 0.3, "hybrid": 0.6})), at=desk.now - 30)
    findings = desk.look()
    assert findings.judgment.verdict is Verdict.SHIP
    assert findings.metrics[0].variance_reduction == 0.0


# Interleaving


def drafted(unit: int, rng: random.Random, loyal: float) -> Answer:
    """An interleaved answer of a user who opens a result of the second team with that probability."""
    first = rng.choice((1, 2))
    teams = (first, 3 - first, 0, 1, 2, 0, 0, 0, 0, 0)
    team = 2 if rng.random() < loyal else 1
    return Answer(unit, teams=teams, clicks=(teams.index(team) + 1,), arm_seconds=(0.1, 0.1))


def interleaved(count: int, loyal: float, seed: int = 1) -> list[Answer]:
    rng = RNG(seed)
    return [drafted(1 + unit, rng, loyal) for _ in range(2) for unit in range(count)]


@pytest.mark.parametrize(("loyal", "verdict"), [(0.75, Verdict.SHIP), (0.25, Verdict.STOP), (0.5, Verdict.GO_ON)])
def test_a_preference_decides_an_interleaved_experiment(desk: Desk, loyal: float, verdict: Verdict) -> None:
    findings = run(desk, INTERLEAVED, interleaved(250, loyal))
    assert findings.judgment.verdict is verdict
    (finding,) = findings.metrics
    assert (finding.metric, finding.arm, finding.control_mean) == (Metric.PREFERENCE, "hybrid", 0.0)
    assert finding.difference == pytest.approx(2 * loyal - 1, abs=0.15)
    (totals,) = findings.arms
    assert (totals.user_count, totals.impression_count) == (250, 500)


def test_an_interleaved_experiment_without_a_preference_is_inconclusive(desk: Desk) -> None:
    plan = replace(INTERLEAVED, minimum_effect=0.4)
    assert run(desk, plan, interleaved(250, 0.5)).judgment.verdict is Verdict.INCONCLUSIVE


def test_users_without_credit_do_not_count(desk: Desk) -> None:
    unused = [replace(answer, unit=answer.unit + 1000, clicks=(3,)) for answer in interleaved(100, 0.5)]
    findings = run(desk, INTERLEAVED, [*interleaved(100, 0.5), *unused])
    assert findings.metrics[0].user_count == 100
    assert findings.arms[0].user_count == 200


def test_a_second_arm_that_fails_is_stopped_and_its_answers_do_not_count(desk: Desk) -> None:
    rng = RNG(2)
    answers = [
        replace(answer, ending=ONE_ARM, missing_arm="hybrid", teams=()) if rng.random() < 0.03 else answer
        for answer in interleaved(600, 0.8)
    ]
    findings = run(desk, INTERLEAVED, answers)
    assert (findings.judgment.verdict, findings.judgment.cause) == (Verdict.STOP, Cause.GUARDRAIL)
    assert "guardrail errors" in findings.judgment.reasons[0]
    assert findings.arms[0].one_arm_count > 20


def test_a_second_arm_that_is_slower_is_stopped(desk: Desk) -> None:
    rng = RNG(2)
    answers = [
        replace(answer, arm_seconds=(0.1, 0.1 if rng.random() < 0.9 else 0.3)) for answer in interleaved(600, 0.5)
    ]
    findings = run(desk, INTERLEAVED, answers)
    assert findings.judgment.cause is Cause.GUARDRAIL
    assert "guardrail latency" in findings.judgment.reasons[0]


def test_arms_that_are_slow_together_are_no_worse_than_each_other(desk: Desk) -> None:
    rng = RNG(2)
    answers = [
        replace(answer, arm_seconds=(seconds, seconds * 1.05))
        for answer in interleaved(600, 0.5)
        for seconds in [0.1 if rng.random() < 0.9 else 0.3]
    ]
    assert run(desk, INTERLEAVED, answers).judgment.verdict is Verdict.GO_ON


def test_a_coin_that_falls_unevenly_stops_it(desk: Desk) -> None:
    rng = RNG(4)
    answers = [answer for answer in interleaved(900, 0.5) if answer.teams[0] == 2 or rng.random() < 0.5]
    findings = run(desk, INTERLEAVED, answers)
    assert findings.judgment.cause is Cause.SAMPLE_RATIO
    assert "the coin does not fall evenly" in findings.judgment.reasons[0]
