"""Whole searches: what must hold whatever was measured, and a simulation of the same machine."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.plan.simulation import Work, simulate
from sluice_plan import Layout, Network, Search
from sluice_plan.contention import Worker, busy_shares, capacity, slowdowns
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


@settings(max_examples=6, deadline=None)
@given(SEARCHES, st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 0.95)).map(sorted))
def test_more_searches_take_longer_and_use_more_of_every_stage(search, loads):
    network = Network(measurements())
    limit = network.predict(search, 1e-6, SHARED).capacity
    fewer, more = (network.predict(search, load * limit, SHARED) for load in loads)
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
    assert network.predict(ALL, 1e-6, SHARED).saturating == "reranker"
    assert network.predict(Search(frozenset()), 1e-6, SHARED).saturating == "retriever"


def test_more_than_the_capacity_never_ends(network):
    limit = network.predict(ALL, 1e-6, SHARED).capacity
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


workers = st.dictionaries(
    st.sampled_from("abcd"),
    st.builds(lambda busy, threads: Worker(busy, busy * threads), st.floats(0.001, 0.1), st.floats(0.2, 2.0)),
    min_size=1,
)


@settings(max_examples=40, deadline=None)
@given(workers, st.floats(1.0, 4.0))
def test_a_machine_gives_way_no_later_than_its_processors_are_used_up(of, cores):
    limit, first = capacity(of, cores)
    assert first in of
    assert limit * sum(worker.cpu_seconds for worker in of.values()) <= cores * (1 + 1e-6)
    assert all(share <= 1 + 1e-3 for share in busy_shares(of, limit, cores).values())


@given(workers)
def test_nobody_slows_anybody_down_where_there_is_room_for_all(of):
    roomy = sum(worker.threads for worker in of.values()) + 1
    assert all(slow == pytest.approx(1.0) for slow in slowdowns(of, 5.0, roomy).values())


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_percentiles_on_a_shared_machine_are_those_of_a_simulation(network, load):
    qps = load * network.predict(ALL, 1e-6, SHARED).capacity
    predicted = network.predict(ALL, qps, SHARED)
    stages = network.measurements.cost(ALL.features).stages
    half = stages["embedder"].busy_seconds / 2

    def work(stage, seconds=None):
        cost = stages[stage]
        return Work(stage, seconds or cost.busy_seconds, CV, cost.cpu_seconds / cost.busy_seconds)

    steps = [[work("gateway")], [work("expander"), work("embedder", half)], [work("embedder", half)],
             [work("retriever")], [work("reranker")]]  # fmt: skip
    outcome = simulate(steps, qps, 2.0, searches=12_000, seed=5, warm_up=200)
    assert predicted.times.mean == pytest.approx(np.mean(outcome.seconds), rel=0.15)
    assert predicted.times.percentile(99) == pytest.approx(np.percentile(outcome.seconds, 99), rel=0.2)
    assert outcome.in_system == pytest.approx(qps * np.mean(outcome.seconds), rel=0.1)
    assert max(outcome.busy, key=outcome.busy.__getitem__) == predicted.saturating
