"""The simulation against formulas of queueing theory, and against code that shares nothing with it."""

import itertools
import math
import random

import numpy as np
import pytest

from sluice_plan.simulation import Chain, Work, simulate

MEAN = 0.05


def one_station(work, rate, searches=30_000, **load):
    return simulate([[Chain("only", [work])]], rate=rate, searches=searches, seed=3, **load)


@pytest.mark.parametrize("use", [0.3, 0.6, 0.8])
def test_random_times_at_one_server_are_those_of_m_m_1(use):
    outcome = one_station(Work(MEAN, cv=1.0), use / MEAN)
    # The time in an M/M/1 queue is exponential with mean S / (1 - use).
    mean = MEAN / (1 - use)
    assert np.mean(outcome.times) == pytest.approx(mean, rel=0.06)
    for percent in (50, 90, 99):
        assert np.percentile(outcome.times, percent) == pytest.approx(-mean * math.log(1 - percent / 100), rel=0.1)
    assert outcome.busy["only"] == pytest.approx(use, rel=0.03)


@pytest.mark.parametrize("use", [0.3, 0.6, 0.8])
def test_equal_times_at_one_server_are_those_of_m_d_1(use):
    outcome = one_station(Work(MEAN), use / MEAN)
    assert np.mean(outcome.times) == pytest.approx(MEAN * (1 + use / (2 * (1 - use))), rel=0.04)


@pytest.mark.parametrize("cv", [0.3, 0.7, 1.2])
def test_waiting_grows_with_the_spread_as_pollaczek_and_khinchine_say(cv):
    outcome = one_station(Work(MEAN, cv=cv), 0.6 / MEAN)
    assert np.mean(outcome.times) == pytest.approx(MEAN * (1 + 0.6 * (1 + cv**2) / (2 * 0.4)), rel=0.06)


def erlang_c(servers, load):
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


@pytest.mark.parametrize(("servers", "use"), [(2, 0.6), (4, 0.8), (10, 0.8)])
def test_random_times_at_several_servers_are_those_of_m_m_c(servers, use):
    rate = use * servers / MEAN
    outcome = one_station(Work(MEAN, cv=1.0, servers=servers), rate)
    wait = erlang_c(servers, rate * MEAN) * MEAN / (servers * (1 - use))
    assert np.mean(outcome.times) == pytest.approx(MEAN + wait, rel=0.04)
    assert outcome.busy["only"] == pytest.approx(use, rel=0.03)


def test_a_shared_processor_is_that_of_processor_sharing():
    # The mean time in M/G/1 processor sharing is S / (1 - use), whatever the spread (Kleinrock 1976, 4.4).
    for cv in (0.0, 1.0):
        outcome = one_station(Work(MEAN, cv=cv, servers=0), 0.6 / MEAN, cores=1)
        assert np.mean(outcome.times) == pytest.approx(MEAN / 0.4, rel=0.06)


def batches(rate, passes, *, calls, seed):
    """Times of calls of a model that computes whatever waits in one pass."""
    chance = random.Random(seed)
    arrivals = list(itertools.accumulate(chance.expovariate(rate) for _ in range(calls)))
    now, first, times = 0.0, 0, []
    while first < calls:
        now, last = max(now, arrivals[first]), first
        while last < calls and last - first < len(passes) and arrivals[last] <= now:
            last += 1
        now += passes[last - first - 1]
        times += [now - arrived for arrived in arrivals[first:last]]
        first = last
    return times


@pytest.mark.parametrize(("limit", "once", "each", "use"), [(3, 0.01, 0.03, 0.8), (16, 0.01, 0.002, 0.6)])
def test_a_pass_takes_whatever_waits(limit, once, each, use):
    passes = [once + each * calls for calls in range(1, limit + 1)]
    rate = use * limit / passes[-1]
    outcome = one_station(Work(once + each, batch=limit, once=once), rate)
    times = batches(rate, passes, calls=30_000, seed=2)
    assert np.mean(outcome.times) == pytest.approx(np.mean(times), rel=0.05)
    assert np.percentile(outcome.times, 99) == pytest.approx(np.percentile(times, 99), rel=0.1)


def test_chains_of_a_step_run_at_the_same_time_and_steps_one_after_the_other():
    steps = [[Chain("a", [Work(3.0), Work(1.0, servers=0)]), Chain("b", [Work(6.0)])], [Chain("a", [Work(2.0)])]]
    outcome = simulate(steps, callers=1, searches=5)
    assert outcome.times == pytest.approx([8.0] * 5)
    assert outcome.step_times == [pytest.approx([6.0] * 5), pytest.approx([2.0] * 5)]
    assert outcome.station_times == {"a": pytest.approx([6.0] * 5), "b": pytest.approx([6.0] * 5)}


def test_the_same_seed_gives_the_same_answer_and_another_another():
    one, same, other = (
        simulate([[Chain("only", [Work(MEAN, cv=0.5)])]], rate=10, searches=100, seed=seed) for seed in (1, 1, 2)
    )
    assert one == same
    assert one.times != other.times
