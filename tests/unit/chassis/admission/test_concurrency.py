from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.chassis.admission.concurrency import ConcurrencyLimit, LimitBounds
from services.chassis.errors import ResourceExhausted

BOUNDS = LimitBounds(initial=16, lowest=4, highest=64, queue=0)


class World:
    """A limit, and a clock that the test moves."""

    def __init__(self, bounds: LimitBounds = BOUNDS) -> None:
        self.now = 0.0
        self.seen: list[float] = []
        self.limit = ConcurrencyLimit(bounds, self.seen.append, clock=lambda: self.now)

    async def calls(self, together: int, seconds: float, times: int = 1, *, bulk: bool = False) -> int:
        """Rounds of calls that run at the same time; how many were refused."""
        refused = 0
        for _ in range(times):
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(together):
                    try:
                        await stack.enter_async_context(self.limit.admitted(bulk=bulk))
                    except ResourceExhausted:
                        refused += 1
                self.now += seconds
        return refused


async def test_calls_over_the_limit_are_refused_with_a_time_to_come_back_if_none_may_wait() -> None:
    world = World()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(world.limit.limit):
            await stack.enter_async_context(world.limit.admitted(bulk=False))
        with pytest.raises(ResourceExhausted) as caught:
            async with world.limit.admitted(bulk=False):
                pass
        assert caught.value.reason == "OVERLOADED"
        assert caught.value.retry_after is not None
    async with world.limit.admitted(bulk=False):
        pass


async def test_the_limit_grows_while_full_use_stays_quick() -> None:
    world = World()
    await world.calls(together=64, seconds=0.01, times=50)
    assert world.limit.limit == BOUNDS.highest


async def test_the_limit_shrinks_when_calls_begin_to_queue() -> None:
    world = World()
    await world.calls(together=8, seconds=0.01, times=50)
    await world.calls(together=16, seconds=0.2, times=10)
    assert world.limit.limit < BOUNDS.initial


async def test_the_limit_recovers_after_a_slow_spell() -> None:
    world = World()
    await world.calls(together=16, seconds=0.01, times=20)
    await world.calls(together=16, seconds=1.0, times=20)
    low = world.limit.limit
    await world.calls(together=64, seconds=0.01, times=100)
    assert world.limit.limit > low


async def test_a_limit_that_is_hardly_used_stays_as_it_is() -> None:
    world = World()
    await world.calls(together=1, seconds=0.01, times=1000)
    assert world.limit.limit == BOUNDS.initial


async def test_bulk_calls_leave_room_for_interactive_ones() -> None:
    world = World()
    async with contextlib.AsyncExitStack() as stack:
        admitted = 0
        with contextlib.suppress(ResourceExhausted):
            while True:
                await stack.enter_async_context(world.limit.admitted(bulk=True))
                admitted += 1
        assert admitted == BOUNDS.initial // 2
        await stack.enter_async_context(world.limit.admitted(bulk=False))


async def test_calls_that_fail_teach_nothing_and_free_their_place() -> None:
    world = World()
    for _ in range(1000):
        with contextlib.suppress(RuntimeError):
            async with world.limit.admitted(bulk=False):
                raise RuntimeError
    assert world.limit.limit == BOUNDS.initial
    assert await world.calls(together=BOUNDS.initial, seconds=0.01) == 0


@given(st.lists(st.tuples(st.integers(1, 100), st.floats(0, 10), st.booleans()), max_size=60))
async def test_the_limit_stays_in_its_bounds_and_no_place_is_lost(rounds: list[tuple[int, float, bool]]) -> None:
    world = World()
    for together, seconds, bulk in rounds:
        await world.calls(together, seconds, bulk=bulk)
        assert BOUNDS.lowest <= world.limit.limit <= BOUNDS.highest
    assert await world.calls(together=world.limit.limit, seconds=0.0) == 0
    assert all(BOUNDS.lowest <= seen <= BOUNDS.highest for seen in world.seen)


QUEUED = LimitBounds(initial=2, lowest=2, highest=2, bulk_share=0.5, queue=8)
PATIENT = 1e6


@dataclass(eq=False)
class Call:
    """A call that the test begins and ends."""

    number: int
    bulk: bool
    caller: str
    deadline: float
    left: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[str] | None = None
    state: str = "waits"


class Queue(World):
    """Calls of a limit whose clock stands still unless it is moved."""

    def __init__(self, bounds: LimitBounds = QUEUED) -> None:
        super().__init__(bounds)
        self.bounds = bounds
        self.served: list[Call] = []
        self.begun: list[Call] = []

    async def begin(self, seconds_left: float | None = PATIENT, *, bulk: bool = False, caller: str = "") -> Call:
        """A call, as far as it gets at once."""
        deadline = self.now + (PATIENT if seconds_left is None else seconds_left)
        call = Call(len(self.begun), bulk, caller, deadline)
        self.begun.append(call)

        async def run() -> str:
            try:
                async with self.limit.admitted(bulk=bulk, seconds_left=seconds_left, caller=caller):
                    call.state = "runs"
                    self.served.append(call)
                    await call.left.wait()
                call.state = "ended"
            except ResourceExhausted:
                call.state = "refused"
            except asyncio.CancelledError:
                call.state = "cancelled"
                raise
            return call.state

        call.task = asyncio.create_task(run())
        await settle()
        return call

    async def end(self, call: Call) -> None:
        """Let a call end."""
        call.left.set()
        await settle()

    def of(self, state: str) -> list[Call]:
        """The calls in one state."""
        return [call for call in self.begun if call.state == state]


async def settle() -> None:
    """Let every task run as far as it gets."""
    for _ in range(12):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def queue(bounds: LimitBounds = QUEUED) -> AsyncIterator[Queue]:
    """A limit; at the end all of its calls are let go, and every place must be free again."""
    world = Queue(bounds)
    yield world
    while unfinished := world.of("runs") + world.of("waits"):
        for call in unfinished:
            await world.end(call)
    await asyncio.gather(*(call.task for call in world.begun if call.task), return_exceptions=True)
    assert (world.limit.occupied, world.limit.waiting) == (0, 0)
    again = [await world.begin() for _ in range(bounds.initial)]
    assert {call.state for call in again} == {"runs"}
    for call in again:
        await world.end(call)


async def test_a_call_over_the_limit_waits_for_a_place() -> None:
    async with queue() as world:
        first, second, third = [await world.begin() for _ in range(3)]
        assert (first.state, second.state, third.state) == ("runs", "runs", "waits")
        await world.end(second)
        assert third.state == "runs"


async def test_the_call_with_the_earliest_deadline_goes_first() -> None:
    async with queue() as world:
        running = [await world.begin() for _ in range(2)]
        waiting = [await world.begin(seconds) for seconds in (900, 100, 500)]
        for call in [*running, *sorted(waiting, key=lambda call: call.deadline)]:
            await world.end(call)
        assert [call.deadline for call in world.served[2:]] == [100, 500, 900]


async def test_interactive_calls_go_before_bulk_calls_that_came_first() -> None:
    async with queue() as world:
        bulk, interactive = await world.begin(bulk=True), await world.begin()
        second_bulk, second = await world.begin(1, bulk=True), await world.begin()
        await world.end(interactive)
        assert (second_bulk.state, second.state) == ("waits", "runs")
        await world.end(bulk)
        assert second_bulk.state == "runs"


async def test_bulk_work_goes_on_however_many_interactive_calls_wait() -> None:
    async with queue() as world:
        running = [await world.begin() for _ in range(2)]
        waiting = [await world.begin() for _ in range(4)]
        bulk = await world.begin(bulk=True)
        await world.end(running[0])
        assert bulk.state == "runs"
        assert {call.state for call in waiting} == {"waits"}


async def test_a_call_is_refused_when_the_queue_is_full() -> None:
    async with queue() as world:
        waiting = [await world.begin() for _ in range(2 + QUEUED.queue)]
        assert (await world.begin()).state == "refused"
        assert (await world.begin(bulk=True)).state == "waits"
        assert len([call for call in waiting if call.state == "waits"]) == QUEUED.queue


async def test_a_call_is_refused_at_once_when_its_turn_would_come_after_its_deadline() -> None:
    async with queue() as world:
        for _ in range(20):
            taught = await world.begin()
            world.now += 1.0
            await world.end(taught)
        _ = [await world.begin() for _ in range(6)]  # two run, four wait: two seconds, and its own one
        assert (await world.begin(2.9)).state == "waits"  # before the others, which have more time
        assert (await world.begin(1.2)).state == "refused"


async def test_a_call_whose_turn_comes_too_late_is_dropped_and_the_next_one_gets_the_place() -> None:
    async with queue() as world:
        for _ in range(20):
            taught = await world.begin()
            world.now += 1.0
            await world.end(taught)
        running = [await world.begin() for _ in range(2)]
        hurried, patient = await world.begin(5), await world.begin()
        world.now += 4.5
        await world.end(running[0])
        assert (hurried.state, patient.state) == ("refused", "runs")


async def test_a_call_that_waits_is_refused_when_its_time_is_over_although_no_place_was_freed() -> None:
    async with queue() as world:
        _ = [await world.begin() for _ in range(2)]
        hurried = await world.begin(0.01)
        assert hurried.task is not None
        assert await asyncio.wait_for(hurried.task, 5) == "refused"


async def test_a_place_that_is_given_to_a_call_that_is_cancelled_at_the_same_moment_is_not_lost() -> None:
    async with queue() as world:
        running = [await world.begin() for _ in range(2)]
        leaves, stays = await world.begin(1), await world.begin(2)
        assert leaves.task is not None
        running[0].left.set()
        await asyncio.sleep(0)  # the place is handed over, and its new holder has not run yet
        leaves.task.cancel()
        await settle()
        assert (leaves.state, stays.state) == ("cancelled", "runs")


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["begin", "begin bulk"]), st.integers(1, 1000)),
        st.tuples(st.sampled_from(["end", "cancel", "end and cancel"]), st.integers(0, 1000)),
    ),
    max_size=60,
)


@given(STEPS, st.integers(1, 4), st.floats(0.1, 1), st.integers(0, 6), st.integers(1, 3))
@settings(deadline=None)
async def test_whatever_comes_and_goes_bounds_hold_order_is_kept_and_no_place_is_lost(
    steps: list[tuple[str, int]], places: int, share: float, longest: int, callers: int
) -> None:
    bounds = dataclasses.replace(QUEUED, initial=places, lowest=places, highest=places, bulk_share=share, queue=longest)
    most_bulk = max(1, int(places * share))
    async with queue(bounds) as world:
        for step, number in steps:
            before = [call for call in world.begun if call.state == "waits"]
            served = len(world.served)
            match step:
                case "begin" | "begin bulk":
                    await world.begin(number * 1000.0, bulk=step == "begin bulk", caller=f"caller {number % callers}")
                case _ if candidates := world.of("runs") + world.of("waits"):
                    call = candidates[number % len(candidates)]
                    if step != "cancel":
                        call.left.set()
                    if step == "end and cancel":
                        await asyncio.sleep(0)
                        call = candidates[(number + 1) % len(candidates)]
                    if step != "end" and call.task is not None:
                        call.task.cancel()
                    await settle()
            runs, waits = world.of("runs"), world.of("waits")
            for call in world.served[served:]:
                if call in before:
                    kind = call.bulk, call.caller
                    rivals = [other for other in waits if (other.bulk, other.caller) == kind and other in before]
                    assert all((call.deadline, call.number) <= (other.deadline, other.number) for other in rivals)
            assert len(runs) <= places
            assert sum(call.bulk for call in runs) <= most_bulk
            assert all(sum(call.bulk == bulk for call in waits) <= longest for bulk in (False, True))
            # No place stays free while a call waits that may have it.
            if len(runs) < places:
                assert not [call for call in waits if not call.bulk]
                assert not waits or sum(call.bulk for call in runs) == most_bulk


async def test_a_hundred_calls_at_once_are_all_served_where_their_deadlines_leave_time() -> None:
    world = World(LimitBounds())
    chance = random.Random(15)

    async def call() -> str:
        try:
            async with world.limit.admitted(bulk=False, seconds_left=10):
                await asyncio.sleep(chance.uniform(0.001, 0.02))
        except ResourceExhausted:
            return "refused"
        return "served"

    assert set(await asyncio.gather(*(call() for _ in range(100)))) == {"served"}


async def test_a_caller_with_many_calls_waits_behind_one_with_few() -> None:
    async with queue() as world:
        many = [await world.begin(1.0, caller="many") for _ in range(6)]
        few = await world.begin(PATIENT, caller="few")
        await world.end(many[0])
        assert few.state == "runs"
        await world.end(few)
        assert [call.state for call in many] == ["ended", "runs", "runs", "waits", "waits", "waits"]


async def test_a_queue_that_is_full_of_one_callers_calls_has_room_for_another() -> None:
    async with queue() as world:
        many = [await world.begin(caller="many") for _ in range(QUEUED.initial + QUEUED.queue)]
        few = await world.begin(caller="few")
        assert (few.state, many[-1].state) == ("waits", "refused")
        assert (await world.begin(caller="many")).state == "refused"
        assert len(world.of("waits")) == QUEUED.queue
