"""Queues against what is known of them, and against a simulation that shares no code with them."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sluice_plan.queues import BatchServer, erlang_c, servers_wait
from sluice_plan.simulation import Work, simulate
from sluice_plan.times import Grid, Times, geometric_sum

GRID = Grid(0.001, 4096)
loads = st.floats(0.05, 0.9)
spreads = st.floats(0.0, 1.2)
services = st.floats(0.01, 0.08)


@given(services, spreads)
@example(0.012, 0.041015625)
def test_a_gamma_distribution_has_the_mean_and_the_spread_it_was_asked_for(mean, cv):
    times = Times.gamma(GRID, mean, cv)
    assert times.shares.sum() == pytest.approx(1)
    assert times.mean == pytest.approx(mean, abs=GRID.step / 2)
    assert times.cv * times.mean == pytest.approx(cv * mean, abs=GRID.step / 2)  # all that a grid can show


@given(services, spreads, services, spreads)
def test_one_after_the_other_adds_up_and_side_by_side_is_the_later_one(mean, cv, other_mean, other_cv):
    one, other = Times.gamma(GRID, mean, cv), Times.gamma(GRID, other_mean, other_cv)
    assert one.then(other).mean == pytest.approx(one.mean + other.mean, rel=1e-6)
    later = one.beside(other)
    assert max(one.mean, other.mean) - 1e-9 <= later.mean <= one.mean + other.mean
    for percent in (50, 99):
        assert later.percentile(percent) >= max(one.percentile(percent), other.percentile(percent))


@given(services, spreads)
def test_what_is_left_of_a_duration_met_by_chance_is_as_renewal_theory_has_it(mean, cv):
    times = Times.gamma(GRID, mean, cv)
    assert times.residual().mean == pytest.approx(times.mean * (1 + times.cv**2) / 2, rel=0.03)


@given(services, loads)
def test_a_geometric_sum_has_the_mean_that_it_must_have(mean, more):
    times = Times.gamma(Grid(0.001, 16_384), mean, 0.5)
    assert geometric_sum(times, more).mean == pytest.approx(times.mean * more / (1 - more), rel=0.01)


@given(services, spreads, loads)
def test_the_wait_for_one_server_is_that_of_pollaczek_and_khinchine(service, cv, use):
    grid = Grid(0.001, 16_384)
    wait = servers_wait(grid, use / service, service, cv)
    expected = use * service * (1 + cv**2) / (2 * (1 - use))
    assert wait.mean == pytest.approx(expected, rel=0.05, abs=grid.step)
    assert wait.shares[0] >= 1 - use - 1e-6  # who finds it idle does not wait


@given(services, st.integers(1, 12), loads)
def test_the_wait_for_several_servers_with_exponential_times_is_erlangs(service, servers, use):
    rate = use * servers / service
    wait = servers_wait(Grid(0.0005, 16_384), rate, service, 1.0, servers)
    expected = erlang_c(servers, rate * service) * service / (servers * (1 - use))
    assert wait.mean == pytest.approx(expected, rel=0.06, abs=0.0005)


@given(services, spreads, st.tuples(loads, loads).map(sorted))
def test_who_comes_more_often_waits_longer(service, cv, uses):
    fewer, more = (servers_wait(GRID, use / service, service, cv) for use in uses)
    assert fewer.mean <= more.mean + 1e-9
    assert fewer.percentile(99) <= more.percentile(99)


def test_a_queue_that_cannot_keep_up_never_ends():
    assert math.isinf(servers_wait(GRID, 100, 0.02, 0.5).percentile(50))
    server = BatchServer(lambda calls: 0.01 + 0.005 * calls, 4, 0.1)
    assert math.isinf(server.answer(GRID, 140).sojourn.percentile(50))


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 24), st.floats(0.002, 0.02), st.floats(0.0, 0.004), st.floats(0.05, 0.9), st.floats(0.0, 0.4))
def test_a_model_that_batches_holds_what_comes_by_littles_law_and_is_busy_for_its_passes(limit, once, each, use, cv):
    server = BatchServer(lambda calls: once + each * calls, limit, cv)
    rate = use * server.capacity
    answer = server.answer(GRID, rate)
    assert 1 - 1e-9 <= answer.calls_a_pass <= limit + 1e-9
    assert answer.wait.mean <= answer.sojourn.mean - (once + each) + 2 * GRID.step
    # Passes a second times their mean time is the share of time that the model is busy, and that is below 1.
    assert rate / answer.calls_a_pass * (once + each * answer.calls_a_pass) < 1.0 + 1e-6


def simulate_batches(rate, passes, cv, *, calls, seed):
    """How long calls take of a model that computes whatever waits, and calls a pass."""
    chance = random.Random(seed)
    arrivals = list(itertools.accumulate(chance.expovariate(rate) for _ in range(calls)))
    now, first, count, seconds = 0.0, 0, 0, []
    while first < calls:
        now = max(now, arrivals[first])
        last = first
        while last < calls and last - first < len(passes) and arrivals[last] <= now:
            last += 1
        mean = passes[last - first - 1]
        now += chance.gammavariate(cv**-2, mean * cv**2) if cv else mean
        seconds += [now - arrived for arrived in arrivals[first:last]]
        first, count = last, count + 1
    return seconds, calls / count


@pytest.mark.parametrize(
    ("limit", "once", "each", "cv", "use"),
    [(1, 0.04, 0.0, 0.3, 0.6), (1, 0.04, 0.0, 0.3, 0.85), (8, 0.01, 0.002, 0.2, 0.5), (32, 0.01, 0.001, 0.0, 0.8)],
)
def test_a_model_that_batches_takes_as_long_as_in_a_simulation(limit, once, each, cv, use):
    server = BatchServer(lambda calls: once + each * calls, limit, cv)
    rate = use * server.capacity
    answer = server.answer(GRID, rate)
    passes = [once + each * calls for calls in range(1, limit + 1)]
    seconds, calls_a_pass = simulate_batches(rate, passes, cv, calls=60_000, seed=1)
    assert answer.sojourn.mean == pytest.approx(np.mean(seconds), rel=0.06)
    assert answer.sojourn.percentile(99) == pytest.approx(np.percentile(seconds, 99), rel=0.12)
    assert answer.calls_a_pass == pytest.approx(calls_a_pass, rel=0.05)


@pytest.mark.parametrize(("limit", "once", "each", "use"), [(3, 0.01, 0.03, 0.8), (16, 0.01, 0.002, 0.6)])
def test_a_station_that_takes_batches_is_simulated_as_by_code_of_another_make(limit, once, each, use):
    passes = [once + each * calls for calls in range(1, limit + 1)]
    rate = use * limit / passes[-1]
    work = Work("model", once + each, 0.0, 1.0, batch=limit, once_seconds=once)
    outcome = simulate([[[work]]], math.inf, rate=rate, searches=60_000, warm_up=100, seed=5)
    seconds, _ = simulate_batches(rate, passes, 0.0, calls=60_000, seed=2)
    assert np.mean(outcome.seconds) == pytest.approx(np.mean(seconds), rel=0.05)
    assert np.percentile(outcome.seconds, 99) == pytest.approx(np.percentile(seconds, 99), rel=0.1)
    assert outcome.in_system == pytest.approx(rate * np.mean(outcome.seconds), rel=0.05)


def test_the_simulation_itself_obeys_littles_law_and_pollaczek_and_khinchine():
    outcome = simulate([[[Work("only", 0.05, 0.5, 1.0)]]], math.inf, rate=12.0, searches=30_000, seed=3, warm_up=100)
    mean = np.mean(outcome.seconds)
    assert outcome.in_system == pytest.approx(12.0 * mean, rel=0.05)
    assert mean == pytest.approx(0.05 + 12 * 0.05**2 * 1.25 / (2 * 0.4), rel=0.06)
    assert outcome.busy["only"] == pytest.approx(0.6, rel=0.05)
