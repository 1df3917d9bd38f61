import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_statistics.percentiles import histogram_percentile, percentile

EDGES = np.array([0.0, *(0.001 * 1.1**power for power in range(110)), math.inf])
LOWER, UPPER = EDGES[:-1], EDGES[1:]
values = st.lists(st.floats(0.0005, 30), min_size=1, max_size=200)
percents = st.floats(0, 100)


def counted(sample):
    return np.bincount(np.searchsorted(UPPER, sample), minlength=len(UPPER))


def test_the_median_of_four_lies_between_the_middle_two():
    assert percentile([1, 2, 3, 4], 50) == 2.5
    assert percentile([7.0], 99) == 7.0
    assert math.isnan(percentile([], 50))


@given(values, percents, percents)
def test_a_percentile_grows_with_its_percent_and_lies_within_the_sample(sample, one, other):
    low, high = (percentile(sample, percent) for percent in sorted((one, other)))
    assert min(sample) <= low <= high <= max(sample)
    assert percentile(sorted(sample), one) == percentile(sample, one)


@given(values, percents, percents)
def test_a_histograms_percentile_grows_with_its_percent_and_lies_within_its_buckets(sample, one, other):
    counts = counted(sample)
    low, high = (histogram_percentile(counts, LOWER, UPPER, percent)[0] for percent in sorted((one, other)))
    assert low <= high
    filled = np.flatnonzero(counts)
    assert LOWER[filled[0]] <= low
    assert high <= UPPER[filled[-1]]


@given(values, percents)
def test_the_histograms_percentile_is_in_the_bucket_of_the_value_that_has_the_rank(sample, percent):
    found = histogram_percentile(counted(sample), LOWER, UPPER, percent)[0]
    ranked = float(np.percentile(sample, percent, method="inverted_cdf"))
    place = np.searchsorted(UPPER, ranked)
    assert LOWER[place] <= found <= UPPER[place] * (1 + 1e-9)


@given(values, percents)
def test_every_row_of_counts_is_judged_by_itself(sample, percent):
    rows = np.vstack([counted(sample), counted(sample[:1])])
    both = histogram_percentile(rows, LOWER, UPPER, percent)
    assert [histogram_percentile(row, LOWER, UPPER, percent)[0] for row in rows] == list(both)


def test_a_bucket_without_an_end_is_its_lower_edge_and_an_empty_histogram_is_nan():
    counts = np.zeros(len(UPPER))
    assert math.isnan(histogram_percentile(counts, LOWER, UPPER, 50)[0])
    counts[-1] = 5
    assert histogram_percentile(counts, LOWER, UPPER, 50)[0] == LOWER[-1]


def test_a_histograms_percentile_is_linear_within_its_bucket_as_in_prometheus():
    assert histogram_percentile([0, 4, 0], [0, 1, 2], [1, 2, 3], 25)[0] == pytest.approx(1.25)
