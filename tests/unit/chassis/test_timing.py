from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from services.chassis.errors import DeadlineExceeded, InvalidArgument
from services.chassis.timing import deadline_of, duration, in_background, remaining, since_1970


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


def test_a_moment_is_read_in_seconds_since_1970() -> None:
    assert since_1970(Timestamp(seconds=7, nanos=500_000_000), "time") == 7.5
    assert since_1970(Timestamp(), "time") == 0


@pytest.mark.parametrize(
    "moment",
    [Timestamp(seconds=-1), Timestamp(seconds=253_402_300_800), Timestamp(nanos=-1), Timestamp(nanos=10**9)],
)
def test_a_moment_that_no_calendar_has_is_refused(moment: Timestamp) -> None:
    with pytest.raises(InvalidArgument) as caught:
        since_1970(moment, "evidence.time")
    assert caught.value.field == "evidence.time"


def test_a_duration_is_exact_to_the_nanosecond() -> None:
    assert duration(1.25).ToNanoseconds() == 1_250_000_000


async def test_works_go_on_meanwhile_and_end_with_it() -> None:
    began, ended = asyncio.Event(), list[int]()

    async def work(number: int) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    async with in_background(work(1), work(2)):
        await began.wait()
        assert ended == []
    assert sorted(ended) == [1, 2]


async def test_what_a_work_died_of_is_raised_at_the_end_once_the_others_are_over() -> None:
    over = asyncio.Event()

    async def dies() -> None:
        raise ValueError("out of work")

    async def goes_on() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            over.set()

    with pytest.raises(ValueError, match="out of work"):
        async with in_background(dies(), goes_on()):
            await asyncio.sleep(0)
    assert over.is_set()
