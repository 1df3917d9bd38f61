"""The scheduler, with real threads and a model behind a gate."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.chassis.errors import DeadlineExceeded, Internal, InvalidArgument, ResourceExhausted, Unavailable
from services.inference.scheduling import (
    BatchReport,
    Lane,
    Scheduler,
    SchedulerLimits,
    SchedulerObserver,
    Submission,
    Work,
)
from tests.unit.inference.scheduling.rig import BULK, INTERACTIVE, PATIENCE, Model, gathered, length_of, rig, text

# Batches


async def test_results_come_in_the_order_of_the_works() -> None:
    async with rig() as h:
        h.model.open()
        assert await h.submit("9:c", "3:a", "5:b", "9:c") == ["9:C", "3:A", "5:B", "9:C"]


async def test_nothing_submitted_is_nothing_computed() -> None:
    async with rig() as h:
        assert await h.submit() == []
        assert h.model.batches == []


async def test_all_queued_work_is_the_next_batch_of_a_free_worker() -> None:
    async with rig() as h:
        plugs = await h.occupy()
        tasks = [await h.queue(f"7:{name}", caller=name) for name in "abc"]
        h.model.open()
        await gathered(*plugs, *tasks)
        assert h.model.batches[1:] == [["7:a", "7:b", "7:c"]]
        h.assert_nothing_is_left()


async def test_the_next_batch_is_taken_while_the_event_loop_is_blocked() -> None:
    async with rig(batch_tokens=8) as h:
        plugs = await h.occupy()
        tasks = [await h.queue(f"8:{number}") for number in range(4)]
        h.model.open()
        h.model.wait_for_batches(5)  # in the event loop's own thread
        await gathered(*plugs, *tasks)


async def test_a_batch_of_many_calls_wakes_the_event_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig() as h:
        plugs = await h.occupy()
        tasks = [await h.queue(f"4:{number}") for number in range(20)]
        loop = asyncio.get_running_loop()
        wake_ups: list[object] = []
        original = loop.call_soon_threadsafe

        def counted(*call: Any, **how: Any) -> asyncio.Handle:
            wake_ups.append(call)
            return original(*call, **how)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        h.model.open()
        await gathered(*plugs, *tasks)
        assert len(wake_ups) == len(h.model.batches) == 2


async def test_the_oldest_leads_and_the_nearest_lengths_follow() -> None:
    async with rig(batch_tokens=300, padding_tokens=20) as h:
        plugs = await h.occupy()
        tasks = [await h.queue(text(length)) for length in (90, 10, 70, 92, 12, 88, 11)]
        h.model.open()
        await gathered(*plugs, *tasks)
        assert [sorted(map(length_of, batch)) for batch in h.model.batches[1:]] == [[88, 90, 92], [10, 11, 12], [70]]


async def test_a_row_longer_than_the_budget_runs_alone() -> None:
    async with rig(batch_tokens=16) as h:
        plugs = await h.occupy()
        tasks = [await h.queue(f"400:{name}") for name in "ab"]
        h.model.open()
        await gathered(*plugs, *tasks)
        assert h.model.batches[1:] == [["400:a"], ["400:b"]]


async def test_with_an_express_a_person_does_not_wait_for_the_end_of_a_bulk_pass() -> None:
    async with rig(express=True) as h:
        job = await h.queue("400:job", lane=BULK)
        h.model.wait_for_batches(1)
        person = await h.queue("8:person")
        h.model.wait_for_batches(2)  # both at the gate at once
        h.model.open()
        assert await gathered(job, person) == [["400:JOB"], ["8:PERSON"]]
        h.assert_nothing_is_left()


async def test_the_express_takes_nothing_from_a_person_whose_pass_is_not_a_bulk_one() -> None:
    async with rig(express=True) as h:
        plugs = await h.occupy()
        tasks = [await h.queue(f"7:{name}") for name in "abc"]
        job = await h.queue("7:job", lane=BULK)
        h.model.open()
        await gathered(*plugs, *tasks, job)
        assert h.model.batches[1] == ["7:a", "7:b", "7:c"]  # together, after the pass that they met


async def test_a_bulk_pass_is_as_long_as_its_time_allows_at_the_measured_rate() -> None:
    async with rig(batch_tokens=512, bulk_pass_seconds=0.025) as h:
        await h.measure(seconds_per_token=1 / 4100)
        plugs = await h.occupy()
        bulk = await h.queue(*(f"20:bulk {number}" for number in range(20)), lane=BULK)
        person = await h.queue(*(f"20:person {number}" for number in range(20)))
        h.model.open()
        await gathered(*plugs, bulk, person)
        rows = {lane: [report.rows for report in h.record.reports[2:] if report.lane is lane] for lane in Lane}
        assert rows == {INTERACTIVE: [20], BULK: [5, 5, 5, 5]}


async def test_several_workers_compute_at_once() -> None:
    async with rig(workers=2) as h:
        plugs = await h.occupy(workers=2)
        assert len(h.model.batches) == 2
        h.model.open()
        await gathered(*plugs)


async def test_one_call_can_keep_several_workers_busy() -> None:
    async with rig(workers=2, batch_tokens=5) as h:
        task = await h.queue("5:a", "5:b")
        h.model.wait_for_batches(2)  # both before either may end
        h.model.open()
        await gathered(task)


async def test_the_observer_gets_a_report_of_every_batch() -> None:
    async with rig(bulk_pass_seconds=600) as h:
        plugs = await h.occupy()
        task = await h.queue("10:a", "8:b", lane=BULK)
        assert h.record.depth[BULK] == (2, 18)
        h.model.clock.now = 3.0
        h.model.seconds_per_token = 0.5
        h.model.open()
        await gathered(*plugs, task)
        assert h.record.reports[1] == BatchReport(
            BULK, rows=2, tokens=18, padded_tokens=20, waited_seconds=3.5, compute_seconds=9.0
        )


# Sharing


async def test_the_same_key_in_flight_is_computed_once_for_all_callers() -> None:
    async with rig(cache_entries=0) as h:
        running = await h.queue("5:running")
        h.model.wait_for_batches(1)
        tasks = [await h.queue("5:running", "5:queued", caller=caller) for caller in ("ann", "bob")]
        h.model.open()
        assert await gathered(running, *tasks) == [["5:RUNNING"], *[["5:RUNNING", "5:QUEUED"]] * 2]
        assert h.model.computed == ["5:running", "5:queued"]
        assert h.record.counts["shared"] == 3
        h.assert_nothing_is_left()


async def test_a_cached_result_is_answered_while_the_worker_is_busy() -> None:
    async with rig() as h:
        h.model.open()
        await h.submit("5:a")
        h.model.close()
        plugs = await h.occupy()
        assert await h.submit("5:a") == ["5:A"]
        h.model.open()
        await gathered(*plugs)
        assert h.record.counts["cached"] == 1


async def test_the_cache_forgets_what_was_not_used_for_longest() -> None:
    async with rig(cache_entries=2) as h:
        h.model.open()
        for content in ("1:a", "1:b", "1:a", "1:c", "1:a", "1:b"):
            await h.submit(content)
        assert h.model.computed == ["1:a", "1:b", "1:c", "1:b"]


async def test_an_interactive_call_moves_a_shared_entry_out_of_the_bulk_lane() -> None:
    async with rig(batch_tokens=8, padding_tokens=0) as h:
        plugs = await h.occupy()
        job = await h.queue(*(f"8:{number}" for number in range(5)), lane=BULK)
        person = await h.queue("8:4")
        assert h.record.depth == {INTERACTIVE: (1, 8), BULK: (4, 32)}
        h.model.open()
        await gathered(*plugs, job, person)
        assert h.model.computed[1] == "8:4"
        h.assert_nothing_is_left()


async def test_a_caller_with_a_short_queue_moves_a_shared_entry_forward() -> None:
    async with rig(batch_tokens=8, padding_tokens=0) as h:
        plugs = await h.occupy()
        flood = await h.queue(*(f"8:{number}" for number in range(5)), caller="flood")
        light = await h.queue("8:4", caller="light")
        h.model.open()
        await gathered(*plugs, flood, light)
        assert h.model.computed.index("8:4") <= 2


# Cancelling and deadlines


async def test_cancelled_work_does_not_count_against_its_caller() -> None:
    async with rig(batch_tokens=8, padding_tokens=0) as h:
        plugs = await h.occupy()
        kept = await h.queue("8:ann 0", caller="ann")
        other = await h.queue(*(f"8:bob {number}" for number in range(3)), caller="bob")
        gone = await h.queue(*(f"8:gone {number}" for number in range(9)), caller="ann")
        gone.cancel()
        await gathered(gone)
        again = await h.queue("8:ann 1", caller="ann")
        h.model.open()
        await gathered(*plugs, kept, other, again)
        assert h.model.computed[1:] == ["8:ann 0", "8:bob 0", "8:bob 1", "8:ann 1", "8:bob 2"]


async def test_work_that_all_callers_cancelled_is_never_computed() -> None:
    async with rig() as h:
        plugs = await h.occupy()
        tasks = [await h.queue("5:gone"), await h.queue("5:gone", lane=BULK), await h.queue("5:kept")]
        for task in tasks[:2]:
            task.cancel()
        gone = await gathered(*tasks[:2])
        assert [type(outcome) for outcome in gone] == [asyncio.CancelledError] * 2
        assert h.record.depth[INTERACTIVE] == (1, 5)
        h.model.open()
        await gathered(*plugs, tasks[2])
        assert "5:gone" not in h.model.computed
        assert h.record.counts[INTERACTIVE, "cancelled"] == 1
        h.assert_nothing_is_left()


@pytest.mark.parametrize("running", [True, False])
async def test_a_cancelled_call_does_not_take_the_computation_from_others(running: bool) -> None:
    async with rig() as h:
        plugs = [] if running else await h.occupy()
        first = await h.queue("5:shared")
        if running:
            h.model.wait_for_batches(1)
        second = await h.queue("5:shared")
        first.cancel()
        await gathered(first)
        h.model.open()
        assert await gathered(second) == [["5:SHARED"]]
        await gathered(*plugs)
        h.assert_nothing_is_left()


async def test_work_that_expired_while_the_event_loop_was_blocked_is_not_computed() -> None:
    async with rig() as h:
        plugs = await h.occupy()
        doomed = await h.queue("5:late", "6:late", "5:shared", deadline=1.0)
        patient = await h.queue("5:shared")
        h.model.clock.now = 1.0  # the loop's own timer has not seen it yet
        h.model.open()
        late, in_time, *_ = await gathered(doomed, patient, *plugs)
        assert isinstance(late, DeadlineExceeded)
        assert in_time == ["5:SHARED"]
        assert h.model.computed[1:] == ["5:shared"]
        assert h.record.counts[INTERACTIVE, "expired"] == 2
        h.assert_nothing_is_left()


async def test_a_deadline_ends_the_wait_although_the_worker_is_still_busy() -> None:
    async with rig() as h:
        plugs = await h.occupy()
        with pytest.raises(DeadlineExceeded):
            await h.submit("5:late", deadline=0.001)
        assert h.record.depth[INTERACTIVE] == (0, 0)
        h.model.open()
        await gathered(*plugs)
        assert "5:late" not in h.model.computed


async def test_a_deadline_that_has_passed_is_not_queued() -> None:
    async with rig() as h:
        with pytest.raises(DeadlineExceeded):
            await h.submit("5:late", deadline=0.0)
        assert h.model.batches == []


# Admission


async def test_nothing_is_refused_for_its_deadline_before_a_rate_was_measured() -> None:
    async with rig() as h:
        plugs = await h.occupy()
        tasks = [await h.queue(f"100:{number}", deadline=50.0) for number in range(100)]
        h.model.open()
        assert all(isinstance(outcome, list) for outcome in await gathered(*plugs, *tasks))


async def test_a_call_that_cannot_be_done_in_time_is_refused_whole() -> None:
    async with rig(rate=100.0) as h:
        plugs = await h.occupy()
        waiting = await h.queue("50:a", deadline=60.0)
        with pytest.raises(ResourceExhausted) as refusal:
            await h.submit("1:b", "60:c", deadline=1.0)
        assert refusal.value.retry_after == pytest.approx(1.12)  # the plug, the queue and itself
        assert h.record.depth[INTERACTIVE] == (1, 50)
        assert h.record.counts[INTERACTIVE, "late"] == 1
        assert (await gathered(await h.queue("50:a", deadline=0.01)))[0].reason == "DEADLINE_EXCEEDED"
        h.model.open()
        await gathered(*plugs, waiting)
        assert h.model.computed[1:] == ["50:a"]


async def test_the_other_lane_counts_for_its_share_of_the_wait() -> None:
    async with rig(rate=100.0, bulk_share=0.5) as h:
        plugs = await h.occupy()
        job = await h.queue(*(f"50:{number}" for number in range(20)), lane=BULK)
        with pytest.raises(ResourceExhausted):
            await h.submit("50:person", deadline=1.0)
        person = await h.queue("50:person", deadline=1.02)
        h.model.open()
        assert await gathered(*plugs, job, person)


async def test_a_caller_that_floods_does_not_get_others_refused() -> None:
    async with rig(rate=100.0, queued_tokens=4000) as h:
        plugs = await h.occupy()
        flood = await h.queue(*(f"10:{number}" for number in range(200)), caller="flood")
        with pytest.raises(ResourceExhausted) as refusal:
            await h.submit("10:more", caller="flood")
        assert refusal.value.reason == "QUEUE_FULL"
        assert refusal.value.retry_after == pytest.approx(20.11)
        light = await h.queue("10:light", caller="light", deadline=0.5)
        h.model.open()
        assert (await gathered(*plugs, flood, light))[-1] == ["10:LIGHT"]


async def test_an_entry_that_changes_lanes_needs_room_in_the_new_one() -> None:
    async with rig(queued_tokens=100) as h:
        plugs = await h.occupy()
        job = await h.queue("50:a", lane=BULK)
        person = await h.queue("60:b", caller="bob")
        with pytest.raises(ResourceExhausted):
            await h.submit("50:a", caller="ann")
        h.model.open()
        await gathered(*plugs, job, person)


async def test_a_call_that_never_fits_is_told_to_split_not_to_retry() -> None:
    async with rig(queued_tokens=100) as h:
        with pytest.raises(ResourceExhausted) as refusal:
            await h.submit("60:a", "60:b")
        assert (refusal.value.reason, refusal.value.retry_after) == ("TOO_LARGE", None)
        h.model.open()
        assert await h.submit("60:a", "60:a") == ["60:A"] * 2


async def test_a_rate_measured_during_a_stall_recovers() -> None:
    async with rig() as h:
        await h.measure(seconds_per_token=10.0)
        h.model.seconds_per_token = 0.001
        h.model.open()
        assert await h.submit("400:a", deadline=h.model.clock.now + 60) == ["400:A"]


# Faults


async def test_only_the_rows_that_cannot_be_computed_fail_their_calls() -> None:
    async with rig() as h:
        h.model.poison = {"5:secret"}
        plugs = await h.occupy()
        good = [await h.queue(f"5:{number}") for number in range(6)]
        bad = await h.queue("5:0", "5:secret", "5:1")
        h.model.open()
        *answers, error = await gathered(*plugs, *good, bad)
        assert answers[1:] == [[f"5:{number}"] for number in range(6)]
        assert isinstance(error, InvalidArgument)
        assert (error.reason, error.field) == ("ROW_FAILED", "rows[1]")
        assert isinstance(error.__cause__, ValueError)
        assert "secret" not in error.message
        h.assert_nothing_is_left()


async def test_a_call_that_failed_leaves_nothing_behind_in_the_queue() -> None:
    async with rig(batch_tokens=5, padding_tokens=0) as h:
        h.model.poison = {"5:bad"}
        plugs = await h.occupy()
        task = await h.queue("5:bad", "5:b", "5:c")
        h.model.open()
        assert isinstance((await gathered(*plugs, task))[-1], InvalidArgument)
        assert h.record.counts[INTERACTIVE, "failed"] == 2
        h.assert_nothing_is_left()


async def test_a_missing_result_is_a_failure_and_never_another_rows_result() -> None:
    async with rig() as h:
        h.model.forgetful = True
        h.model.open()
        with pytest.raises(InvalidArgument):
            await h.submit("5:a", "5:b")
        assert h.scheduler.ready


async def test_an_input_that_cannot_be_computed_by_itself_is_no_fault_of_the_engine() -> None:
    async with rig() as h:
        h.model.open()
        await h.submit("3:good")
        h.model.poison = {"5:bad"}
        for _ in range(10):
            with pytest.raises(InvalidArgument):
                await h.submit("5:bad")
        assert await h.submit("4:fine") == ["4:FINE"]
        assert h.scheduler.ready


async def test_an_engine_that_fails_with_what_it_has_computed_before_is_dead() -> None:
    async with rig() as h:
        h.model.open()
        await h.submit("3:good")
        h.model.error = RuntimeError("the device is lost")
        with pytest.raises(Unavailable):
            await h.submit("5:next")
        assert not h.scheduler.ready
        async with asyncio.timeout(PATIENCE):
            while not h.deaths:
                await asyncio.sleep(0.001)
        assert h.deaths == [h.model.error]


async def test_an_engine_that_fails_once_goes_on() -> None:
    async with rig() as h:
        h.model.open()
        await h.submit("3:good")
        h.model.error = RuntimeError("a hiccup")

        def recover() -> None:
            if h.model.batches[-1] == ["5:next"]:
                h.model.error = None

        h.model.before = recover
        with pytest.raises(InvalidArgument):
            await h.submit("5:next")
        assert await h.submit("5:next") == ["5:NEXT"]
        assert h.scheduler.ready


@pytest.mark.parametrize("error", [SystemExit(1), MemoryError(), KeyboardInterrupt()])
async def test_a_dead_worker_fails_all_calls_and_ends_readiness(error: BaseException) -> None:
    async with rig(workers=2) as h:
        tasks = await h.occupy(workers=2)
        tasks += [await h.queue("5:a"), await h.queue("5:b", lane=BULK)]
        h.model.error = error
        h.model.open()
        assert [type(outcome) for outcome in await gathered(*tasks)] == [Unavailable] * 4
        assert not h.scheduler.ready
        with pytest.raises(Unavailable):
            await h.submit("5:c")
    assert error in h.deaths
    assert set(h.record.depth.values()) == {(0, 0)}


# Starting and ending


async def test_it_takes_work_only_between_start_and_end() -> None:
    async with rig() as h:
        assert h.scheduler.ready
        unstarted = Scheduler(h.model, SchedulerLimits(), h.record, on_death=print)
        assert not unstarted.ready
        with pytest.raises(Unavailable):
            await unstarted.submit([Work("a", "1:a", 1)], lane=BULK, caller="ann")
    assert not h.scheduler.ready
    with pytest.raises(Unavailable):
        await h.submit("5:a")


async def test_work_that_is_queued_at_the_end_is_still_computed() -> None:
    async with rig() as h:
        tasks = [*await h.occupy(), await h.queue("5:a", lane=BULK)]
    assert (await gathered(*tasks))[-1] == ["5:A"]


async def test_work_that_does_not_end_in_time_fails() -> None:
    model = Model()
    async with Scheduler(model, SchedulerLimits(drain_seconds=0.01), SchedulerObserver(), on_death=print) as scheduler:
        works = [Work(name, f"1:{name}", 1) for name in "ab"]
        task = asyncio.create_task(scheduler.submit(works, lane=BULK, caller="ann"))
        await asyncio.to_thread(model.wait_for_batches, 1)
    assert isinstance((await gathered(task))[0], Unavailable)
    model.open()


# Expected tokens


async def test_a_call_is_refused_for_its_expected_tokens_before_its_works_are_made() -> None:
    async with rig(rate=100.0, queued_tokens=4000) as h:
        plugs = await h.occupy()
        flood = await h.queue(*(f"10:{number}" for number in range(200)), caller="flood")
        with pytest.raises(ResourceExhausted) as full:
            h.scheduler.begin(expected_tokens=10, lane=INTERACTIVE, caller="flood")
        assert full.value.reason == "QUEUE_FULL"
        with pytest.raises(ResourceExhausted):
            h.scheduler.begin(expected_tokens=100, lane=INTERACTIVE, caller="ann", deadline=0.5)
        nothing = Internal("nothing can be made of it")
        h.scheduler.fail(h.scheduler.begin(expected_tokens=10, lane=INTERACTIVE, caller="ann"), nothing)
        h.scheduler.fail(h.scheduler.begin(expected_tokens=0, lane=INTERACTIVE, caller="flood"), nothing)
        h.model.open()
        await gathered(*plugs, flood)
        h.assert_nothing_is_left()


async def test_expected_tokens_hold_room_until_the_call_enters_fails_or_leaves() -> None:
    async with rig(queued_tokens=1000) as h:
        h.model.open()

        def comes(caller: str) -> Submission:
            return h.scheduler.begin(expected_tokens=600, lane=INTERACTIVE, caller=caller)

        def finds_no_room() -> None:
            with pytest.raises(ResourceExhausted) as full:
                comes("next")
            assert full.value.reason == "QUEUE_FULL"

        entering = comes("ann")
        finds_no_room()
        h.scheduler.enter(entering, [Work("10:short", "10:short", 10)])
        assert await h.scheduler.answer(entering)
        failing = comes("ben")
        finds_no_room()
        h.scheduler.fail(failing, Internal("nothing can be made of it"))
        with pytest.raises(Internal):
            await h.scheduler.answer(failing)
        leaving = asyncio.create_task(h.scheduler.answer(comes("cem")))
        await asyncio.sleep(0)
        finds_no_room()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        h.assert_nothing_is_left()
