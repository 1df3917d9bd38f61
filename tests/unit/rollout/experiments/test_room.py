"""Room in a layer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import ResourceExhausted
from services.experiment.bucketing import BUCKETS
from services.rollout.experiments.room import Range, first_fit, free_ranges

SHARES = st.lists(st.one_of(st.integers(1, BUCKETS), st.integers(1, BUCKETS // 10)), max_size=30)


def placed(shares: list[int], ending: list[int]) -> list[Range]:
    """The ranges of experiments that came one after the other, some of which ended in between."""
    taken: list[Range] = []
    for place, share in enumerate(shares):
        try:
            taken.append((first_fit("default", taken, share), share))
        except ResourceExhausted:
            continue
        if taken and place in ending:
            taken.pop(place % len(taken))
    return taken


@given(SHARES, st.lists(st.integers(0, 30), max_size=10))
def test_experiments_of_a_layer_never_share_a_bucket(shares: list[int], ending: list[int]) -> None:
    end = 0
    for first, count in sorted(placed(shares, ending)):
        assert end <= first
        end = first + count
    assert end <= BUCKETS


@given(SHARES, st.lists(st.integers(0, 30), max_size=10), st.integers(1, BUCKETS))
def test_an_experiment_is_refused_only_where_no_free_range_is_large_enough(
    shares: list[int], ending: list[int], share: int
) -> None:
    taken = placed(shares, ending)
    free = free_ranges(taken)
    assert sum(size for _, size in free) + sum(count for _, count in taken) == BUCKETS
    fitting = [first for first, size in free if size >= share]
    if fitting:
        assert first_fit("default", taken, share) == min(fitting)
    else:
        with pytest.raises(ResourceExhausted):
            first_fit("default", taken, share)


def test_a_full_layer_says_what_is_free() -> None:
    with pytest.raises(ResourceExhausted, match=r"50 % of the users free, the largest free range 30 %") as caught:
        first_fit("default", [(200_000, 500_000)], 400_000)
    assert caught.value.reason == "LAYER_FULL"
    assert caught.value.metadata == {"layer": "default", "free_ppm": "500000", "largest_free_ppm": "300000"}
