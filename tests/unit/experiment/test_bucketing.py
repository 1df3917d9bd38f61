from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.experiment.bucketing import BUCKETS, Arm, arm_of, bucket, bucket_of, unit_hash

UNITS = 1_000_000


@pytest.fixture(scope="module")
def buckets() -> np.ndarray:
    """The buckets of a million users."""
    return np.fromiter((bucket("rerank-v1", f"user-{number}") for number in range(UNITS)), np.int32, UNITS)


@pytest.mark.parametrize(
    ("salt", "unit", "expected"),
    [
        ("rerank-v1", "user-42", 709_096),
        ("expand-v1", "user-42", 480_952),
        ("", "", 999_610),
        ("rerank-v1", "", 829_222),
        ("rerank-v1", "Ünïcødé-名前", 51_185),
        ("rerank-v1", "x" * 10_000, 520_295),
    ],
)
def test_the_bucket_of_a_user_never_changes(salt: str, unit: str, expected: int) -> None:
    assert bucket(salt, unit) == expected


def test_salt_and_unit_do_not_run_into_each_other() -> None:
    assert unit_hash("a", "bc") != unit_hash("ab", "c")


@given(salt=st.text(), unit=st.text())
def test_every_text_has_a_bucket(salt: str, unit: str) -> None:
    assert 0 <= bucket(salt, unit) < BUCKETS


@pytest.mark.parametrize("hashed", [0, 2**63, 2**64 - 1])
def test_the_ends_of_the_hash_are_in_the_first_and_the_last_bucket(hashed: int) -> None:
    assert bucket_of(hashed) == {0: 0, 2**63: 500_000, 2**64 - 1: BUCKETS - 1}[hashed]


def test_a_lone_surrogate_has_a_bucket_too() -> None:
    assert 0 <= bucket("rerank-v1", "\ud800") < BUCKETS


@given(
    place=st.integers(0, BUCKETS - 1),
    shares=st.tuples(st.integers(0, BUCKETS), st.integers(0, BUCKETS)).map(sorted),
)
def test_treatment_that_grows_keeps_every_treated_user(place: int, shares: list[int]) -> None:
    small, large = shares
    if arm_of(place, small, min(small, BUCKETS - small)) is Arm.TREATMENT:
        assert arm_of(place, large, min(large, BUCKETS - large)) is Arm.TREATMENT


def test_ten_in_fifty_in_a_hundred_percent_over_a_million_users(buckets: np.ndarray) -> None:
    ten, fifty, all_of_them = (buckets < share for share in (100_000, 500_000, 1_000_000))
    assert np.all(fifty[ten]) and np.all(all_of_them[fifty])
    assert abs(ten.mean() - 0.1) < 0.002 and abs(fifty.mean() - 0.5) < 0.003 and all_of_them.all()


def test_control_is_as_large_as_treatment_and_stays_control_up_to_half(buckets: np.ndarray) -> None:
    ten, fifty = (buckets >= BUCKETS - share for share in (100_000, 500_000))
    assert np.all(fifty[ten])
    assert not np.any(fifty & (buckets < 500_000))
    assert abs(ten.mean() - 0.1) < 0.002


def test_halving_takes_it_from_those_who_got_it_last_over_a_million_users(buckets: np.ndarray) -> None:
    before, after = buckets < 500_000, buckets < 250_000
    lost = before & ~after
    assert np.all(before[after])
    assert np.array_equal(lost, (buckets >= 250_000) & (buckets < 500_000))


def test_another_salt_gives_all_users_new_buckets(buckets: np.ndarray) -> None:
    sample = 50_000
    other = np.fromiter((bucket("expand-v1", f"user-{number}") for number in range(sample)), np.int32, sample)
    both = np.mean((buckets[:sample] < 100_000) & (other < 100_000))
    assert abs(both - 0.01) < 0.002


def test_buckets_are_even(buckets: np.ndarray) -> None:
    counts = np.bincount(buckets // 10_000, minlength=100)
    expected = UNITS / 100
    chi_square = float(np.sum((counts - expected) ** 2 / expected))
    assert chi_square < 160  # 99 degrees of freedom: less than one in ten thousand is above
