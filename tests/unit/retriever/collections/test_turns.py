from __future__ import annotations

import asyncio
import time

import pytest

from services.chassis.errors import DeadlineExceeded
from services.retriever.collections.turns import Turns


async def test_writers_of_the_same_document_take_turns_and_others_do_not_wait() -> None:
    turns, under_way, most = Turns(), 0, 0

    async def write(*documents: str) -> None:
        nonlocal under_way, most
        async with turns.of("docs-v1", documents, None):
            if "a" in documents:
                under_way += 1
                most = max(most, under_way)
                await asyncio.sleep(0)
                under_way -= 1

    async with turns.of("docs-v1", ["b"], None):
        await write("c")
        async with turns.of("docs-v2", ["b"], None):
            pass
    await asyncio.gather(*(write("a", str(number)) for number in range(20)))
    assert most == 1


async def test_a_writer_whose_turn_does_not_come_in_time_is_told_so() -> None:
    turns = Turns()
    async with turns.of("docs-v1", ["a"], None):
        with pytest.raises(DeadlineExceeded, match="others wrote the same documents"):
            async with turns.of("docs-v1", ["a", "b"], time.monotonic() + 0.01):
                raise AssertionError("not its turn")
    async with turns.of("docs-v1", ["a"], time.monotonic() + 60):
        pass


async def test_a_writer_that_fails_or_is_cancelled_gives_its_turn_away() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="no"):
        async with turns.of("docs-v1", ["a"], None):
            raise ValueError("no")
    holding = turns.of("docs-v1", ["a"], None)
    await holding.__aenter__()
    waiting = asyncio.create_task(turns.of("docs-v1", ["a"], None).__aenter__())
    await asyncio.sleep(0)
    waiting.cancel()
    await holding.__aexit__(None, None, None)
    async with turns.of("docs-v1", ["a"], time.monotonic() + 60):
        pass
