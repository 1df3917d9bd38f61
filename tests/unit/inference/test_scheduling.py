"""The scheduler, with real threads and a model that computes only when it is let."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.chassis.errors import DeadlineExceeded, Internal, ResourceExhausted, Unavailable
from services.inference.scheduling import (
    BatchReport,
    Lane,
    Scheduler,
    SchedulerLimits,
    SchedulerObserver,
    Submission,
    Work,
)

INTERACTIVE, BULK = Lane.INTERACTIVE, Lane.BULK
PATIENCE = 10.0  # seconds until a test that would hang fails instead


def text(length: int, name: object = "") -> str:
    """A text of so many tokens."""
    return f"{length}:{name}"


def length_of(content: str) -> int:
    return int(content.split(":", maxsplit=1)[0])


class Clock:
    """Stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Model:
    """Puts texts in capitals, once its gate is open, and remembers every batch that it was given."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.poison: set[str] = set()
        self.error: BaseException | None = None
        self.forgetful = False
        self.before: Callable[[], object] = lambda: None
        self.seconds_per_token = 0.0
        self.clock = Clock()
        self._gate = threading.Event()
        self._changed = threading.Condition()

    def __call__(self, payloads: Sequence[str]) -> list[str]:
        self.before()
        with self._changed:
            self.batches.append(list(payloads))
            self._changed.notify_all()
        assert self._gate.wait(PATIENCE)
        self.clock.now += self.seconds_per_token * sum(map(length_of, payloads))
        if self.error is not None:
            raise self.error
        if self.poison.intersection(payloads):
            raise ValueError(f"cannot compute one of {payloads}")
        if self.forgetful:
            return []
        return [payload.upper() for payload in payloads]

    def open(self) -> None:
        self._gate.set()

    def close(self) -> None:
        self._gate.clear()

    def wait_for_batches(self, count: int) -> None:
        """Blocks, the event loop too, until the worker has brought so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.batches) >= count, PATIENCE)

    @property
    def computed(self) -> list[str]:
        return [content for batch in self.batches for content in batch]


@dataclass
class Record(SchedulerObserver):
    """Remembers what it was told."""

    depth: dict[Lane, tuple[int, int]] = field(default_factory=dict)
    most_tokens: Counter[Lane] = field(default_factory=Counter)
    reports: list[BatchReport] = field(default_factory=list)
    counts: Counter[Any] = field(default_factory=Counter)

    def queue_changed(self, lane: Lane, entries: int, tokens: int) -> None:
        self.depth[lane] = entries, tokens
        self.most_tokens[lane] = max(self.most_tokens[lane], tokens)

    def batch_finished(self, report: BatchReport) -> None:
        self.reports.append(report)

    def reused(self, requested: int, cached: int, shared: int) -> None:
        self.counts["requested"] += requested
        self.counts["cached"] += cached
        self.counts["shared"] += shared

    def dropped(self, lane: Lane, reason: str) -> None:
        self.counts[lane, reason] += 1

    def refused(self, lane: Lane, reason: str) -> None:
        self.counts[lane, reason] += 1


@dataclass
class House:
    """A started scheduler and what surrounds it."""

    model: Model
    scheduler: Scheduler[str, str]
    record: Record
    deaths: list[BaseException]

    async def submit(
        self, *texts: str, lane: Lane = INTERACTIVE, caller: str = "ann", deadline: float | None = None
    ) -> list[str]:
        works = [Work(key=content, payload=content, token_count=length_of(content)) for content in texts]
        return await self.scheduler.submit(works, lane=lane, caller=caller, deadline=deadline)

    async def queue(self, *texts: str, **how: Any) -> asyncio.Task[list[str]]:
        """Submits, and comes back as soon as that waits."""
        task = asyncio.create_task(self.submit(*texts, **how))
        await asyncio.sleep(0)
        return task

    async def occupy(self, workers: int = 1) -> list[asyncio.Task[list[str]]]:
        """Gives each worker something to compute, so that whatever comes next has to wait for the gate."""
        before = len(self.model.batches)
        plugs = []
        for number in range(workers):
            plugs.append(await self.queue(text(1, f"plug {before + number}"), caller="plug"))
            self.model.wait_for_batches(before + number + 1)
        return plugs

    async def measure(self, seconds_per_token: float) -> None:
        """Lets the scheduler measure the rate of its model."""
        self.model.seconds_per_token = seconds_per_token
        self.model.open()
        await self.submit(text(500, "measured"), caller="measure")
        self.model.close()

    def assert_nothing_is_left(self) -> None:
        assert set(self.record.depth.values()) <= {(0, 0)}
        assert self.scheduler.idle


@asynccontextmanager
async def house(*, rate: float | None = None, **limits: Any) -> AsyncIterator[House]:
    model, record = Model(), Record()
    deaths: list[BaseException] = []
    scheduler = Scheduler(
        model,
        SchedulerLimits(**limits),
        record,
        on_death=deaths.append,
        tokens_per_second=rate,
        clock=model.clock,
    )
    try:
        async with scheduler:
            yield House(model, scheduler, record, deaths)
            model.open()
    finally:
        model.open()


async def gathered(*tasks: asyncio.Task[list[str]]) -> list[Any]:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*tasks, return_exceptions=True)


# Batches


async def test_results_come_in_the_order_of_the_works() -> None:
    async with house() as h:
        h.model.open()
        assert await h.submit("9:c", "3:a", "5:b", "9:c") == ["9:C", "3:A", "5:B", "9:C"]


async def test_nothing_submitted_is_nothing_computed() -> None:
    async with house() as h:
        assert await h.submit() == []
        assert h.model.batches == []


async def test_whatever_waits_when_the_worker_is_free_is_one_batch() -> None:
    async with house() as h:
        plugs = await h.occupy()
        tasks = [await h.queue(f"7:{name}", caller=name) for name in "abc"]
        h.model.open()
        await gathered(*plugs, *tasks)
        assert h.model.batches[1:] == [["7:a", "7:b", "7:c"]]
        h.assert_nothing_is_left()


async def test_the_next_batch_is_taken_while_the_event_loop_is_blocked() -> None:
    async with house(batch_tokens=8) as h:
        plugs = await h.occupy()
        tasks = [await h.queue(f"8:{number}") for number in range(4)]
        h.model.open()
        h.model.wait_for_batches(5)  # in the event loop's own thread
        await gathered(*plugs, *tasks)


async def test_a_batch_of_many_calls_wakes_the_event_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with house() as h:
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
    async with house(batch_tokens=300, padding_tokens=20) as h:
        plugs = await h.occupy()
        tasks = [await h.queue(text(length)) for length in (90, 10, 70, 92, 12, 88, 11)]
        h.model.open()
        await gathered(*plugs, *tasks)
        assert [sorted(map(length_of, batch)) for batch in h.model.batches[1:]] == [[88, 90, 92], [10, 11, 12], [70]]


async def test_a_row_longer_than_the_budget_runs_alone() -> None:
    async with house(batch_tokens=16) as h:
        plugs = await h.occupy()
        tasks = [await h.queue(f"400:{name}") for name in "ab"]
        h.model.open()
        await gathered(*plugs, *tasks)
        assert h.model.batches[1:] == [["400:a"], ["400:b"]]


async def test_with_an_express_a_person_does_not_wait_for_the_end_of_a_bulk_pass() -> None:
    async with house(express=True) as h:
        job = await h.queue("400:job", lane=BULK)
        h.model.wait_for_batches(1)
        person = await h.queue("8:person")
        h.model.wait_for_batches(2)  # both at the gate at once
        h.model.open()
        assert await gathered(job, person) == [["400:JOB"], ["8:PERSON"]]
        h.assert_nothing_is_left()


async def test_the_express_takes_nothing_from_a_person_whose_pass_is_not_a_bulk_one() -> None:
    async with house(express=True) as h:
        plugs = await h.occupy()
        tasks = [await h.queue(f"7:{name}") for name in "abc"]
        job = await h.queue("7:job", lane=BULK)
        h.model.open()
        await gathered(*plugs, *tasks, job)
        assert h.model.batches[1] == ["7:a", "7:b", "7:c"]  # together, after the pass that they met


async def test_a_bulk_pass_is_as_long_as_its_time_allows_at_the_measured_rate() -> None:
    async with house(batch_tokens=512, bulk_pass_seconds=0.025) as h:
        await h.measure(seconds_per_token=1 / 4100)
        plugs = await h.occupy()
        bulk = await h.queue(*(f"20:bulk {number}" for number in range(20)), lane=BULK)
        person = await h.queue(*(f"20:person {number}" for number in range(20)))
        h.model.open()
        await gathered(*plugs, bulk, person)
        rows = {lane: [report.rows for report in h.record.reports[2:] if report.lane is lane] for lane in Lane}
        assert rows == {INTERACTIVE: [20], BULK: [5, 5, 5, 5]}


async def test_several_workers_compute_at_once() -> None:
    async with house(workers=2) as h:
        plugs = await h.occupy(workers=2)
        assert len(h.model.batches) == 2
        h.model.open()
        await gathered(*plugs)


async def test_one_call_can_keep_several_workers_busy() -> None:
    async with house(workers=2, batch_tokens=5) as h:
        task = await h.queue("5:a", "5:b")
        h.model.wait_for_batches(2)  # both before either may end
        h.model.open()
        await gathered(task)


async def test_the_observer_is_told_what_a_batch_was() -> None:
    async with house(bulk_pass_seconds=600) as h:
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


async def test_the_same_key_in_flight_is_computed_once_for_all_who_wait() -> None:
    async with house(cache_entries=0) as h:
        running = await h.queue("5:running")
        h.model.wait_for_batches(1)
        tasks = [await h.queue("5:running", "5:queued", caller=caller) for caller in ("ann", "bob")]
        h.model.open()
        assert await gathered(running, *tasks) == [["5:RUNNING"], *[["5:RUNNING", "5:QUEUED"]] * 2]
        assert h.model.computed == ["5:running", "5:queued"]
        assert h.record.counts["shared"] == 3
        h.assert_nothing_is_left()


async def test_a_cached_result_is_answered_while_the_worker_is_busy() -> None:
    async with house() as h:
        h.model.open()
        await h.submit("5:a")
        h.model.close()
        plugs = await h.occupy()
        assert await h.submit("5:a") == ["5:A"]
        h.model.open()
        await gathered(*plugs)
        assert h.record.counts["cached"] == 1


async def test_the_cache_forgets_what_was_not_used_for_longest() -> None:
    async with house(cache_entries=2) as h:
        h.model.open()
        for content in ("1:a", "1:b", "1:a", "1:c", "1:a", "1:b"):
            await h.submit(content)
        assert h.model.computed == ["1:a", "1:b", "1:c", "1:b"]


async def test_a_person_pulls_what_a_job_has_queued_into_the_fast_lane() -> None:
    async with house(batch_tokens=8, padding_tokens=0) as h:
        plugs = await h.occupy()
        job = await h.queue(*(f"8:{number}" for number in range(5)), lane=BULK)
        person = await h.queue("8:4")
        assert h.record.depth == {INTERACTIVE: (1, 8), BULK: (4, 32)}
        h.model.open()
        await gathered(*plugs, job, person)
        assert h.model.computed[1] == "8:4"
        h.assert_nothing_is_left()


async def test_a_caller_with_a_short_queue_pulls_a_shared_entry_forward() -> None:
    async with house(batch_tokens=8, padding_tokens=0) as h:
        plugs = await h.occupy()
        flood = await h.queue(*(f"8:{number}" for number in range(5)), caller="flood")
        light = await h.queue("8:4", caller="light")
        h.model.open()
        await gathered(*plugs, flood, light)
        assert h.model.computed.index("8:4") <= 2


# Cancelling and deadlines


async def test_what_a_caller_gave_up_does_not_count_against_it() -> None:
    async with house(batch_tokens=8, padding_tokens=0) as h:
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


async def test_what_everybody_gave_up_is_never_computed() -> None:
    async with house() as h:
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
async def test_who_gives_up_does_not_take_the_computation_from_others(running: bool) -> None:
    async with house() as h:
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


async def test_what_expired_while_the_event_loop_was_late_is_not_computed() -> None:
    async with house() as h:
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
    async with house() as h:
        plugs = await h.occupy()
        with pytest.raises(DeadlineExceeded):
            await h.submit("5:late", deadline=0.001)
        assert h.record.depth[INTERACTIVE] == (0, 0)
        h.model.open()
        await gathered(*plugs)
        assert "5:late" not in h.model.computed


async def test_a_deadline_that_has_passed_is_not_queued() -> None:
    async with house() as h:
        with pytest.raises(DeadlineExceeded):
            await h.submit("5:late", deadline=0.0)
        assert h.model.batches == []


# Admission


async def test_nothing_is_refused_for_its_deadline_before_a_rate_was_measured() -> None:
    async with house() as h:
        plugs = await h.occupy()
        tasks = [await h.queue(f"100:{number}", deadline=50.0) for number in range(100)]
        h.model.open()
        assert all(isinstance(outcome, list) for outcome in await gathered(*plugs, *tasks))


async def test_what_cannot_be_done_in_time_is_refused_whole() -> None:
    async with house(rate=100.0) as h:
        plugs = await h.occupy()
        waiting = await h.queue("50:a", deadline=60.0)
        with pytest.raises(ResourceExhausted) as refusal:
            await h.submit("1:b", "60:c", deadline=1.0)
        assert refusal.value.retry_after == pytest.approx(1.12)  # the plug, what waits and itself
        assert h.record.depth[INTERACTIVE] == (1, 50)
        assert h.record.counts[INTERACTIVE, "late"] == 1
        assert (await gathered(await h.queue("50:a", deadline=0.01)))[0].reason == "DEADLINE_EXCEEDED"
        h.model.open()
        await gathered(*plugs, waiting)
        assert h.model.computed[1:] == ["50:a"]


async def test_the_other_lane_counts_for_its_share_of_the_wait() -> None:
    async with house(rate=100.0, bulk_share=0.5) as h:
        plugs = await h.occupy()
        job = await h.queue(*(f"50:{number}" for number in range(20)), lane=BULK)
        with pytest.raises(ResourceExhausted):
            await h.submit("50:person", deadline=1.0)
        person = await h.queue("50:person", deadline=1.02)
        h.model.open()
        assert await gathered(*plugs, job, person)


async def test_a_caller_that_floods_does_not_get_others_refused() -> None:
    async with house(rate=100.0, queued_tokens=4000) as h:
        plugs = await h.occupy()
        flood = await h.queue(*(f"10:{number}" for number in range(200)), caller="flood")
        with pytest.raises(ResourceExhausted) as refusal:
            await h.submit("10:more", caller="flood")
        assert refusal.value.reason == "QUEUE_FULL"
        assert refusal.value.retry_after == pytest.approx(20.11)
        light = await h.queue("10:light", caller="light", deadline=0.5)
        h.model.open()
        assert (await gathered(*plugs, flood, light))[-1] == ["10:LIGHT"]


async def test_what_is_pulled_into_a_lane_needs_room_there() -> None:
    async with house(queued_tokens=100) as h:
        plugs = await h.occupy()
        job = await h.queue("50:a", lane=BULK)
        person = await h.queue("60:b", caller="bob")
        with pytest.raises(ResourceExhausted):
            await h.submit("50:a", caller="ann")
        h.model.open()
        await gathered(*plugs, job, person)


async def test_a_call_that_never_fits_is_told_to_split_not_to_retry() -> None:
    async with house(queued_tokens=100) as h:
        with pytest.raises(ResourceExhausted) as refusal:
            await h.submit("60:a", "60:b")
        assert (refusal.value.reason, refusal.value.retry_after) == ("TOO_LARGE", None)
        h.model.open()
        assert await h.submit("60:a", "60:a") == ["60:A"] * 2


async def test_a_rate_measured_during_a_stall_recovers() -> None:
    async with house() as h:
        await h.measure(seconds_per_token=10.0)
        h.model.seconds_per_token = 0.001
        h.model.open()
        assert await h.submit("400:a", deadline=h.model.clock.now + 60) == ["400:A"]


# Faults


async def test_only_the_rows_that_cannot_be_computed_fail_their_calls() -> None:
    async with house() as h:
        h.model.poison = {"5:secret"}
        plugs = await h.occupy()
        good = [await h.queue(f"5:{number}") for number in range(6)]
        bad = await h.queue("5:0", "5:secret", "5:1")
        h.model.open()
        *answers, error = await gathered(*plugs, *good, bad)
        assert answers[1:] == [[f"5:{number}"] for number in range(6)]
        assert isinstance(error, Internal)
        assert (error.reason, error.metadata) == ("ROW_FAILED", {"index": "1"})
        assert isinstance(error.__cause__, ValueError)
        assert "secret" not in error.message
        h.assert_nothing_is_left()


async def test_a_call_that_failed_leaves_nothing_behind_in_the_queue() -> None:
    async with house(batch_tokens=5, padding_tokens=0) as h:
        h.model.poison = {"5:bad"}
        plugs = await h.occupy()
        task = await h.queue("5:bad", "5:b", "5:c")
        h.model.open()
        assert isinstance((await gathered(*plugs, task))[-1], Internal)
        assert h.record.counts[INTERACTIVE, "failed"] == 2
        h.assert_nothing_is_left()


async def test_a_result_missing_is_a_failure_and_never_another_rows_result() -> None:
    async with house() as h:
        h.model.forgetful = True
        h.model.open()
        with pytest.raises(Internal):
            await h.submit("5:a", "5:b")
        assert h.scheduler.ready


@pytest.mark.parametrize("error", [SystemExit(1), MemoryError(), KeyboardInterrupt()])
async def test_a_dead_worker_fails_all_who_wait_and_takes_readiness_with_it(error: BaseException) -> None:
    async with house(workers=2) as h:
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
    async with house() as h:
        assert h.scheduler.ready
        unstarted = Scheduler(h.model, SchedulerLimits(), h.record, on_death=print)
        assert not unstarted.ready
        with pytest.raises(Unavailable):
            await unstarted.submit([Work("a", "1:a", 1)], lane=BULK, caller="ann")
    assert not h.scheduler.ready
    with pytest.raises(Unavailable):
        await h.submit("5:a")


async def test_what_waits_at_the_end_is_still_computed() -> None:
    async with house() as h:
        tasks = [*await h.occupy(), await h.queue("5:a", lane=BULK)]
    assert (await gathered(*tasks))[-1] == ["5:A"]


async def test_what_does_not_end_in_time_fails() -> None:
    model = Model()
    async with Scheduler(model, SchedulerLimits(drain_seconds=0.01), SchedulerObserver(), on_death=print) as scheduler:
        works = [Work(name, f"1:{name}", 1) for name in "ab"]
        task = asyncio.create_task(scheduler.submit(works, lane=BULK, caller="ann"))
        await asyncio.to_thread(model.wait_for_batches, 1)
    assert isinstance((await gathered(task))[0], Unavailable)
    model.open()


# Properties

CALLERS = st.sampled_from(["ann", "bob", "cy"])
NAMES = st.integers(0, 40)
LENGTHS = [1 + 7 * number % 60 for number in range(41)]
TEXTS = NAMES.map(lambda number: text(LENGTHS[number], number))


@dataclass(frozen=True)
class Call:
    texts: list[str]
    lane: Lane
    caller: str
    given_up: bool
    late: bool


CALLS = st.lists(
    st.builds(
        Call,
        texts=st.lists(TEXTS, min_size=1, max_size=8),
        lane=st.sampled_from(Lane),
        caller=CALLERS,
        given_up=st.booleans(),
        late=st.booleans(),
    ),
    max_size=12,
)
LIMITS = st.fixed_dictionaries(
    {
        "batch_tokens": st.integers(1, 200),
        "padding_tokens": st.integers(0, 40),
        "run_ahead_tokens": st.integers(0, 300),
        "queued_tokens": st.sampled_from([150, 10_000]),
        "cache_entries": st.sampled_from([0, 3, 1000]),
        "workers": st.sampled_from([1, 3]),
        "express": st.booleans(),
    }
)
threaded = settings(max_examples=80, deadline=None)


@threaded
@given(calls=CALLS, limits=LIMITS, poison=st.sets(TEXTS, max_size=2))
def test_every_call_gets_its_own_answer_or_its_own_error(calls: list[Call], limits: Any, poison: set[str]) -> None:
    async def scenario() -> None:
        async with house(**limits) as h:
            h.model.poison = poison
            plugs = await h.occupy(limits["workers"])
            tasks = [
                await h.queue(*call.texts, lane=call.lane, caller=call.caller, deadline=1.0 if call.late else None)
                for call in calls
            ]
            refused = {task for task in tasks if task.done()}
            for call, task in zip(calls, tasks, strict=True):
                if call.given_up:
                    task.cancel()
            await asyncio.sleep(0)
            h.model.clock.now = 1.0
            h.model.open()
            outcomes = await gathered(*tasks)
            await gathered(*plugs)

            wanted: set[str] = set()
            for call, task, outcome in zip(calls, tasks, outcomes, strict=True):
                if task in refused:
                    assert isinstance(outcome, ResourceExhausted)
                elif call.given_up:
                    assert isinstance(outcome, asyncio.CancelledError)
                elif not (call.late and isinstance(outcome, DeadlineExceeded)):
                    # Late calls may still be answered, by what is computed for others.
                    wanted.update([] if call.late else call.texts)
                    if culprits := poison.intersection(call.texts):
                        assert isinstance(outcome, Internal)
                        assert call.texts[int(outcome.metadata["index"])] in culprits
                    else:
                        assert outcome == [content.upper() for content in call.texts]
            computed = h.model.computed[limits["workers"] :]
            assert wanted.issuperset(computed)
            if not poison:
                assert sorted(wanted) == sorted(computed)  # each exactly once
            assert max(h.record.most_tokens.values(), default=0) <= limits["queued_tokens"]
            for batch in h.model.batches:
                lengths = [length_of(content) for content in batch]
                padded = len(lengths) * max(lengths)
                assert len(lengths) == 1 or padded <= limits["batch_tokens"]
                assert padded - sum(lengths) <= limits["padding_tokens"]
            h.assert_nothing_is_left()

    asyncio.run(scenario())


@threaded
@given(rows=st.integers(1, 40), poison=st.sets(st.integers(0, 39)))
def test_bisection_fails_exactly_the_culprits(rows: int, poison: set[int]) -> None:
    async def scenario() -> None:
        async with house() as h:
            h.model.poison = {text(3, number) for number in poison}
            plugs = await h.occupy()
            tasks = [await h.queue(text(3, number)) for number in range(rows)]
            h.model.open()
            outcomes = await gathered(*tasks)
            failed = {number for number, outcome in enumerate(outcomes) if isinstance(outcome, Internal)}
            assert failed == poison.intersection(range(rows))
            await gathered(*plugs)
            h.assert_nothing_is_left()

    asyncio.run(scenario())


LONG_QUEUES = st.lists(st.integers(1, 60), min_size=60, max_size=120)


@threaded
@given(queues=st.lists(LONG_QUEUES, min_size=2, max_size=4), run_ahead=st.sampled_from([0, 100, 400]))
def test_callers_that_both_have_work_waiting_get_the_same_number_of_tokens(
    queues: list[list[int]], run_ahead: int
) -> None:
    async def scenario() -> None:
        async with house(batch_tokens=120, run_ahead_tokens=run_ahead) as h:
            plugs = await h.occupy()
            tasks = [
                await h.queue(*(text(length, f"{caller} {i}") for i, length in enumerate(lengths)), caller=str(caller))
                for caller, lengths in enumerate(queues)
            ]
            h.model.open()
            await gathered(*plugs, *tasks)
            got = Counter({str(caller): 0 for caller in range(len(queues))})
            left = Counter({str(caller): len(lengths) for caller, lengths in enumerate(queues)})
            for batch in h.model.batches[1:]:
                if min(left.values()) == 0:
                    break
                assert max(got.values()) - min(got.values()) <= run_ahead + 60
                for content in batch:
                    caller = content.split(":")[1].split()[0]
                    got[caller] += length_of(content)
                    left[caller] -= 1

    asyncio.run(scenario())


@threaded
@given(
    people=LONG_QUEUES, job=LONG_QUEUES, share=st.sampled_from([0.1, 0.2, 0.5]), rate=st.sampled_from([None, 4000.0])
)
def test_lanes_that_both_have_work_waiting_get_their_shares(
    people: list[int], job: list[int], share: float, rate: float | None
) -> None:
    async def scenario() -> None:
        async with house(batch_tokens=200, bulk_share=share, rate=rate) as h:
            h.model.seconds_per_token = 1 / 4000
            plugs = await h.occupy()
            tasks = [
                await h.queue(*(text(length, f"job {i}") for i, length in enumerate(job)), lane=BULK),
                await h.queue(*(text(length, f"person {i}") for i, length in enumerate(people))),
            ]
            h.model.open()
            await gathered(*plugs, *tasks)
            left = {INTERACTIVE: len(people), BULK: len(job)}
            used = {INTERACTIVE: 0.0, BULK: 0.0}
            shares = {INTERACTIVE: 1 - share, BULK: share}
            for report in h.record.reports[1:]:
                if min(left.values()) == 0:
                    break
                # One batch of either lane is as far as they can drift apart; the plug had one token of the first.
                assert abs(used[INTERACTIVE] - used[BULK]) <= 200 / min(shares.values()) + 2
                used[report.lane] += report.padded_tokens / shares[report.lane]
                left[report.lane] -= report.rows

    asyncio.run(scenario())


@threaded
@given(
    flood=st.lists(st.integers(1, 40), min_size=50, max_size=100),
    lights=st.lists(st.integers(1, 20), min_size=1, max_size=5),
)
def test_ever_new_callers_do_not_starve_one_that_waits(flood: list[int], lights: list[int]) -> None:
    """A flood of callers that are each seen for the first time: whoever waits moves forward all the same."""

    async def scenario() -> None:
        async with house(batch_tokens=1, padding_tokens=0) as h:
            await h.occupy()
            patient = await h.queue(
                *(text(length, f"patient {i}") for i, length in enumerate(lights)), caller="patient"
            )
            newcomers = iter(enumerate(itertools.islice(itertools.cycle(flood), 1000)))
            loop = asyncio.get_running_loop()
            arrived: list[asyncio.Task[list[str]]] = []

            async def arrive() -> None:
                number, length = next(newcomers)
                arrived.append(await h.queue(text(length, f"new {number}"), caller=f"new {number}"))

            def let_one_arrive() -> None:
                if not patient.done():
                    asyncio.run_coroutine_threadsafe(arrive(), loop).result(PATIENCE)

            h.model.before = let_one_arrive
            for _ in range(3):
                await arrive()
            h.model.open()
            assert len((await gathered(patient))[0]) == len(lights)
            await gathered(*arrived)
            h.assert_nothing_is_left()

    asyncio.run(scenario())


async def test_what_submit_would_refuse_is_foreseen_before_anything_is_made() -> None:
    async with house(rate=100.0, queued_tokens=4000) as h:
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


async def test_who_comes_while_others_still_make_theirs_finds_no_room_until_they_enter_or_leave() -> None:
    async with house(queued_tokens=1000) as h:
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
