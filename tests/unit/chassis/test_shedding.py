from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import ResourceExhausted
from services.chassis.shedding import ConcurrencyLimit, LimitBounds

BOUNDS = LimitBounds(initial=16, lowest=4, highest=64)


class World:
    """A limit, and a clock that the test moves."""

    def __init__(self, bounds: LimitBounds = BOUNDS) -> None:
        self.now = 0.0
        self.seen: list[float] = []
        self.limit = ConcurrencyLimit(bounds, self.seen.append, clock=lambda: self.now)

    def calls(self, together: int, seconds: float, times: int = 1, *, bulk: bool = False) -> int:
        """Rounds of calls that run at the same time; how many were refused."""
        refused = 0
        for _ in range(times):
            with contextlib.ExitStack() as stack:
                for _ in range(together):
                    try:
                        stack.enter_context(self.limit.admitted(bulk=bulk))
                    except ResourceExhausted:
                        refused += 1
                self.now += seconds
        return refused


def test_calls_over_the_limit_are_refused_with_a_time_to_come_back() -> None:
    world = World()
    with contextlib.ExitStack() as stack:
        for _ in range(world.limit.limit):
            stack.enter_context(world.limit.admitted(bulk=False))
        with pytest.raises(ResourceExhausted) as caught, world.limit.admitted(bulk=False):
            pass
        assert caught.value.reason == "OVERLOADED"
        assert caught.value.retry_after is not None
    with world.limit.admitted(bulk=False):
        pass


def test_the_limit_grows_while_full_use_stays_quick() -> None:
    world = World()
    world.calls(together=64, seconds=0.01, times=50)
    assert world.limit.limit == BOUNDS.highest


def test_the_limit_shrinks_when_calls_begin_to_queue() -> None:
    world = World()
    world.calls(together=8, seconds=0.01, times=50)
    world.calls(together=16, seconds=0.2, times=10)
    assert world.limit.limit < BOUNDS.initial


def test_the_limit_recovers_after_a_slow_spell() -> None:
    world = World()
    world.calls(together=16, seconds=0.01, times=20)
    world.calls(together=16, seconds=1.0, times=20)
    low = world.limit.limit
    world.calls(together=64, seconds=0.01, times=100)
    assert world.limit.limit > low


def test_a_limit_that_is_hardly_used_stays_as_it_is() -> None:
    world = World()
    world.calls(together=1, seconds=0.01, times=1000)
    assert world.limit.limit == BOUNDS.initial


def test_bulk_calls_leave_room_for_interactive_ones() -> None:
    world = World()
    with contextlib.ExitStack() as stack:
        admitted = 0
        with contextlib.suppress(ResourceExhausted):
            while True:
                stack.enter_context(world.limit.admitted(bulk=True))
                admitted += 1
        assert admitted == BOUNDS.initial // 2
        stack.enter_context(world.limit.admitted(bulk=False))


def test_calls_that_fail_teach_nothing_and_free_their_place() -> None:
    world = World()
    for _ in range(1000):
        with contextlib.suppress(RuntimeError), world.limit.admitted(bulk=False):
            raise RuntimeError
    assert world.limit.limit == BOUNDS.initial
    assert world.calls(together=BOUNDS.initial, seconds=0.01) == 0


@given(st.lists(st.tuples(st.integers(1, 100), st.floats(0, 10), st.booleans()), max_size=60))
def test_the_limit_stays_in_its_bounds_and_no_place_is_lost(rounds: list[tuple[int, float, bool]]) -> None:
    world = World()
    for together, seconds, bulk in rounds:
        world.calls(together, seconds, bulk=bulk)
        assert BOUNDS.lowest <= world.limit.limit <= BOUNDS.highest
    assert world.calls(together=world.limit.limit, seconds=0.0) == 0
    assert all(BOUNDS.lowest <= seen <= BOUNDS.highest for seen in world.seen)
