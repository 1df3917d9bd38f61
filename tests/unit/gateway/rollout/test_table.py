from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import InvalidArgument
from services.experiment.bucketing import BUCKETS, Arm, arm_of, bucket, unit_hash
from services.experiment.flags import Overrides
from services.gateway.rollout.table import Decision, Kill, Ramp, RolloutTable
from services.gateway.search.flags import Features, resolve
from tests.unit.gateway import flag_values


def ramp(name: str = "rerank-v1", *, share: int = 0, control: int | None = None, **settings: Any) -> Ramp:
    overrides = settings.pop("overrides", Overrides(rerank=True, rerank_candidate_count=50))
    given = {"salt": name, "ramp_id": f"{name}/1", "lease_seconds": 10.0} | settings
    return Ramp(
        name, overrides=overrides, treatment_ppm=share, control_ppm=share if control is None else control, **given
    )


def servable(candidate: Ramp, defaults: Features) -> bool:
    try:
        candidate.check(defaults)
    except InvalidArgument:
        return False
    return True


def arms(decision: Decision) -> dict[str, tuple[Arm, str]]:
    return {arm.feature: (arm.arm, arm.reason.value) for arm in decision.arms}


# Golden: bucket("rerank-v1", "user-42") is 709096.
def test_a_user_is_in_treatment_below_the_share_and_in_control_above_its_mirror() -> None:
    def arm(share: int, control: int) -> Arm:
        return RolloutTable(Features(), [ramp(share=share, control=control)]).decide("user-42").arms[0].arm

    assert [arm(709_097, 0), arm(709_096, 0), arm(100_000, 290_904), arm(100_000, 290_903)] == [
        Arm.TREATMENT,
        Arm.STANDARD,
        Arm.CONTROL,
        Arm.STANDARD,
    ]


@given(st.text(), st.integers(0, BUCKETS), st.integers(0, BUCKETS))
def test_arms_are_those_of_the_bucket(unit: str, share: int, control: int) -> None:
    control = min(control, BUCKETS - share)
    decision = RolloutTable(Features(), [ramp(share=share, control=control)]).decide(unit)
    expected = arm_of(bucket("rerank-v1", unit), share, control) if unit else Arm.STANDARD
    assert [arm.arm for arm in decision.arms] == ([expected] if share or control else [])
    assert decision.features.rerank is (bool(decision.arms) and expected is Arm.TREATMENT)


@given(st.text(min_size=1), st.integers(0, 500_000), st.integers(0, 500_000))
def test_who_is_in_an_arm_stays_in_it_while_the_share_grows_to_half(unit: str, one: int, other: int) -> None:
    before, after = (
        RolloutTable(Features(), [ramp(share=share)]).decide(unit).arms
        for share in sorted((max(1, one), max(1, other)))
    )
    assert before[0].arm is Arm.STANDARD or before[0].arm is after[0].arm


def test_a_decision_carries_what_evidence_needs() -> None:
    (arm,) = RolloutTable(Features(), [ramp(share=BUCKETS, control=0)], snapshot_version=7).decide("user-42").arms
    assert (arm.unit, arm.ramp_id) == (unit_hash("rerank-v1", "user-42"), "rerank-v1/1")


def test_without_a_user_nothing_ramps() -> None:
    decision = RolloutTable(Features(), [ramp(share=BUCKETS, control=0)]).decide("")
    assert arms(decision) == {"rerank-v1": (Arm.STANDARD, "NO_USER")}
    assert decision.features == Features()


@pytest.mark.parametrize("own", [Overrides(rerank=False), Overrides(rerank=True, rerank_candidate_count=9)])
def test_a_request_that_decides_all_that_a_feature_sets_is_in_neither_arm(own: Overrides) -> None:
    for share, control in ((BUCKETS, 0), (0, BUCKETS)):
        decision = RolloutTable(Features(), [ramp(share=share, control=control)]).decide("user-42", own)
        assert arms(decision) == {"rerank-v1": (Arm.STANDARD, "REQUEST_DECIDED")}
        assert decision.features == resolve([own], Features())


def test_a_feature_sets_what_the_request_leaves_open() -> None:
    table = RolloutTable(Features(), [ramp(share=BUCKETS, control=0)])
    decision = table.decide("user-42", Overrides(rerank_candidate_count=9))
    assert arms(decision) == {"rerank-v1": (Arm.TREATMENT, "")}
    assert (decision.features.rerank, decision.features.rerank_candidate_count) == (True, 9)


def test_of_features_that_set_the_same_the_later_wins_and_the_other_is_left_out() -> None:
    synonyms = ramp("expansion-v1", share=BUCKETS, control=0, overrides=Overrides(expansion=True))
    optimised = Overrides(expansion=True, expansion_strategy="multi_query")
    later = ramp("optimised-v1", share=BUCKETS // 2, overrides=optimised)
    table = RolloutTable(Features(), [synonyms, later])
    seen = {arms(table.decide(f"user-{number}"))["optimised-v1"][0] for number in range(50)}
    assert seen == {Arm.TREATMENT, Arm.CONTROL}
    for number in range(50):
        decision = table.decide(f"user-{number}")
        treated = arms(decision)["optimised-v1"][0] is Arm.TREATMENT
        assert decision.features.expansion is True
        assert (decision.features.expansion_strategy == "multi_query") is treated
        expected = (Arm.STANDARD, "OTHER_FEATURE") if treated else (Arm.TREATMENT, "")
        assert arms(decision)["expansion-v1"] == expected


def test_a_lease_that_ends_takes_the_feature_back_and_a_complete_one_has_none() -> None:
    complete = ramp(
        "expansion-v1", share=BUCKETS, control=0, lease_seconds=math.inf, overrides=Overrides(expansion=True)
    )
    table = RolloutTable(Features(), [ramp(share=BUCKETS, control=0), complete])
    assert table.decide("user-42", silence=10.0).features.rerank is True
    lapsed = table.decide("user-42", silence=10.1)
    assert (lapsed.features.rerank, lapsed.features.expansion) == (False, True)
    assert arms(lapsed)["rerank-v1"] == (Arm.STANDARD, "LEASE_ENDED")
    # And what is remembered of better times does not shine through, nor the other way round.
    assert table.decide("user-42", silence=1.0).features.rerank is True


# Kills


def killed(**overrides: Any) -> RolloutTable:
    return RolloutTable(Features(), kills=[Kill("bad", Overrides(**overrides))])


def test_a_killed_feature_cannot_be_had_by_asking() -> None:
    decision = killed(rerank=True, rerank_candidate_count=50).decide(
        "user-42", Overrides(rerank=True, rerank_candidate_count=70, expansion=True)
    )
    assert decision.features == Features(expansion=True)
    assert arms(decision) == {"bad": (Arm.STANDARD, "KILLED")}


def test_a_killed_feature_is_off_even_where_it_is_on_by_default() -> None:
    table = RolloutTable(Features(rerank=True), kills=[Kill("bad", Overrides(rerank=True))])
    assert table.decide("").features.rerank is False
    assert table.standard.rerank is False


def test_a_kill_never_adds_work() -> None:
    decision = killed(rerank=False).decide("user-42", Overrides(rerank=False))
    assert decision.features.rerank is False  # the default, and not the opposite of what the feature set


def test_a_number_of_a_killed_feature_is_that_of_the_defaults() -> None:
    decision = killed(rerank_candidate_count=500).decide("", Overrides(rerank=True, rerank_candidate_count=500))
    assert decision.features == Features(rerank=True)


def test_what_belongs_to_something_killed_goes_with_it() -> None:
    asked = Overrides(expansion_strategy="multi_query", max_variant_count=16)
    assert killed(expansion=True).decide("", asked).features == Features()


def test_a_kill_takes_other_features_with_it_that_set_the_same() -> None:
    table = RolloutTable(Features(), [ramp(share=BUCKETS, control=0)], [Kill("bad", Overrides(rerank=True))])
    decision = table.decide("user-42")
    assert decision.features.rerank is False
    assert arms(decision)["rerank-v1"] == (Arm.STANDARD, "OTHER_FEATURE")


def test_a_kill_holds_for_pages_that_were_begun_before() -> None:
    pinned = Overrides(**asdict(Features(rerank=True)))
    assert killed(rerank=True).decide("user-42", pinned).features.rerank is False


@given(
    flag_values.features,
    flag_values.overrides,
    st.lists(flag_values.overrides, max_size=3),
    st.lists(flag_values.overrides, max_size=3),
)
def test_whatever_is_killed_or_ramps_a_question_is_searched_for_by_something(
    defaults: Features, own: Overrides, killed: list[Overrides], ramped: list[Overrides]
) -> None:
    ramps = [
        candidate
        for number, overrides in enumerate(ramped)
        if overrides
        and servable(candidate := ramp(f"f{number}", share=BUCKETS, control=0, overrides=overrides), defaults)
    ]
    kills = [Kill(f"k{number}", overrides) for number, overrides in enumerate(killed)]
    try:
        resolve([own], defaults)
    except InvalidArgument:
        return  # the caller's own doing
    decision = RolloutTable(defaults, ramps, kills).decide("user-42", own)
    assert decision.features.dense or decision.features.lexical
    for kill in kills:
        if kill.overrides.values.get("rerank"):
            assert decision.features.rerank is False
        if kill.overrides.values.get("expansion"):
            assert decision.features.expansion is False


@given(st.lists(flag_values.overrides.filter(bool), min_size=1, max_size=4), flag_values.overrides)
def test_a_feature_that_takes_no_effect_changes_nothing(ramped: list[Overrides], own: Overrides) -> None:
    ramps = [
        candidate
        for number, overrides in enumerate(ramped)
        if servable(candidate := ramp(f"f{number}", share=BUCKETS, control=0, overrides=overrides), Features())
    ]
    try:
        decision = RolloutTable(Features(), ramps).decide("user-42", own)
    except InvalidArgument:
        return
    effective = [one for one, arm in zip(ramps, decision.arms, strict=True) if arm.arm is Arm.TREATMENT]
    assert RolloutTable(Features(), effective).decide("user-42", own).features == decision.features


def test_what_treatment_would_have_had_is_known_of_a_control_request() -> None:
    table = RolloutTable(Features(), [ramp(control=BUCKETS)])
    assert table.decide("user-42").features == Features()
    assert table.treated("rerank-v1/1", "user-42") == Features(rerank=True, rerank_candidate_count=50)
    assert table.treated("rerank-v1/2", "user-42") is None


@pytest.mark.parametrize(
    ("problem", "settings"),
    [
        ("name", {"name": "Rerank v1"}),
        ("salt", {"salt": ""}),
        ("separator", {"salt": "a\x1fb"}),
        ("overrides nothing", {"overrides": Overrides()}),
        ("treatment_ppm", {"share": BUCKETS + 1, "control": 0}),
        ("control_ppm", {"control": -1}),
        ("arms overlap", {"share": 500_001}),
        ("lease", {"lease_seconds": 0.0}),
        ("lease", {"lease_seconds": math.nan}),
        ("latency threshold", {"slow_seconds": -1.0}),
        ("shadow_ppm", {"shadow_ppm": BUCKETS + 1}),
    ],
)
def test_a_ramp_that_makes_no_sense_is_refused_by_name(problem: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=problem):
        ramp(**settings)
