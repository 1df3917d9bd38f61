"""Partial calls: queued in rounds, and answered with what is done by the deadline."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.chassis.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted, Unavailable
from tests.unit.inference.scheduling.rig import BULK, INTERACTIVE, gathered, length_of, rig, text

threaded = settings(max_examples=40)


async def test_without_a_deadline_a_partial_call_is_answered_whole() -> None:
    async with rig(batch_tokens=20) as h:
        h.model.open()
        texts = [text(1 + 7 * number % 30, number) for number in range(50)]
        assert await h.submit(*texts, partial=True) == [content.upper() for content in texts]
        h.assert_nothing_is_left()


async def test_nothing_submitted_is_answered_with_nothing() -> None:
    async with rig() as h:
        assert await h.submit(partial=True) == []


async def test_works_are_queued_in_rounds_of_a_batch_and_computed_in_their_order() -> None:
    async with rig(batch_tokens=30) as h:
        h.model.open()
        await h.submit(*(text(10, number) for number in range(10)), partial=True)
        assert [len(batch) for batch in h.model.batches] == [3, 3, 3, 1]
        assert h.model.computed == [text(10, number) for number in range(10)]
        assert h.record.most_tokens[INTERACTIVE] == 30


async def test_the_next_round_is_taken_while_the_event_loop_is_blocked() -> None:
    async with rig(batch_tokens=30) as h:
        call = await h.queue(*(text(10, number) for number in range(9)), partial=True)
        h.model.open()
        h.model.wait_for_batches(3)  # blocks the event loop
        assert len((await gathered(call))[0]) == 9


async def test_a_round_keeps_all_workers_busy() -> None:
    async with rig(batch_tokens=30, workers=2) as h:
        call = await h.queue(*(text(10, number) for number in range(9)), partial=True)
        h.model.wait_for_batches(2)
        h.model.open()
        assert len((await gathered(call))[0]) == 9


async def test_scores_that_are_done_at_the_deadline_are_the_answer() -> None:
    async with rig(batch_tokens=10) as h:
        second = asyncio.Event()
        loop = asyncio.get_running_loop()

        def hold_the_second() -> None:
            if h.model.batches:
                h.model.close()
                loop.call_soon_threadsafe(second.set)

        h.model.before = hold_the_second
        h.model.open()
        call = await h.queue(text(10, "a"), text(10, "b"), text(10, "c"), deadline=0.2, partial=True)
        await second.wait()
        assert await call == ["10:A"]
        h.model.open()
        assert await h.submit(text(10, "b")) == ["10:B"]  # computed after all, and kept
        assert text(10, "c") not in h.model.computed
        h.assert_nothing_is_left()


async def test_a_result_after_one_that_is_missing_is_no_part_of_the_answer() -> None:
    async with rig(batch_tokens=20, padding_tokens=0) as h:
        await h.measure(0.001)
        plugs = await h.occupy()
        call = await h.queue(text(9, "a"), text(5, "b"), text(6, "c"), deadline=h.model.clock.now + 0.1, partial=True)
        h.model.seconds_per_token = 0.05  # the second of three passes takes until after the deadline
        h.model.open()
        results, *_ = await gathered(call, *plugs)
        assert results == ["9:A"]
        h.assert_nothing_is_left()


async def test_a_partial_call_ends_with_the_last_round_that_there_is_time_for() -> None:
    async with rig(batch_tokens=20) as h:
        await h.measure(0.001)
        h.model.open()
        texts = [text(10, number) for number in range(100)]
        results = await h.submit(*texts, deadline=h.model.clock.now + 0.0751, partial=True)
        assert results == [content.upper() for content in texts[:7]]
        assert len(h.model.computed) == 1 + 7  # nothing is computed for which there was no time


async def test_a_partial_call_with_not_even_its_first_work_done_by_the_deadline_fails() -> None:
    async with rig() as h:
        plugs = await h.occupy()
        with pytest.raises(DeadlineExceeded):
            await h.submit(text(5, "late"), text(5, "later"), deadline=0.001, partial=True)
        h.model.open()
        await gathered(*plugs)
        h.assert_nothing_is_left()


async def test_a_partial_call_is_refused_where_there_is_no_time_for_its_first_work() -> None:
    async with rig() as h:
        await h.measure(0.001)
        plugs = await h.occupy()
        with pytest.raises(ResourceExhausted):
            await h.submit(text(100), text(1), deadline=h.model.clock.now + 0.05, partial=True)
        h.model.open()
        await gathered(*plugs)


async def test_more_works_than_the_lane_has_room_for_are_done_in_rounds() -> None:
    async with rig(batch_tokens=20, queued_tokens=100) as h:
        h.model.open()
        texts = [text(10, number) for number in range(100)]
        assert len(await h.submit(*texts, partial=True)) == 100


async def test_a_partial_call_expects_no_more_than_its_first_round() -> None:
    async with rig(batch_tokens=20, queued_tokens=100) as h:
        h.model.open()
        submission = h.scheduler.begin(lane=INTERACTIVE, caller="ann", expected_tokens=1000, partial=True)
        h.scheduler.enter(submission, [])
        assert await h.scheduler.answer(submission) == []
        h.assert_nothing_is_left()


async def test_a_row_that_cannot_be_computed_is_named_by_its_place_in_the_whole_call() -> None:
    async with rig(batch_tokens=20) as h:
        h.model.open()
        texts = [text(10, number) for number in range(20)]
        h.model.poison = {texts[13]}
        with pytest.raises(InvalidArgument) as refused:
            await h.submit(*texts, partial=True)
        assert refused.value.field == "rows[13]"
        h.assert_nothing_is_left()


async def test_a_call_that_is_cancelled_between_rounds_queues_no_other() -> None:
    async with rig(batch_tokens=20) as h:
        call = await h.queue(*(text(10, number) for number in range(20)), partial=True)
        h.model.wait_for_batches(1)
        call.cancel()
        await gathered(call)
        h.model.open()
        await h.submit(text(10, "another"))
        assert h.model.computed == [text(10, 0), text(10, 1), text(10, "another")]
        h.assert_nothing_is_left()


async def test_a_worker_that_dies_between_rounds_fails_the_call() -> None:
    async with rig(batch_tokens=20) as h:
        call = await h.queue(*(text(10, number) for number in range(20)), partial=True)
        h.model.error = SystemExit("a fault")
        h.model.open()
        assert isinstance((await gathered(call))[0], Unavailable)


async def test_rounds_that_wait_at_the_end_are_still_computed() -> None:
    async with rig(batch_tokens=20) as h:
        call = await h.queue(*(text(10, number) for number in range(20)), partial=True)
    assert len((await gathered(call))[0]) == 20


LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40)
LIMITS = st.fixed_dictionaries(
    {
        "batch_tokens": st.integers(1, 200),
        "padding_tokens": st.integers(0, 40),
        "cache_entries": st.sampled_from([0, 3, 1000]),
        "workers": st.sampled_from([1, 3]),
        "express": st.booleans(),
    }
)


@threaded
@given(
    calls=st.lists(st.tuples(LENGTHS, st.sampled_from([INTERACTIVE, BULK])), min_size=1, max_size=4),
    limits=LIMITS,
    seconds=st.floats(0.01, 2),
    measured=st.booleans(),
)
def test_partial_answers_are_the_first_results_of_whole_ones(
    calls: list[tuple[list[int], Any]], limits: Any, seconds: float, measured: bool
) -> None:
    async def scenario() -> None:
        async with rig(**limits) as h:
            if measured:
                await h.measure(0.001)
            h.model.seconds_per_token = 0.001
            # Names come again within a call and between calls, so that results are shared and kept.
            texts = [
                [text(length, length % 7 * place % 11) for place, length in enumerate(lengths)] for lengths, _ in calls
            ]
            plugs = await h.occupy(limits["workers"])
            tasks = [
                await h.queue(*own, lane=lane, caller=str(caller), deadline=h.model.clock.now + seconds, partial=True)
                for caller, (own, (_, lane)) in enumerate(zip(texts, calls, strict=True))
            ]
            h.model.open()
            outcomes = await gathered(*tasks)
            await gathered(*plugs)
            for own, outcome in zip(texts, outcomes, strict=True):
                if isinstance(outcome, DeadlineExceeded | ResourceExhausted):
                    continue
                assert 0 < len(outcome) <= len(own)
                assert outcome == [content.upper() for content in own[: len(outcome)]]
            h.assert_nothing_is_left()

    asyncio.run(scenario())


LONG_QUEUES = st.lists(st.integers(1, 60), min_size=60, max_size=120)


@threaded
@given(
    queues=st.lists(st.tuples(LONG_QUEUES, st.booleans()), min_size=2, max_size=4),
    run_ahead=st.sampled_from([0, 100, 400]),
)
def test_calls_in_rounds_get_the_same_number_of_tokens_as_whole_ones(
    queues: list[tuple[list[int], bool]], run_ahead: int
) -> None:
    async def scenario() -> None:
        async with rig(batch_tokens=120, run_ahead_tokens=run_ahead) as h:
            plugs = await h.occupy()
            tasks = [
                await h.queue(
                    *(text(length, f"{caller} {place}") for place, length in enumerate(lengths)),
                    caller=str(caller),
                    partial=partial,
                )
                for caller, (lengths, partial) in enumerate(queues)
            ]
            h.model.open()
            await gathered(*plugs, *tasks)
            got = Counter({str(caller): 0 for caller in range(len(queues))})
            left = Counter({str(caller): len(lengths) for caller, (lengths, _) in enumerate(queues)})
            for batch in h.model.batches[1:]:
                if min(left.values()) == 0:
                    break
                # A round is at most a batch ahead of the queue, as rows of whole calls may be by `run_ahead`.
                assert max(got.values()) - min(got.values()) <= max(run_ahead, 120) + 120
                for content in batch:
                    caller = content.split(":")[1].split()[0]
                    got[caller] += length_of(content)
                    left[caller] -= 1

    asyncio.run(scenario())
