"""Whole searches: what must hold whatever was measured, and a simulation of the same machine."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_plan import Layout, Network, Search
from sluice_plan.simulation import Work, simulate
from tests.unit.plan.samples import CV, measurements

ALL = Search(frozenset({"expansion", "rerank"}))
SEARCHES = st.sampled_from([Search(features) for features in measurements().searches])
SHARED = Layout(shared_cores=2.0)


@pytest.fixture(scope="module")
def network():
    return Network(measurements())


def test_a_search_that_is_alone_takes_as_long_as_was_measured(network):
    for features, cost in network.measurements.searches.items():
        assert network.alone(Search(features)).times.mean == pytest.approx(cost.wall_seconds, rel=0.05)


@settings(max_examples=20, deadline=None)
@given(SEARCHES, st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 0.95)).map(sorted))
def test_more_searches_take_longer_and_use_more_of_every_stage(search, loads):
    network = Network(measurements())
    limit, _ = network.capacity(search, Layout())
    fewer, more = (network.predict(search, load * limit, Layout()) for load in loads)
    assert fewer.times.mean <= more.times.mean + 1e-6
    assert fewer.times.percentile(99) <= more.times.percentile(99) + fewer.times.grid.step
    for stage, state in fewer.stages.items():
        assert state.use <= more.stages[stage].use + 1e-9 < 1.0


@settings(max_examples=12, deadline=None)
@given(SEARCHES, st.floats(0.1, 0.9), st.integers(1, 5))
def test_what_is_under_way_in_a_stage_is_its_rate_times_its_time(search, load, replicas):
    network = Network(measurements())
    layout = Layout(dict.fromkeys(network.measurements.cost(search.features).stages, replicas))
    limit, _ = network.capacity(search, layout)
    for state in network.predict(search, load * limit, layout).stages.values():
        assert state.in_flight == pytest.approx(load * limit / replicas * state.mean_seconds)


def test_twice_the_replicas_take_twice_the_searches(network):
    one, two = (network.capacity(ALL, Layout(dict.fromkeys(network.measurements.cost(ALL.features).stages, count)))
                for count in (1, 2))  # fmt: skip
    assert two[0] == pytest.approx(2 * one[0])
    assert one[1] == two[1] == "reranker"


def test_the_stage_with_the_least_room_gives_way_first(network):
    assert network.capacity(ALL, Layout())[1] == "reranker"
    assert network.capacity(ALL, Layout({"reranker": 50}))[1] != "reranker"
    assert network.predict(ALL, 1e-3, SHARED).saturating == "reranker"
    assert network.predict(Search(frozenset()), 1e-3, SHARED).saturating == "retriever"


def test_more_than_the_capacity_never_ends(network):
    limit = network.predict(ALL, 1e-3, SHARED).capacity
    beyond = network.predict(ALL, 1.2 * limit, SHARED)
    assert not beyond.keeps_up
    assert math.isinf(beyond.times.percentile(99))


def test_more_processors_make_a_pass_quicker_but_never_by_more_than_their_number(network):
    two, eight = (network.predict(ALL, 1e-6, Layout(cores={"reranker": cores})) for cores in (2, 8))
    gain = two.stages["reranker"].alone_seconds / eight.stages["reranker"].alone_seconds
    assert 1.5 < gain < 4.0


def test_more_candidates_take_longer(network):
    times = [network.alone(Search(ALL.features, count)).times.mean for count in (1, 4, 8, 16)]
    assert times == sorted(times)
    assert len(set(times)) == 4


def played(network, load, cores, rate):
    """The same search, simulated: nothing but what holds a stage."""
    stages = network.measurements.cost(ALL.features).stages
    half = stages["embedder"].busy_seconds / 2

    def work(stage, seconds=None):
        cost = stages[stage]
        return [Work(stage, seconds or cost.busy_seconds, CV, cost.cpu_seconds / cost.busy_seconds)]

    steps = [[work("gateway")], [work("expander"), work("embedder", half)], [work("embedder", half)],
             [work("retriever")], [work("reranker")]]  # fmt: skip
    return simulate(
        steps, cores, rate=rate, searches=15_000 if load < 0.7 else 60_000, warm_up=300, seed=round(100 * load)
    )


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_percentiles_of_the_queues_are_those_of_a_simulation(network, load):
    limit, saturating = network.capacity(ALL, Layout())
    predicted = network.predict(ALL, load * limit, Layout())
    outcome = played(network, load, math.inf, load * limit)
    assert predicted.times.mean == pytest.approx(np.mean(outcome.seconds), rel=0.08)
    for percent in (50, 90, 99):
        assert predicted.times.percentile(percent) == pytest.approx(np.percentile(outcome.seconds, percent), rel=0.15)
    assert max(outcome.busy, key=outcome.busy.__getitem__) == saturating


def test_a_shared_machine_gives_way_no_later_than_its_processors_are_used_up(network):
    for search in (Search(features) for features in network.measurements.searches):
        cost = network.measurements.cost(search.features)
        cpu = cost.caller_cpu_seconds + sum(stage.cpu_seconds for stage in cost.stages.values())
        assert 0.7 < network.predict(search, 1e-3, SHARED).capacity * cpu / 2 < 1.02


def test_a_shared_machine_is_slower_than_machines_of_their_own(network):
    qps = 0.5 * network.predict(ALL, 1e-3, SHARED).capacity
    assert network.predict(ALL, qps, SHARED).times.mean > network.predict(ALL, qps, Layout()).times.mean
