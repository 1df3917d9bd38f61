from __future__ import annotations

import asyncio

import pytest

from services.chassis.timing import in_background


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
