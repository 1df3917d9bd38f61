import math

import numpy as np
import pytest

from sluice_statistics.planning import ab_test, chance_of_a_verdict, interleaving, users_needed, variance_of_users
from sluice_statistics.sequences import SMALLEST_SAMPLE, Moments, difference, mean


def test_a_planned_ab_test_finds_its_effect_as_often_as_it_promises():
    rate, effect = 0.3, 0.06
    need = ab_test(effect, rate * (1 - rate), new_users_a_day=2000, share=0.5)
    assert need.days == need.users / 1000
    chance = np.random.default_rng(11)
    each = need.users // 2
    counts = np.arange(1, each + 1)

    def arm(p):
        means = (chance.random((500, each)) < p).cumsum(axis=1) / counts
        return Moments(counts, means, (means - means**2) * counts / np.maximum(counts - 1, 1))

    found = difference(arm(rate + effect), arm(rate), 0.05)
    assert (found.low > 0).any(axis=1).mean() == pytest.approx(0.8, abs=0.05)


def test_a_planned_interleaving_finds_its_preference_as_often_as_it_promises():
    preference, credited_share = 0.2, 0.4
    need = interleaving(preference, credited_share)
    chance = np.random.default_rng(11)
    credited = round(need.users * credited_share)
    counts = np.arange(1, credited + 1)
    signs = np.where(chance.random((500, credited)) < 0.5 + preference / 2, 1.0, -1.0)
    means = signs.cumsum(axis=1) / counts
    found = mean(Moments(counts, means, (1 - means**2) * counts / np.maximum(counts - 1, 1)), 0.05)
    assert (found.low > 0).any(axis=1).mean() == pytest.approx(0.8, abs=0.05)


def test_half_of_an_effect_needs_four_times_the_users():
    assert users_needed(0.05) / users_needed(0.1) == pytest.approx(4, rel=0.02)


def test_looking_all_the_time_costs_less_than_twice_the_users_of_looking_once():
    once = ((1.96 + 0.8416) / 0.1) ** 2
    assert once < users_needed(0.1) < 2 * once


def test_a_sequence_that_is_tuned_for_other_numbers_needs_more_users():
    tuned = users_needed(0.1)
    assert tuned < users_needed(0.1, expected_users=20 * tuned)
    assert tuned < users_needed(0.1, expected_users=tuned / 20)


def test_a_large_effect_still_needs_the_smallest_sample():
    assert ab_test(10.0, 1.0).users >= 2 * SMALLEST_SAMPLE


def test_no_effect_and_no_users_are_never_enough():
    with pytest.raises(ValueError, match="needs no users"):
        users_needed(0.0)
    with pytest.raises(ValueError, match="too small"):
        users_needed(1e-9)
    assert ab_test(0.1, 1.0, new_users_a_day=0).days == math.inf
    assert chance_of_a_verdict(1000, 0.0, 0.05, 1000) < 0.025


def test_more_answers_of_a_user_help_as_far_as_they_differ():
    assert variance_of_users(0.2, 1) == pytest.approx(0.2)
    assert variance_of_users(0.2, 10, likeness=1.0) == pytest.approx(0.2)
    assert variance_of_users(0.2, 10, likeness=0.0) == pytest.approx(0.02)
