from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.experiment.bucketing import BUCKETS, Arm
from services.experiment.flags import Overrides
from services.experiment.guardrails import Guardrail
from services.experiment.latencies import EDGES, latency_bucket
from services.rollout.decisions import Action, Patience, Ratings, Run, decide, evidence_of, obstacles_of
from services.rollout.evidence import ArmTotals
from services.rollout.features import Feature, FeatureState, HoldCause
from services.rollout.plans import Criteria, Plan, PlanStep

PLAN = Plan("careful", (PlanStep(100_000, 60, True), PlanStep(500_000, 60, False), PlanStep(BUCKETS, 60, True)))
RAMPING = Feature(
    "rerank-v1",
    "",
    "rerank-v1",
    Overrides(rerank=True),
    state=FeatureState.RAMPING,
    treatment_ppm=100_000,
    plan=PLAN,
    step=1,
    run=1,
)
PATIENCE = Patience(no_data_seconds=30, stale_seconds=15)
NOW = 10_000.0


def arm(requests: int = 20_000, units: int = 10_000, seconds: float = 0.1, **bad: int) -> ArmTotals:
    latencies = [0] * (len(EDGES) + 1)
    latencies[latency_bucket(seconds)] = requests
    counts = {Guardrail(name): count for name, count in bad.items()}
    return ArmTotals(requests, units, dict(counts), dict(counts), latencies, last_request_time=NOW)


def run(treatment: ArmTotals | None = None, control: ArmTotals | None = None, share: int = 100_000) -> Run:
    arms = {
        Arm.TREATMENT: treatment or arm(errors=100, latency=1000),
        Arm.CONTROL: control or arm(errors=100, latency=1000),
    }
    return Run(1, "rerank-v1", share, min(share, BUCKETS - share), 0.0, None, 0.2, 0.0, 3600.0, arms=arms)


def decision(feature: Feature = RAMPING, seen: Run | None = None, *, now: float = NOW, reported: float = NOW):
    return decide(feature, seen or run(), now=now, since=0.0, reported=reported, patience=PATIENCE)


def test_a_ramp_that_is_no_worse_goes_on() -> None:
    assert decision().action is Action.PROMOTE


def test_a_plan_that_asks_waits_for_a_person() -> None:
    asks = replace(RAMPING, step=2, treatment_ppm=500_000)
    shown = (arm(errors=300, latency=1000), arm(errors=300, latency=1000))
    found = decision(asks, run(*shown, share=500_000))
    assert found.action is Action.WAIT
    assert "asks a person" in found.reason


@pytest.mark.parametrize("guardrail", ["errors", "latency", "empty_results", "quality"])
def test_each_guardrail_halves_on_the_first_breach_and_ends_on_the_second(guardrail: str) -> None:
    shadowed = replace(RAMPING, plan=replace(PLAN, shadow_ppm=10_000))
    worse = run(arm(**{guardrail: 90}), arm(**{guardrail: 20}))
    first = decision(shadowed, worse)
    assert (first.action, first.breached) == (Action.HALVE, True)
    assert guardrail in first.reason and "90 of 110" in first.reason
    second = decision(replace(shadowed, breach_count=1), worse)
    assert (second.action, second.breached) == (Action.ROLL_BACK, True)


@pytest.mark.parametrize(
    "treatment",
    [arm(errors=900), arm(seconds=4.0), arm(requests=10, units=10, errors=10)],
    ids=["errors", "slow", "all fail"],
)
def test_a_hard_limit_ends_it_at_once_even_where_control_is_as_bad(treatment: ArmTotals) -> None:
    found = decision(seen=run(treatment, treatment))
    assert (found.action, found.breached) == (Action.ROLL_BACK, False)
    assert "hard limit" in found.reason


def test_a_feature_that_never_ran_is_taken_back_by_a_hard_limit_and_never_promoted() -> None:
    never_ran = decision(seen=run(arm(requests=181, units=181, exposure=181), arm(requests=181, units=181)))
    assert never_ran.action is Action.ROLL_BACK
    assert "feature did not run" in never_ran.reason and "181 of 181" in never_ran.reason
    seldom = decision(seen=run(arm(exposure=1010), arm()))
    assert seldom.action is Action.WAIT
    assert "did not run in 5.05%, above 5.00%" in seldom.reason


def test_a_breach_comes_before_everything_else_and_a_held_ramp_is_watched_too() -> None:
    held = replace(RAMPING, state=FeatureState.HELD, hold_cause=HoldCause.PERSON)
    worse = run(arm(units=100, errors=90), arm(units=9000, errors=20))
    assert decision(held, worse, now=NOW + 1000).action is Action.HALVE


@pytest.mark.parametrize(
    ("cause", "seen", "reported"),
    [
        (HoldCause.MISMATCH, run(arm(units=9000), arm(units=10_000)), NOW),
        (HoldCause.MISMATCH, replace(run(), misplaced_unit_count=1), NOW),
        (HoldCause.STALE, run(), NOW - 16),
        (HoldCause.NO_DATA, run(replace(arm(), last_request_time=NOW - 31)), NOW),
        (HoldCause.NO_DATA, run(control=replace(arm(errors=100, latency=1000), last_request_time=NOW - 31)), NOW),
    ],
)
def test_what_is_missing_holds_a_ramp_that_would_go_on(cause: HoldCause, seen: Run, reported: float) -> None:
    found = decision(seen=seen, reported=reported)
    assert (found.action, found.hold_cause) == (Action.HOLD, cause)


def test_a_hold_ends_with_its_cause_but_not_a_persons_and_not_that_of_a_breach() -> None:
    for cause in HoldCause:
        found = decision(replace(RAMPING, state=FeatureState.HELD, hold_cause=cause))
        by_hand = cause in (HoldCause.PERSON, HoldCause.BREACH)
        assert found.action is (Action.WAIT if by_hand else Action.RESUME)


def test_a_service_that_just_started_has_missed_nothing_yet() -> None:
    found = decide(RAMPING, run(), now=NOW + 100, since=NOW + 95, reported=0.0, patience=PATIENCE)
    assert found.action is Action.PROMOTE


@pytest.mark.parametrize(
    ("why", "seen"),
    [
        ("watched for", replace(run(), watched_seconds=59.0)),
        ("nothing was seen", run(arm(requests=0, units=10_000))),
        ("not yet shown", run(arm(errors=8, latency=1000), arm(errors=8, latency=1000))),
        ("errors 3", run(arm(requests=1000, errors=30, latency=500), arm(errors=100, latency=500))),
    ],
)
def test_what_is_inconclusive_or_not_met_never_goes_on(why: str, seen: Run) -> None:
    found = decision(seen=seen)
    assert found.action is Action.WAIT
    assert why in found.reason


@pytest.mark.parametrize(
    ("criteria", "why"),
    [
        (Criteria(p95_increase_max=0.3), "P95 is"),
        (Criteria(p99_increase_max=0.4), "P99 is"),
        (Criteria(quality_score_min=0.6), "quality score"),
        (Criteria(p95_max=0.15), "P95 0."),
    ],
)
def test_criteria_of_the_plan_are_met_before_it_goes_on(criteria: Criteria, why: str) -> None:
    strict = replace(RAMPING, plan=replace(PLAN, criteria=criteria))
    slower = run(arm(seconds=0.16, errors=100, latency=1000), arm(seconds=0.1, errors=100, latency=1000))
    # Just above the limit, but not beyond doubt: seconds of latency are told by their bucket.
    assert any(obstacle.startswith(why) or why in obstacle for obstacle in obstacles_of(strict, slower))


@pytest.mark.parametrize(
    ("ratings", "why"),
    [
        (Ratings(), "ratings of 0 users, fewer than 30"),
        (Ratings(29, 0.9), "ratings of 29 users, fewer than 30"),
        (Ratings(30, 0.59), "satisfaction 0.590, below 0.600"),
        (Ratings(30, 0.6), ""),
    ],
)
def test_a_plan_may_ask_for_the_ratings_of_thirty_users(ratings: Ratings, why: str) -> None:
    asked = replace(RAMPING, plan=replace(PLAN, criteria=Criteria(satisfaction_min=0.6)))
    found = decide(asked, run(), now=NOW, since=0.0, reported=NOW, patience=PATIENCE, ratings=ratings)
    assert found.action is (Action.WAIT if why else Action.PROMOTE)
    assert why in found.reason


def test_at_all_users_the_hard_limits_alone_decide() -> None:
    everybody = replace(RAMPING, treatment_ppm=BUCKETS, step=3)
    assert decision(everybody, run(control=ArmTotals(), share=BUCKETS)).action is Action.PROMOTE
    assert decision(everybody, run(arm(errors=900), ArmTotals(), share=BUCKETS)).action is Action.ROLL_BACK


def test_more_users_in_treatment_than_in_control_are_allowed_for() -> None:
    held = replace(RAMPING, treatment_ppm=750_000, state=FeatureState.HELD, hold_cause=HoldCause.PERSON)
    seen = run(arm(units=30_000, errors=90), arm(units=10_000, errors=30), share=750_000)
    assert decision(held, seen).action is Action.WAIT
    assert decision(held, run(arm(errors=150), arm(errors=10), share=750_000)).action is Action.HALVE


def test_the_ratio_to_be_shown_is_tighter_with_half_of_the_users() -> None:
    small, half = (evidence_of(RAMPING, run(share=share))[0] for share in (100_000, 500_000))
    assert small.log_non_inferiority > half.log_non_inferiority


@given(
    errors=st.tuples(st.integers(0, 400), st.integers(0, 400)),
    slow=st.tuples(st.integers(0, 400), st.integers(0, 400)),
    breaches=st.integers(0, 1),
    state=st.sampled_from([FeatureState.RAMPING, FeatureState.HELD]),
    cause=st.sampled_from(HoldCause),
    silence=st.floats(0, 60),
)
def test_nothing_is_promoted_that_is_breached_held_by_hand_or_not_shown(
    errors: tuple[int, int],
    slow: tuple[int, int],
    breaches: int,
    state: FeatureState,
    cause: HoldCause,
    silence: float,
) -> None:
    feature = replace(
        RAMPING, state=state, breach_count=breaches, hold_cause=cause if state is FeatureState.HELD else None
    )
    seen = run(arm(errors=errors[0], latency=slow[0]), arm(errors=errors[1], latency=slow[1]))
    found = decision(feature, seen, now=NOW + silence, reported=NOW)
    rows = evidence_of(feature, seen)
    if any(row.breached for row in rows):
        assert found.action is (Action.ROLL_BACK if breaches else Action.HALVE)
    elif silence > 30:
        assert found.action is Action.HOLD or cause in (HoldCause.PERSON, HoldCause.BREACH)
    if found.action is Action.PROMOTE:
        assert state is FeatureState.RAMPING
        assert all(row.shown for row in rows)
