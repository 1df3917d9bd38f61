import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_statistics.sequences import SMALLEST_SAMPLE, History, Moments, deviations, difference, mean

VALUES = st.lists(st.floats(-100, 100), min_size=1, max_size=60)
COUNTS = st.integers(SMALLEST_SAMPLE, 10**6)
MEANS = st.floats(-10, 10)
VARIANCES = st.floats(1e-4, 100)
MOMENTS = st.builds(Moments, COUNTS, MEANS, VARIANCES)


@settings(deadline=None)
@given(VALUES, st.data())
def test_moments_are_those_of_numpy_however_the_values_came_to_be(values, data):
    moments, now = Moments(), []
    for value in values:
        moments.add(value)
        now.append(value)
        if data.draw(st.booleans()):
            place = data.draw(st.integers(0, len(now) - 1))
            new = data.draw(st.floats(-100, 100))
            moments.replace(now[place], new)
            now[place] = new
    whole = Moments.of(now)
    assert moments.count == whole.count == len(now)
    assert moments.mean == pytest.approx(np.mean(now), abs=1e-9)
    assert moments.variance == pytest.approx(np.var(now, ddof=1) if len(now) > 1 else 0.0, abs=1e-7)
    assert whole.variance == pytest.approx(moments.variance, abs=1e-7)


def test_nothing_has_no_mean_and_an_infinite_interval():
    assert Moments.of([]) == Moments()
    found = difference(Moments(), Moments(), 0.05, 1000)
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert mean(Moments(SMALLEST_SAMPLE - 1, 0.5, 0.01), 0.05, 1000).high == math.inf


def test_where_all_values_are_equal_nothing_is_known_yet():
    assert mean(Moments(1000, 0.0, 0.0), 0.05, 1000).high == math.inf


@given(MOMENTS, MOMENTS)
def test_swapped_arms_have_the_opposite_interval(treatment, control):
    found, swapped = difference(treatment, control, 0.05, 5000), difference(control, treatment, 0.05, 5000)
    assert (swapped.value, swapped.low, swapped.high) == pytest.approx((-found.value, -found.high, -found.low))


@given(MOMENTS, MOMENTS, st.floats(0.01, 100), MEANS)
def test_intervals_of_scaled_values_scale_and_a_shift_of_both_arms_changes_nothing(treatment, control, scale, shift):
    def scaled(moments):
        return Moments(moments.count, scale * moments.mean + shift, scale**2 * moments.variance)

    found = difference(treatment, control, 0.05, 5000)
    after = difference(scaled(treatment), scaled(control), 0.05, 5000)
    assert (after.value, after.low, after.high) == pytest.approx(
        (scale * found.value, scale * found.low, scale * found.high), rel=1e-6, abs=1e-9
    )


@given(MOMENTS, MOMENTS)
def test_the_interval_shrinks_with_users_and_grows_with_confidence(treatment, control):
    def width(times, alpha):
        ours, theirs = (Moments(one.count * times, one.mean, one.variance) for one in (treatment, control))
        found = difference(ours, theirs, alpha, 5000)
        return found.high - found.low

    assert width(2, 0.05) < width(1, 0.05) < width(1, 0.01)


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_bounds_are_about_the_tightest_at_the_number_of_users_that_is_expected(alpha):
    tuned = deviations(2000, alpha, 2000)
    others = [deviations(2000, alpha, expected) for expected in np.geomspace(20, 200_000, 50)]
    assert tuned <= min(others) * 1.001


@given(MOMENTS, MOMENTS)
def test_a_history_that_says_nothing_leaves_the_plain_difference(treatment, control):
    plain = difference(treatment, control, 0.05, 5000)
    for history in ((History(), History()), (History(0.3, 0.1, 0.0), History(0.2, 0.1, 0.0))):
        found = difference(treatment, control, 0.05, 5000, history)
        assert (found.value, found.low, found.high) == pytest.approx((plain.value, plain.low, plain.high))
        assert found.variance_reduction == 0.0


def test_history_takes_away_the_variance_that_it_explains_and_the_tilt_of_who_came():
    chance = np.random.default_rng(7)
    before = chance.normal(0.5, 0.2, 4000)
    values = before + chance.normal(0.0, 0.1, 4000)
    treated = np.arange(4000) % 2 == 0
    values[treated] += 0.02

    def history(arm):
        return History(before[arm].mean(), before[arm].var(ddof=1), np.cov(values[arm], before[arm])[0, 1])

    ours, theirs = Moments.of(values[treated]), Moments.of(values[~treated])
    found = difference(ours, theirs, 0.05, 4000, (history(treated), history(~treated)))
    plain = difference(ours, theirs, 0.05, 4000)
    assert found.variance_reduction == pytest.approx(0.8, abs=0.02)
    assert abs(found.value - 0.02) < abs(plain.value - 0.02)
    assert found.high - found.low < 0.5 * (plain.high - plain.low)


def test_arrays_are_weighed_as_each_of_their_numbers():
    counts, means, variances = np.array([10, 100, 1000]), np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.2, 0.1])
    whole = difference(Moments(counts, means, variances), Moments(counts, means / 2, variances), 0.05, 500)
    each = [
        difference(Moments(count, value, variance), Moments(count, value / 2, variance), 0.05, 500)
        for count, value, variance in zip(counts.tolist(), means.tolist(), variances.tolist(), strict=True)
    ]
    assert whole.low.tolist() == pytest.approx([one.low for one in each])
    assert whole.high.tolist() == pytest.approx([one.high for one in each])


def test_an_interval_looked_at_after_every_user_hardly_ever_leaves_out_the_mean():
    users, experiments = 2000, 400
    signs = np.where(np.random.default_rng(7).random((experiments, users)) < 0.5, 1.0, -1.0)
    counts = np.arange(1, users + 1)
    means = signs.cumsum(axis=1) / counts
    variances = (1.0 - means**2) * counts / np.maximum(counts - 1, 1)
    found = mean(Moments(counts, means, variances), 0.05, 1000)
    assert ((found.low > 0) | (found.high < 0)).any(axis=1).mean() <= 0.05
    fixed = 1.96 * np.sqrt(variances / counts)
    assert (np.abs(means) > fixed)[:, SMALLEST_SAMPLE:].any(axis=1).mean() > 0.3
