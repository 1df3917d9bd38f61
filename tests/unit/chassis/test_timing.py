from __future__ import annotations

import time
from typing import Any, cast

import pytest

from services.chassis.errors import DeadlineExceeded
from services.chassis.timing import deadline_of, duration, remaining


class Context:
    """As much of a call as has a deadline."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds

    def time_remaining(self) -> float | None:
        return self.seconds


@pytest.mark.parametrize(("given", "expected"), [(None, 10.0), (60.0, 60.0), (0.5, 0.5)])
def test_the_callers_deadline_holds_be_it_longer_or_shorter_than_the_default(
    given: float | None, expected: float
) -> None:
    before = time.monotonic()
    deadline = deadline_of(cast(Any, Context(given)), 10.0)
    assert before + expected <= deadline <= time.monotonic() + expected


def test_a_deadline_that_has_passed_leaves_no_time() -> None:
    with pytest.raises(DeadlineExceeded):
        remaining(time.monotonic() - 1)


def test_a_duration_is_exact_to_the_nanosecond() -> None:
    assert duration(1.25).ToNanoseconds() == 1_250_000_000
