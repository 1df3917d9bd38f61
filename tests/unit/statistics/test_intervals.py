import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_statistics.intervals import Histogram, bootstrap, difference, rate

EDGES = np.array([0.0, *(0.001 * 1.1**power for power in range(110)), math.inf])


def histogram(median, count, seed, resamples=1):
    sample = np.random.default_rng(seed).lognormal(np.log(median), 0.45, count)
    counts = np.bincount(np.searchsorted(EDGES[1:], sample), minlength=len(EDGES) - 1)
    return Histogram(counts, EDGES[:-1], EDGES[1:], resamples)


def test_wilsons_interval_is_that_of_the_books():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    for events, trials, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        found = rate(events, trials)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert rate(0, 0) is None


def test_newcombes_difference_is_that_of_his_paper():
    # Newcombe 1998, "Interval estimation for the difference between independent proportions", table II, method 10.
    for (ours, of_ours), (theirs, of_theirs), low, high in (
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 20), 0.6791, 1.0),
    ):
        found = difference(rate(ours, of_ours), rate(theirs, of_theirs))
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_a_bootstrap_interval_lies_within_the_sample_and_around_its_median(sample):
    found = bootstrap(sample)
    assert found.value == np.median(sample)
    assert min(sample) - 1e-6 <= found.low <= found.value <= found.high <= max(sample) + 1e-6
    assert bootstrap(sample) == found


def test_a_bootstrap_interval_of_the_mean_covers_it_as_often_as_it_claims():
    samples = (np.random.default_rng(seed).normal(3.0, 1.0, 60) for seed in range(60))
    intervals = [bootstrap(sample, np.mean) for sample in samples]
    assert sum(one.low <= 3.0 <= one.high for one in intervals) >= 52  # of 57 to be expected


def test_the_interval_of_a_histograms_percentile_covers_it_as_often_as_it_claims():
    found = [histogram(0.1, 1500, seed).percentile(95) for seed in range(60)]
    assert sum(one.low <= 0.1 * np.exp(0.45 * 1.6449) <= one.high for one in found) >= 53  # of 57 to be expected


def test_an_increase_is_seen_where_there_is_one_and_not_where_there_is_none():
    usual, slow, same = (histogram(median, 3000, seed, seed) for seed, median in ((1, 0.1), (2, 0.15), (3, 0.1)))
    assert slow.increase(usual, 95).low > 0.3
    assert same.increase(usual, 95).low < 0 < same.increase(usual, 95).high


def test_a_percentile_with_hardly_a_request_beyond_it_has_no_interval():
    few, enough = histogram(0.1, 90, 1), histogram(0.1, 120, 1)
    assert (few.tells(50), few.tells(95), enough.tells(95), enough.tells(99)) == (True, False, True, False)
