"""Whole searches: what holds whatever was measured, and the stages one by one against all of them together."""

import math

import pytest

from sluice_plan import Search, Stack
from tests.unit.plan.samples import measurements

ALL = Search(frozenset({"expansion", "rerank"}))
SEARCHES = [Search(frozenset(cost.features)) for cost in measurements().searches]


@pytest.fixture(scope="module")
def stack():
    return Stack(measurements(), simulated=3000)


def replicas(stack, search, count=1):
    return dict.fromkeys(stack.measurements.cost(search.features).stages, count)


def capacity(stack, search, count=1):
    return stack.predict(search, 1e-6, replicas(stack, search, count)).capacity


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_a_search_that_meets_no_other_takes_as_long_as_was_measured(stack, search):
    assert stack.alone(search).mean_ms == pytest.approx(stack.measurements.cost(search.features).wall_ms, rel=0.03)


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_more_searches_take_longer_and_use_more_of_every_stage(stack, search):
    limit, ones = capacity(stack, search), replicas(stack, search)
    found = [stack.predict(search, load * limit, ones) for load in (0.1, 0.5, 0.9)]
    times = [one.mean_ms for one in found]
    assert times == sorted(times)
    for stage in ones:
        uses = [one.stages[stage].use for one in found]
        assert uses == sorted(uses)
        assert uses[-1] < 1


def test_twice_the_replicas_take_twice_the_searches(stack):
    one, two = (stack.predict(ALL, 1, replicas(stack, ALL, count)) for count in (1, 2))
    assert two.capacity == pytest.approx(2 * one.capacity)
    assert one.saturating == two.saturating == "reranker"


def test_the_stage_with_the_least_room_gives_way_first(stack):
    assert stack.predict(ALL, 1, {**replicas(stack, ALL), "reranker": 50}).saturating != "reranker"
    assert stack.predict_together(ALL, 1e-3, 2).saturating == "reranker"
    assert stack.predict_together(Search(frozenset()), 1e-3, 2).saturating == "retriever"


def test_a_pool_of_connections_serves_more_searches_than_one():
    one, three = (Stack(measurements(connections)).replica_capacity(ALL, "retriever") for connections in (1, 3))
    assert three == pytest.approx(3 * one)


def test_a_stack_that_cannot_keep_up_says_so(stack):
    limit = stack.predict_together(ALL, 1e-3, 2).capacity
    for beyond in (
        stack.predict_together(ALL, 1.2 * limit, 2),
        stack.predict(ALL, 1.2 * capacity(stack, ALL), replicas(stack, ALL)),
    ):
        assert not beyond.keeps_up
        assert math.isinf(beyond.percentiles[99])


def test_more_candidates_take_longer(stack):
    times = [stack.alone(Search(ALL.features, count)).mean_ms for count in (1, 4, 8, 16)]
    assert times == sorted(times)
    assert len(set(times)) == 4


@pytest.mark.parametrize("load", [0.4, 0.75])
def test_stages_simulated_one_by_one_add_up_to_all_simulated_together(load):
    stack = Stack(measurements(), simulated=10_000)
    qps = load * capacity(stack, ALL)
    predicted = stack.predict(ALL, qps, replicas(stack, ALL))
    # As many processors as anyone wants: nothing is shared, but the same searches go through all stages.
    together = stack.predict_together(ALL, qps, 1e6)
    assert predicted.mean_ms == pytest.approx(together.mean_ms, rel=0.08)
    for percent in (50, 90, 99):
        assert predicted.percentiles[percent] == pytest.approx(together.percentiles[percent], rel=0.15)


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_a_shared_machine_gives_way_no_later_than_its_processors_are_used_up(stack, search):
    cost = stack.measurements.cost(search.features)
    cpu_ms = cost.caller_cpu_ms + sum(stage.cpu_ms for stage in cost.stages.values())
    assert 0.7 < stack.predict_together(search, 1e-3, 2).capacity * cpu_ms / 2000 < 1.02


def test_a_shared_machine_is_slower_than_machines_of_their_own(stack):
    qps = 0.5 * stack.predict_together(ALL, 1e-3, 2).capacity
    assert stack.predict_together(ALL, qps, 2).mean_ms > stack.predict(ALL, qps, replicas(stack, ALL)).mean_ms


def test_every_simulation_is_told():
    told = []
    Stack(measurements(), simulated=200, on_simulation=lambda: told.append(1)).alone(ALL)
    assert told
