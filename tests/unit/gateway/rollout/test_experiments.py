"""Experiments in the table that decides: who is a part of them, and with which flags."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import InvalidArgument
from services.experiment.bucketing import BUCKETS, Arm
from services.experiment.flags import Overrides
from services.experiment.layers import Layered
from services.gateway.rollout.experiments import Experiment
from services.gateway.rollout.table import Decision, ExperimentArm, Kill, Ramp, RolloutTable
from services.gateway.search import paging
from services.gateway.search.flags import Features, Interleaved, resolve
from services.gateway.search.question import Course
from sluice.gateway.v1 import search_pb2
from tests.unit.gateway import flag_values

RERANK = [("control", Overrides()), ("reranked", Overrides(rerank=True))]
HYBRID = [("hybrid", Overrides()), ("dense", Overrides(lexical=False))]
USERS = [f"user-{number}" for number in range(60)]
DIGEST = paging.question_digest(search_pb2.SearchRequest(query="what"))
COURSE = Course("docs-v1", "d1935", expanded=True, embedded=2, reranked=20, reranker="cross")


def experiment(
    name: str = "reranking",
    arms: Any = RERANK,
    *,
    layer: str = "default",
    first: int = 0,
    count: int = BUCKETS,
    **given: Any,
) -> Experiment:
    layered = Layered(layer, first, count, f"{name}-arms", arms=len(arms))
    return Experiment(name, f"{name}/1", layered, arms, **given)


def complete(name: str, **flags: Any) -> Ramp:
    return Ramp(name, name, Overrides(**flags), treatment_ppm=BUCKETS)


def table(*experiments: Experiment, ramps: Any = (), kills: Any = (), defaults: Features | None = None) -> RolloutTable:
    return RolloutTable(defaults or Features(), ramps, kills, 1, experiments)


def user_in(table: RolloutTable, arm: str) -> str:
    """The first user with an arm of the first experiment."""
    return next(user for user in USERS if table.decide(user).experiments[0].arm == arm)


def next_page(decision: Decision) -> paging.Page:
    runs = [part.run_id for part in decision.experiments]
    token = paging.encode(10, decision.features, COURSE, DIGEST, runs, drafted(decision))
    return paging.decode(token, DIGEST)


def drafted(decision: Decision) -> tuple[Interleaved, Course] | None:
    return (decision.interleaved, COURSE) if decision.interleaved is not None else None


def test_each_user_has_one_arm_and_its_flags() -> None:
    decided = {user: table(experiment()).decide(user) for user in USERS}
    for decision in decided.values():
        (part,) = decision.experiments
        assert (part.experiment, part.run_id) == ("reranking", "reranking/1")
        assert decision.features == Features(rerank=part.arm == "reranked")
        assert decision.interleaved is None
    assert Counter(decision.experiments[0].arm for decision in decided.values()).keys() == {"control", "reranked"}
    assert all(table(experiment()).decide(user) == decision for user, decision in decided.items())


def test_without_a_user_or_after_the_lease_there_is_no_experiment() -> None:
    one = table(experiment(lease_seconds=10.0))
    assert one.decide("").experiments == []
    assert one.decide("user-1", silence=10.0).experiments != []
    assert one.decide("user-1", silence=10.1).experiments == []
    assert one.decide("user-1", silence=10.1).features == Features()


def test_only_users_of_its_buckets_are_in_it() -> None:
    halves = table(
        experiment(count=BUCKETS // 2), experiment("colours", HYBRID, first=BUCKETS // 2, count=BUCKETS // 2)
    )
    seen = [halves.decide(user).experiments for user in USERS]
    assert all(len(parts) == 1 for parts in seen)
    assert {parts[0].experiment for parts in seen} == {"reranking", "colours"}


@given(flag_values.overrides)
def test_a_request_that_sets_a_flag_of_any_arm_is_no_part_whatever_its_users_arm(own: Overrides) -> None:
    arms = [("one", Overrides(rerank=True)), ("two", Overrides(expansion=True))]
    both = table(experiment(arms=arms))
    try:
        entered = [bool(both.decide(user, own).experiments) for user in USERS[:20]]
    except InvalidArgument:
        return
    assert set(entered) == {not {"rerank", "expansion"} & own.values.keys()}


@pytest.mark.parametrize("own", [Overrides(dense=False), Overrides(lexical=False)])
def test_an_arm_never_takes_the_last_search(own: Overrides) -> None:
    for user in USERS[:10]:
        decision = table(experiment(arms=HYBRID)).decide(user, own)
        assert decision.experiments == []
        assert decision.features == resolve([own], Features())


def test_a_kill_is_stronger_for_all_arms_alike() -> None:
    killed = table(experiment(), kills=[Kill("other", Overrides(rerank=True))])
    for user in USERS[:10]:
        decision = killed.decide(user)
        assert (decision.experiments, decision.features) == ([], Features())


def test_a_ramp_whose_flags_an_experiment_decides_is_left_out_in_every_arm() -> None:
    ramp = Ramp("rerank-v1", "rerank-v1", Overrides(rerank=True), BUCKETS // 2, BUCKETS // 2, "rerank-v1/1", 10.0)
    both = table(experiment(), ramps=[ramp])
    for user in USERS:
        decision = both.decide(user)
        (arm,) = decision.arms
        assert (arm.arm, arm.reason.value) == (Arm.STANDARD, "OTHER_FEATURE")
        assert decision.features.rerank is (decision.experiments[0].arm == "reranked")


def test_a_ramp_of_other_flags_reaches_all_arms() -> None:
    ramp = Ramp("expansion-v1", "expansion-v1", Overrides(expansion=True), BUCKETS, 0, "expansion-v1/1", 10.0)
    both = table(experiment(), ramps=[ramp])
    assert {both.decide(user).features.rerank for user in USERS} == {False, True}
    assert all(both.decide(user).features.expansion for user in USERS)


def test_what_an_arm_leaves_out_is_as_complete_features_have_it() -> None:
    arms = [("control", Overrides()), ("plain", Overrides(rerank=False))]
    decided = [table(experiment(arms=arms), ramps=[complete("rerank-v1", rerank=True)]).decide(user) for user in USERS]
    assert all(decision.features.rerank is (decision.experiments[0].arm == "control") for decision in decided)


def test_experiments_of_other_layers_combine_unless_they_set_the_same() -> None:
    other = experiment("expanding", [("control", Overrides()), ("expanded", Overrides(expansion=True))], layer="pages")
    same = experiment("reranking-too", RERANK, layer="third")
    decided = [table(experiment(), other, same).decide(user) for user in USERS]
    assert all([part.experiment for part in decision.experiments] == ["reranking", "expanding"] for decision in decided)
    assert len({(decision.features.rerank, decision.features.expansion) for decision in decided}) == 4


def test_an_interleaved_request_has_both_configurations_and_the_flags_of_the_first() -> None:
    ramp = Ramp("expansion-v1", "expansion-v1", Overrides(expansion=True), BUCKETS, 0, "expansion-v1/1", 10.0)
    later = experiment("counting", [("few", Overrides()), ("more", Overrides(max_variant_count=8))], layer="third")
    drafted = table(experiment("mixed", HYBRID, interleaved=True), later, ramps=[ramp])
    seen = set()
    for user in USERS:
        decision = drafted.decide(user)
        assert decision.experiments[0] == ExperimentArm("mixed", "mixed/1", "")
        assert decision.interleaved is not None
        (one, first), (other, second) = decision.interleaved.arms
        assert (one, other, decision.interleaved.salt) == ("hybrid", "dense", "mixed-arms")
        assert decision.features == first
        assert (first.lexical, second.lexical) == (True, False)
        assert first.expansion and second.expansion
        assert first.max_variant_count == second.max_variant_count
        seen.add(first.max_variant_count)
    assert seen == {5, 8}


def test_of_experiments_with_interleaved_answers_a_request_is_in_the_first_alone() -> None:
    two = table(
        experiment("mixed", HYBRID, interleaved=True), experiment("mixed-too", RERANK, interleaved=True, layer="pages")
    )
    decision = two.decide("user-1")
    assert [part.experiment for part in decision.experiments] == ["mixed"]


def test_a_user_who_is_not_in_the_first_interleaved_experiment_may_be_in_the_next() -> None:
    two = table(
        experiment("mixed", HYBRID, interleaved=True, count=BUCKETS // 2),
        experiment("mixed-too", RERANK, interleaved=True, layer="pages"),
    )
    assert {two.decide(user).experiments[0].experiment for user in USERS} == {"mixed", "mixed-too"}


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_later_page_keeps_flags_and_experiments(interleaved: bool) -> None:
    drafted = table(experiment(interleaved=interleaved), ramps=[complete("expansion-v1", expansion=True)])
    for user in USERS[:20]:
        first = drafted.decide(user)
        later = drafted.resume(user, next_page(first))
        assert (later.features, later.experiments, later.interleaved) == (
            first.features,
            first.experiments,
            first.interleaved,
        )


def test_a_later_page_is_no_part_of_an_experiment_that_has_ended_and_its_draft_goes_on() -> None:
    first = table(experiment(interleaved=True)).decide("user-1")
    later = table().resume("user-1", next_page(first))
    assert (later.experiments, later.interleaved) == ([], first.interleaved)


def test_a_later_page_of_a_killed_experiment_has_the_first_configuration_alone() -> None:
    first = table(experiment(interleaved=True)).decide("user-1")
    later = table(kills=[Kill("reranking", Overrides())]).resume("user-1", next_page(first))
    assert (later.experiments, later.interleaved, later.features) == ([], None, Features())


def test_a_kill_of_a_feature_holds_for_both_configurations_of_a_later_page() -> None:
    first = table(experiment(interleaved=True)).decide("user-1")
    killed = table(experiment(interleaved=True), kills=[Kill("rerank-v1", Overrides(rerank=True))])
    later = killed.resume("user-1", next_page(first))
    assert later.experiments == []
    assert later.interleaved is not None
    assert [features.rerank for _, features in later.interleaved.arms] == [False, False]


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_page_token_made_up_is_no_part_of_an_experiment(interleaved: bool) -> None:
    half = table(experiment(count=BUCKETS // 2, interleaved=interleaved))
    inside = next(user for user in USERS if half.decide(user).experiments)
    outside = next(user for user in USERS if not half.decide(user).experiments)
    page = next_page(half.decide(inside))
    assert half.resume(inside, page).experiments != []
    assert half.resume(outside, page).experiments == []
    assert half.resume("", page).experiments == []
    other_flags = Features(rerank=not half.decide(inside).features.rerank)
    forged = paging.decode(
        paging.encode(10, other_flags, COURSE, DIGEST, ["reranking/1"], drafted(half.decide(inside))), DIGEST
    )
    assert half.resume(inside, forged).experiments == []


def test_a_page_token_with_a_coin_made_up_is_no_part_of_an_experiment() -> None:
    mixed = table(experiment(interleaved=True))
    page = next_page(mixed.decide("user-1"))
    other = drafted(table(experiment("another", interleaved=True)).decide("user-1"))
    forged = paging.encode(10, Features(), COURSE, DIGEST, page.runs, other)
    assert mixed.resume("user-1", paging.decode(forged, DIGEST)).experiments == []


def test_a_shadow_of_a_ramp_has_the_experiments_of_its_request() -> None:
    ramp = Ramp("expansion-v1", "expansion-v1", Overrides(expansion=True), 0, BUCKETS, "expansion-v1/1", 10.0)
    both = table(experiment(), ramps=[ramp])
    for user in USERS[:10]:
        treated = both.treated("expansion-v1/1", user)
        assert treated == resolve([Overrides(expansion=True)], both.decide(user).features)


@pytest.mark.parametrize(
    "given",
    [
        {"name": "No Name"},
        {"arms": [("one", Overrides()), ("one", Overrides(rerank=True))]},
        {"arms": [("one", Overrides()), ("two", Overrides())]},
        {"arms": [("one", Overrides()), ("", Overrides(rerank=True))]},
        {"arms": [*RERANK, ("third", Overrides(rerank=False))], "interleaved": True},
        {"lease_seconds": 0.0},
        {"lease_seconds": math.inf},
    ],
)
def test_an_experiment_that_makes_no_sense_is_none(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"name|arm|lease"):
        experiment(**given)


def test_an_arm_that_cannot_be_served_is_found_out() -> None:
    with pytest.raises(InvalidArgument):
        experiment(arms=HYBRID).check(Features(dense=False))


@given(st.text(min_size=1), flag_values.overrides, flag_values.overrides)
def test_a_decision_with_any_arms_leaves_a_search_on(unit: str, one: Overrides, other: Overrides) -> None:
    try:
        tried = experiment(arms=[("one", one), ("two", other)])
        tried.check(Features())
    except (ValueError, InvalidArgument):
        return
    decision = table(tried, ramps=[complete("dense-only", lexical=False)]).decide(unit)
    assert decision.features.dense or decision.features.lexical
