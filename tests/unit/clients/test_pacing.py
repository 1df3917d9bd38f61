from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_cli.evaluation.pacing import WINDOW, Pace


def answered(pace: Pace, seconds: float, *, times: int = WINDOW) -> None:
    for _ in range(times):
        pace.answered("base", seconds)


def test_requests_begin_at_the_rate() -> None:
    pace = Pace(4.0)
    assert [pace.begin(100.0) for _ in range(3)] == [100.0, 100.25, 100.5]
    assert pace.begin(200.0) == 200.0


def test_answers_that_take_twice_as_long_halve_the_rate_and_good_ones_let_it_grow_back() -> None:
    pace = Pace(4.0)
    answered(pace, 0.1)
    answered(pace, 0.15)
    assert pace.rate == 4.0
    answered(pace, 0.25)
    assert (pace.rate, pace.backed_off, pace.lowest) == (2.0, 1, 2.0)
    answered(pace, 0.1)
    assert pace.rate == 3.0
    answered(pace, 0.1)
    assert (pace.rate, pace.lowest) == (4.0, 2.0)


def test_a_slower_configuration_is_not_taken_for_a_loaded_gateway() -> None:
    pace = Pace(4.0)
    for _ in range(3 * WINDOW):
        pace.answered("base", 0.05)
        pace.answered("reranked", 0.5)
    assert (pace.rate, pace.backed_off) == (4.0, 0)


def test_a_gateway_without_room_is_left_alone_for_as_long_as_it_asks() -> None:
    pace = Pace(4.0)
    pace.refused(100.0, 5.0)
    assert pace.rate == 2.0
    assert pace.begin(100.0) == 105.0
    pace.refused(106.0, None)
    assert pace.begin(106.0) == 107.0


def test_it_ends_where_backing_off_again_and_again_is_not_enough() -> None:
    pace = Pace(8.0)
    for _ in range(6):
        pace.refused(0.0, None)
    assert not pace.exhausted
    pace.refused(0.0, None)
    assert pace.exhausted


def test_a_good_window_starts_the_count_again() -> None:
    pace = Pace(8.0)
    for _ in range(6):
        pace.refused(0.0, None)
    answered(pace, 0.1)
    pace.refused(0.0, None)
    assert not pace.exhausted


@given(st.lists(st.one_of(st.floats(0.001, 10), st.none()), max_size=200))
def test_the_rate_is_never_above_what_was_allowed(course: list[float | None]) -> None:
    pace = Pace(2.0)
    now = last = 0.0
    for seconds in course:
        start = pace.begin(now)
        assert start >= now
        assert start == 0.0 or start - last >= 0.5 - 1e-9
        last = now = start
        if seconds is None:
            pace.refused(now, None)
        else:
            pace.answered("base", seconds)
            now += seconds
        assert 0 < pace.rate <= 2.0


def test_a_halved_rate_is_kept_between_requests() -> None:
    pace = Pace(2.0)
    pace.begin(0.0)
    pace.refused(0.1, None)
    first = pace.begin(0.1)
    assert pace.begin(0.1) - first == pytest.approx(1.0)
