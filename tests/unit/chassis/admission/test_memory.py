from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.admission import memory
from services.chassis.admission.memory import COPIES, MessageBudget
from services.chassis.errors import ResourceExhausted, StartupError

MIB = 2**20
GATEWAY = 440 * MIB
"""Free at the start of a gateway at its shipped limit."""


def budget() -> MessageBudget:
    """The budget of a gateway at its shipped limit, with messages of 16 MiB."""
    return MessageBudget(GATEWAY, 16 * MIB)


def test_the_largest_message_is_taken_when_no_other_is_there() -> None:
    with budget().reserved(16 * MIB):
        pass


def test_large_messages_are_refused_by_a_named_reason_and_small_ones_are_not() -> None:
    shared = budget()
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(shared.reserved(10 * MIB))
        with pytest.raises(ResourceExhausted) as refused, shared.reserved(10 * MIB):
            pass
        for _ in range(200):
            stack.enter_context(shared.reserved(4096))
    assert refused.value.reason == "MEMORY_BUDGET"
    assert refused.value.retry_after is not None


@given(st.lists(st.tuples(st.integers(0, 16 * MIB), st.integers(0, 20)), max_size=80))
def test_whatever_comes_the_sum_fits_into_the_memory_and_all_of_it_comes_back(sizes: list[tuple[int, int]]) -> None:
    shared = budget()
    held: list[tuple[int, contextlib.ExitStack]] = []
    for size, leaves in sizes:
        stack = contextlib.ExitStack()
        with contextlib.suppress(ResourceExhausted):
            stack.enter_context(shared.reserved(size))
            held.append((size, stack))
        assert sum(size for size, _ in held) * COPIES < GATEWAY * 0.6
        if held and leaves:
            held.pop(leaves % len(held))[1].close()
    for _, stack in held:
        stack.close()
    with shared.reserved(16 * MIB):
        pass


def test_a_limit_under_which_the_largest_message_could_not_be_served_is_a_start_up_error() -> None:
    with pytest.raises(StartupError, match="MAX_MESSAGE_MIB"):
        MessageBudget.of_process(256, 256)


class Sender:
    """A message that is there when the test says so."""

    def __init__(self, shared: MessageBudget, peer: str = "a") -> None:
        self.began = False
        self.arrived = asyncio.Event()
        self.task = asyncio.create_task(shared.receive(self._read, peer))

    async def _read(self) -> bytes:
        self.began = True
        await self.arrived.wait()
        return b"message"


async def settle() -> None:
    """Let every task run as far as it gets."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_more_messages_are_read_at_once_than_memory_holds_of_the_largest() -> None:
    shared = budget()
    senders = [Sender(shared) for _ in range(64)]
    await settle()
    reading = [sender for sender in senders if sender.began]
    assert len(reading) * 16 * MIB <= GATEWAY * 0.2
    for sender in senders:
        sender.arrived.set()
    assert await asyncio.gather(*(sender.task for sender in senders)) == [b"message"] * 64


async def test_a_message_that_does_not_come_gives_its_place_up_to_those_that_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "PATIENCE_SECONDS", 0.05)
    shared = budget()
    slow = [Sender(shared) for _ in range(5)]
    await asyncio.sleep(0.1)
    assert not any(sender.task.done() for sender in slow)  # no one else wants to read
    quick = Sender(shared, "b")
    quick.arrived.set()
    assert await asyncio.wait_for(quick.task, 5) == b"message"
    with pytest.raises(ResourceExhausted) as refused:
        await slow[0].task
    assert refused.value.reason == "SLOW_MESSAGE"
    for sender in slow:
        sender.arrived.set()
    await asyncio.gather(*(sender.task for sender in slow), return_exceptions=True)


async def test_a_connection_with_many_slow_messages_does_not_keep_another_one_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "PATIENCE_SECONDS", 0.05)
    shared = budget()
    slow = [Sender(shared, "attacker") for _ in range(100)]
    await settle()
    quick = Sender(shared, "customer")
    quick.arrived.set()
    assert await asyncio.wait_for(quick.task, 5) == b"message"
    assert sum(sender.task.done() for sender in slow) <= 6  # one round, although 95 of them waited longer
    for sender in slow:
        sender.task.cancel()
    await asyncio.gather(*(sender.task for sender in slow), return_exceptions=True)


async def test_callers_that_leave_while_they_wait_or_read_leave_no_place_taken() -> None:
    shared = budget()
    senders = [Sender(shared) for _ in range(30)]
    await settle()
    for sender in senders[::2]:
        sender.task.cancel()
    await settle()
    for sender in senders[1::4]:
        sender.arrived.set()
        await asyncio.sleep(0)
    for sender in senders:
        sender.task.cancel()
    await asyncio.gather(*(sender.task for sender in senders), return_exceptions=True)
    again = [Sender(shared) for _ in range(5)]
    await settle()
    assert all(sender.began for sender in again)
    for sender in again:
        sender.arrived.set()
    await asyncio.gather(*(sender.task for sender in again))
