import asyncio

import pytest

from services.chassis.breaker import Breaker
from services.chassis.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    SluiceError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

FAILURES = [Unavailable("down"), DeadlineExceeded("slow"), Internal("bug")]
NOT_ITS_FAULT = [
    InvalidArgument("query", "empty"),
    NotFound("no such collection"),
    FailedPrecondition("another model"),
    ResourceExhausted("shed"),
    Unauthenticated("no certificate"),
    PermissionDenied("not allowed"),
    Unimplemented("an old release"),
]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def transitions() -> list[tuple[str, str, str]]:
    return []


@pytest.fixture
def breaker(clock, transitions) -> Breaker:
    return Breaker("qdrant", clock=clock, on_transition=lambda *change: transitions.append(change))


async def attempt(breaker: Breaker, error: BaseException | None = None) -> None:
    with breaker.attempt():
        await asyncio.sleep(0)
        if error is not None:
            raise error


async def fail(breaker: Breaker, times: int, error: SluiceError = FAILURES[0]) -> None:
    for _ in range(times):
        with pytest.raises(type(error)):
            await attempt(breaker, error)


async def half_open(breaker: Breaker, clock: Clock) -> None:
    await fail(breaker, 5)
    clock.now += 60


async def assert_refused(breaker: Breaker) -> Unavailable:
    with pytest.raises(Unavailable) as refusal:
        await attempt(breaker)
    assert refusal.value.reason == "BREAKER_OPEN"
    return refusal.value


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
async def test_five_failures_in_a_row_open_it(breaker, error):
    await fail(breaker, 4, error)
    assert breaker.state == "closed"
    await fail(breaker, 1, error)
    assert breaker.state == "open"


async def test_the_failure_that_opens_it_reaches_its_caller_unchanged(breaker):
    await fail(breaker, 4)
    error = Unavailable("connection refused")
    with pytest.raises(Unavailable) as seen:
        await attempt(breaker, error)
    assert seen.value is error


async def test_a_success_between_failures_resets_the_count(breaker):
    await fail(breaker, 4)
    await attempt(breaker)
    await fail(breaker, 4)
    assert breaker.state == "closed"


@pytest.mark.parametrize("error", NOT_ITS_FAULT, ids=lambda error: type(error).__name__)
async def test_a_client_fault_is_neither_failure_nor_success(breaker, error):
    await fail(breaker, 4)
    await fail(breaker, 10, error)
    assert breaker.state == "closed"
    await fail(breaker, 1)
    assert breaker.state == "open"


async def test_a_cancellation_is_neither_failure_nor_success(breaker):
    await fail(breaker, 4)
    for _ in range(10):
        with pytest.raises(asyncio.CancelledError):
            await attempt(breaker, asyncio.CancelledError())
    assert breaker.state == "closed"
    await fail(breaker, 1)
    assert breaker.state == "open"


async def test_a_deadline_missed_by_a_caller_in_a_hurry_is_neither_failure_nor_success(breaker):
    await fail(breaker, 4)
    for _ in range(10):
        with pytest.raises(DeadlineExceeded), breaker.attempt(given_seconds=0.1):
            raise DeadlineExceeded("in a hurry")
    assert breaker.state == "closed"
    await fail(breaker, 1)
    assert breaker.state == "open"


async def test_an_open_breaker_refuses_without_running_the_operation(breaker):
    await fail(breaker, 5)
    refusal = await assert_refused(breaker)
    assert refusal.metadata == {"dependency": "qdrant"}
    assert "60.0 s" in refusal.message
    with pytest.raises(Unavailable):
        breaker.check()


async def test_a_refusal_does_not_keep_it_open_longer(breaker, clock):
    await fail(breaker, 5)
    clock.now += 59
    await assert_refused(breaker)
    clock.now += 1
    await attempt(breaker)
    assert breaker.state == "closed"


async def test_a_probe_that_fails_opens_it_for_another_full_period(breaker, clock):
    await half_open(breaker, clock)
    await fail(breaker, 1)
    assert breaker.state == "open"
    clock.now += 59
    await assert_refused(breaker)


async def test_of_twenty_waiting_callers_exactly_one_probes(breaker, clock):
    await half_open(breaker, clock)
    answer = asyncio.Event()
    entered = 0

    async def call() -> None:
        nonlocal entered
        with breaker.attempt():
            entered += 1
            await answer.wait()

    callers = [asyncio.create_task(call()) for _ in range(20)]
    done, pending = await asyncio.wait(callers, timeout=10, return_when=asyncio.FIRST_EXCEPTION)
    while len(pending) > 1:
        more, pending = await asyncio.wait(pending, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        done |= more

    assert entered == 1
    assert [type(task.exception()) for task in done] == [Unavailable] * 19
    answer.set()
    await asyncio.gather(*pending)
    assert breaker.state == "closed"
    await asyncio.gather(*(attempt(breaker) for _ in range(20)))


async def test_a_cancelled_probe_frees_the_slot_and_leaves_the_state(breaker, clock):
    await half_open(breaker, clock)

    async def probe() -> None:
        with breaker.attempt():
            await asyncio.Event().wait()

    task = asyncio.create_task(probe())
    await asyncio.sleep(0)
    await assert_refused(breaker)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert breaker.state == "half-open"
    breaker.check()
    await attempt(breaker)
    assert breaker.state == "closed"


async def test_a_probe_with_a_client_fault_leaves_the_question_to_the_next_caller(breaker, clock):
    await half_open(breaker, clock)
    await fail(breaker, 1, NOT_ITS_FAULT[0])
    assert breaker.state == "half-open"
    await fail(breaker, 1)
    assert breaker.state == "open"


@pytest.mark.parametrize("late", [None, Unavailable("late")], ids=["success", "failure"])
async def test_a_call_from_before_it_opened_decides_nothing(breaker, clock, late):
    go = asyncio.Event()

    async def slow() -> None:
        with breaker.attempt():
            await go.wait()
            if late is not None:
                raise late

    stragglers = [asyncio.create_task(slow()) for _ in range(6)]
    await asyncio.sleep(0)
    await half_open(breaker, clock)
    go.set()
    await asyncio.gather(*stragglers, return_exceptions=True)
    assert breaker.state == "open"

    await attempt(breaker)
    assert breaker.state == "closed"


async def test_transitions_are_told_to_the_listener(breaker, clock, transitions):
    await half_open(breaker, clock)
    await attempt(breaker)
    assert transitions == [
        ("qdrant", "closed", "open"),
        ("qdrant", "open", "half-open"),
        ("qdrant", "half-open", "closed"),
    ]


async def test_the_threshold_and_the_time_are_settings(clock):
    breaker = Breaker("reranker", failures=2, reset_seconds=5, clock=clock)
    await fail(breaker, 2)
    clock.now += 5
    await attempt(breaker)
    assert breaker.state == "closed"


class Dependency:
    """Health that the test sets, and the pauses between the questions for it, which pass at once."""

    def __init__(self) -> None:
        self.serves = False
        self.asked = asyncio.Semaphore(0)
        self.pauses: list[float] = []

    async def healthy(self) -> bool:
        return self.serves

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await self.asked.acquire()

    async def ask(self, times: int = 1) -> None:
        """Let the breaker ask so often."""
        for _ in range(times):
            self.asked.release()
            for _ in range(5):
                await asyncio.sleep(0)


@pytest.fixture
def dependency() -> Dependency:
    return Dependency()


@pytest.fixture
async def asking(clock, transitions, dependency):
    breaker = Breaker(
        "qdrant",
        clock=clock,
        healthy=dependency.healthy,
        sleep=dependency.sleep,
        on_transition=lambda *change: transitions.append(change),
    )
    yield breaker
    breaker.close()


async def test_it_is_half_open_as_soon_as_the_dependency_is_healthy(asking, dependency):
    await fail(asking, 5)
    await dependency.ask(3)
    await assert_refused(asking)
    dependency.serves = True
    await dependency.ask()
    assert asking.state == "half-open"
    await attempt(asking)
    assert asking.state == "closed"


async def test_callers_are_not_sent_away_for_a_minute_while_it_asks_for_health(asking):
    await fail(asking, 5)
    refusal = await assert_refused(asking)
    assert refusal.retry_after <= 2


async def test_a_dependency_that_is_healthy_and_fails_all_the_same_is_left_alone_for_longer_and_longer(
    asking, dependency
):
    dependency.serves = True
    await fail(asking, 5)
    for _ in range(12):
        await dependency.ask()
        await fail(asking, 1)
    await asyncio.sleep(0)
    assert dependency.pauses == [min(60, 0.25 * 2**number) for number in range(13)]
    dependency.serves = False
    await dependency.ask(2)
    assert dependency.pauses[-1] == 0.25
    dependency.serves = True
    await dependency.ask()
    await attempt(asking)
    await fail(asking, 5)
    assert dependency.pauses[-1] == 0.25


async def test_a_dependency_whose_health_stays_silent_is_probed_after_the_open_time(asking, clock):
    await fail(asking, 5)
    clock.now += 60
    await attempt(asking)
    assert asking.state == "closed"


@pytest.mark.parametrize("kind", [Unavailable, DeadlineExceeded, Internal])
async def test_an_error_from_further_down_is_neither_failure_nor_success(breaker, kind):
    await fail(breaker, 4)
    await fail(breaker, 10, kind("Qdrant is down", dependency="Qdrant on another host"))
    assert breaker.state == "closed"
    await fail(breaker, 1, kind("down", dependency=breaker.name))
    assert breaker.state == "open"


async def test_an_open_breaker_further_down_opens_no_other(clock):
    near, far = Breaker("Qdrant", clock=clock), Breaker("retriever", clock=clock)
    await fail(near, 5)
    for _ in range(20):
        with pytest.raises(Unavailable), far.attempt(), near.attempt():
            pass
    assert (near.state, far.state) == ("open", "closed")


async def test_a_stage_that_says_itself_that_it_does_not_serve_needs_no_breaker(breaker):
    await fail(breaker, 10, Unavailable("all replicas are unhealthy", reason="NOT_SERVING"))
    assert breaker.state == "closed"
