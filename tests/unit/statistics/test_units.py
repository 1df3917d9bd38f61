import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_statistics.sequences import SMALLEST_SAMPLE
from sluice_statistics.units import UnitValues

UNITS = st.integers(0, 2**64 - 1)
ANSWERS = st.lists(
    st.tuples(st.sampled_from([1, 2, 3, 4, 2**64 - 1]), st.integers(0, 1), st.none() | st.floats(-1, 1)), max_size=60
)
HISTORY = {1: 0.5, 2: 0.1, 3: 0.9}


def built(answers, history=None):
    units = np.array([unit for unit, _, _ in answers], dtype=np.uint64)
    arms = [arm for _, arm, _ in answers]
    values = [math.nan if value is None else value for _, _, value in answers]
    return UnitValues.of(units, arms, values, count=2, history=history)


def same(found, other):
    for arm in (0, 1):
        ours, theirs = found.moments(arm), other.moments(arm)
        assert ours.count == theirs.count
        assert (ours.mean, ours.variance) == pytest.approx((theirs.mean, theirs.variance), abs=1e-9)
        assert found.means(arm) == pytest.approx(other.means(arm))
        assert found.answers(arm) == other.answers(arm)
        ours, theirs = found.history(arm), other.history(arm)
        assert (ours is None) == (theirs is None)
        if ours:
            assert (ours.mean, ours.variance, ours.covariance) == pytest.approx(
                (theirs.mean, theirs.variance, theirs.covariance), abs=1e-9
            )


@settings(deadline=None)
@given(ANSWERS, st.sampled_from([None, HISTORY]), st.randoms(use_true_random=False))
def test_values_are_the_same_one_by_one_or_all_at_once_in_any_order(answers, history, random):
    found = UnitValues(2, history)
    for unit, arm, value in answers:
        found.add(unit, arm, value)
    same(found, built(answers, history))
    random.shuffle(answers)
    same(found, built(answers, history))


@settings(deadline=None)
@given(ANSWERS, st.data())
def test_an_answer_whose_value_changed_counts_as_it_is_now(answers, data):
    found = UnitValues(2, HISTORY)
    after = []
    for unit, arm, value in answers:
        found.add(unit, arm, value)
        new = data.draw(st.floats(-1, 1))
        found.change(unit, arm, value, new)
        after.append((unit, arm, new))
    same(found, built(after, HISTORY))


def test_each_user_counts_once_however_active_it_is():
    found = UnitValues(1)
    for _ in range(99):
        found.add(1, 0, 1.0)
    found.add(2, 0, 0.0)
    assert found.moments().mean == 0.5
    assert (found.moments().count, found.answers()) == (2, 100)


def test_a_user_without_a_value_does_not_count():
    found = UnitValues(1)
    found.add(1, 0, None)
    assert found.moments().count == 0


def test_history_narrows_the_interval_and_users_without_one_are_not_left_out():
    chance = np.random.default_rng(7)
    users = np.arange(4000)
    usual = chance.beta(2, 3, len(users))
    history = dict(zip(users[:2500].tolist(), usual[:2500].tolist(), strict=True))
    values = usual + chance.normal(0, 0.1, len(users))
    found = UnitValues.of(users, users % 2, values, count=2, history=history)
    plain = UnitValues.of(users, users % 2, values, count=2)
    ours, theirs = found.difference(1, 0.05, 4000), plain.difference(1, 0.05, 4000)
    assert found.moments(0).count + found.moments(1).count == 4000
    assert 0.3 < ours.variance_reduction < 0.6
    assert ours.high - ours.low < 0.85 * (theirs.high - theirs.low)
    assert plain.history(0) is None
    assert theirs.variance_reduction == 0.0


def test_a_handful_of_users_decides_nothing():
    found = UnitValues(2)
    for unit in range(2 * SMALLEST_SAMPLE - 2):
        found.add(unit, unit % 2, float(unit % 2) + 0.001 * unit)
    assert found.difference(1, 0.05, 1000).low == -math.inf
