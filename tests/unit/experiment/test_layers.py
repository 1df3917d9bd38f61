"""Users and arms of experiments that share a layer, or not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.experiment.bucketing import BUCKETS
from services.experiment.layers import MOST_ARMS, Layered

UNITS = [f"user-{number}" for number in range(6000)]


def layered(first: int = 0, count: int = BUCKETS, **given: Any) -> Layered:
    settings: dict[str, Any] = {"layer_salt": "search", "salt": "ranking", "arms": 2} | given
    return Layered(first_bucket=first, bucket_count=count, **settings)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[int, int]]:
    """Draw two ranges of buckets that have none in common."""
    start, end, other_start, other_end = sorted(draw(st.lists(st.integers(0, BUCKETS), min_size=4, max_size=4)))
    return (start, max(1, end - start)), (max(other_start, start + 1), max(1, other_end - other_start))


@given(st.text(min_size=1), ranges())
def test_experiments_with_ranges_of_their_own_never_share_a_user(
    unit: str, given: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    (first, count), (other_first, other_count) = given
    if other_first + other_count > BUCKETS or first + count > other_first:
        return
    one, other = layered(first, count), layered(other_first, other_count, salt="colours")
    assert not one.shares_users(other)
    assert one.arm_of(unit) is None or other.arm_of(unit) is None


@given(st.text(min_size=1), st.integers(0, BUCKETS), st.integers(2, MOST_ARMS))
def test_every_user_is_in_one_of_two_experiments_that_divide_the_layer(unit: str, cut: int, arms: int) -> None:
    cut = min(max(cut, 1), BUCKETS - 1)
    here = layered(0, cut, arms=arms).arm_of(unit)
    there = layered(cut, BUCKETS - cut, salt="colours", arms=arms).arm_of(unit)
    assert (here is None) != (there is None)
    assert (here if there is None else there) in range(arms)


@given(st.text(min_size=1), st.integers(1, BUCKETS), st.integers(1, BUCKETS))
def test_a_user_keeps_the_arm_when_the_experiment_takes_more_buckets(unit: str, one: int, other: int) -> None:
    small, large = (layered(0, count).arm_of(unit) for count in sorted((one, other)))
    assert small is None or small == large


@pytest.mark.parametrize("arms", range(2, MOST_ARMS + 1))
def test_arms_share_the_users_evenly(arms: int) -> None:
    counts = Counter(layered(arms=arms).arm_of(unit) for unit in UNITS)
    expected = len(UNITS) / arms
    # Six standard deviations: the hash is the same at each run.
    assert set(counts) == set(range(arms))
    assert all(abs(count - expected) < 6 * expected**0.5 for count in counts.values())


def test_arms_do_not_depend_on_the_place_in_the_layer() -> None:
    halves = [
        [unit for unit in UNITS if layered(start, BUCKETS // 2).arm_of(unit) is not None] for start in (0, BUCKETS // 2)
    ]
    for half in halves:
        share = sum(layered().arm_of(unit) == 1 for unit in half) / len(half)
        assert abs(share - 0.5) < 0.05


def test_experiments_of_other_layers_are_independent() -> None:
    colours = layered(layer_salt="pages", salt="colours")
    pairs = Counter((layered().arm_of(unit), colours.arm_of(unit)) for unit in UNITS)
    assert all(abs(count - len(UNITS) / 4) < 6 * (len(UNITS) / 4) ** 0.5 for count in pairs.values())


@pytest.mark.parametrize(
    "given",
    [
        {"salt": ""},
        {"layer_salt": ""},
        {"salt": "search"},
        {"arms": 1},
        {"arms": 9},
        {"first": -1},
        {"count": 0},
        {"first": 1, "count": BUCKETS},
    ],
)
def test_an_experiment_without_users_or_without_chance_makes_no_sense(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"salt|buckets|arms"):
        layered(**given)


# Golden: whoever changes these moves users between arms.
def test_arms_stay_what_they_are() -> None:
    assert [layered(arms=8).arm_of(f"user-{number}") for number in range(8)] == [5, 6, 2, 5, 3, 0, 5, 0]
