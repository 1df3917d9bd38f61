"""Bulk passes of schedulers that share processors."""

from __future__ import annotations

import threading
import time

from services.inference.scheduling import Turn
from tests.unit.inference.scheduling.rig import BULK, PATIENCE, gathered, rig


def test_a_thread_that_comes_again_at_once_lets_those_that_wait_go_first() -> None:
    turn, served = Turn(), threading.Event()

    def take() -> None:
        with turn:
            served.set()

    waiting = threading.Thread(target=take)
    deadline = time.monotonic() + PATIENCE
    with turn:
        waiting.start()
    while not served.is_set() and time.monotonic() < deadline:
        with turn:
            pass
    waiting.join(PATIENCE)
    assert served.is_set()


async def test_of_two_schedulers_with_one_turn_one_at_a_time_computes_a_bulk_pass() -> None:
    turn = Turn()
    async with rig(express=True, bulk_turn=turn) as first, rig(express=True, bulk_turn=turn) as second:
        one = await first.queue("400:one", lane=BULK)
        first.model.wait_for_batches(1)
        other = await second.queue("400:other", lane=BULK)
        # While its worker waits for the turn of the other scheduler's pass, an arrival is served.
        second.model.open()
        assert await gathered(await second.queue("8:person")) == [["8:PERSON"]]
        assert second.model.computed == ["8:person"]
        first.model.open()
        assert await gathered(one, other) == [["400:ONE"], ["400:OTHER"]]
        first.assert_nothing_is_left()
        second.assert_nothing_is_left()


async def test_waiting_for_a_turn_makes_a_model_look_no_slower() -> None:
    turn = Turn()
    async with rig(express=True, bulk_turn=turn, bulk_pass_seconds=0.025) as h:
        await h.measure(seconds_per_token=1 / 4100)
        with turn:
            job = await h.queue(*(f"20:bulk {number}" for number in range(10)), lane=BULK)
            person = await h.queue("20:person")
            h.model.open()
            await gathered(person)  # by the express: the worker waits
            h.model.clock.now += 60
        await gathered(job)
        assert [report.rows for report in h.record.reports if report.lane is BULK] == [5, 5]
