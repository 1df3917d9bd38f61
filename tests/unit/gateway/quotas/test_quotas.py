from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from pathlib import Path

import pytest

from services.chassis.access.identity import NOBODY, Caller
from services.chassis.errors import ResourceExhausted
from services.gateway.quotas import quotas as module
from services.gateway.quotas.book import Quota, QuotaBook
from services.gateway.quotas.quotas import Quotas
from services.gateway.quotas.rates import Rates
from services.gateway.quotas.spending import spend

A, B = Caller("key:a", tenant="acme"), Caller("key:b", tenant="acme")
MACHINE = "ipv4:10.0.0.7"


@pytest.fixture(autouse=True)
def _no_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_HOLD_SECONDS", 0.0)


def quotas_of(quota: Quota, file: Path | None = None, replicas: int = 1) -> tuple[Quotas, Counter[tuple[str, str]]]:
    refusals: Counter[tuple[str, str]] = Counter()

    def count(limit: str, scope: str) -> None:
        refusals[limit, scope] += 1

    return Quotas(QuotaBook(quota, file), Rates(), replicas=replicas, on_refusal=count), refusals


async def calls(quotas: Quotas, number: int, caller: Caller = A) -> int:
    """Make calls one after the other; how many were served."""
    served = 0
    for _ in range(number):
        with contextlib.suppress(ResourceExhausted):
            async with quotas.admitted(caller, MACHINE, None):
                served += 1
    return served


async def test_a_caller_over_its_rate_is_refused_with_a_time_to_come_back_and_others_are_not() -> None:
    quotas, refusals = quotas_of(Quota(calls_per_second=0.01, burst=5))
    assert await calls(quotas, 20) == 5
    with pytest.raises(ResourceExhausted) as caught:
        async with quotas.admitted(A, MACHINE, None):
            pass
    assert caught.value.reason == "QUOTA_EXCEEDED"
    assert caught.value.metadata == {"quota": "calls_per_second", "scope": "caller"}
    assert caught.value.retry_after
    assert refusals == {("calls_per_second", "caller"): 16}
    assert await calls(quotas, 5, B) == 5


async def test_a_caller_has_so_many_calls_at_once_and_a_place_is_free_when_one_ends() -> None:
    quotas, refusals = quotas_of(Quota(concurrent_calls=2))
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(quotas.admitted(A, MACHINE, None))
        assert await calls(quotas, 3) == 0
        assert await calls(quotas, 3, B) == 3
    assert await calls(quotas, 3) == 3
    assert refusals == {("concurrent_calls", "caller"): 3}


async def test_the_bytes_of_requests_under_way_are_bounded_but_for_a_request_alone() -> None:
    quotas, _ = quotas_of(Quota(bytes_in_flight=100))
    async with quotas.admitted(A, MACHINE, None) as first, quotas.admitted(A, MACHINE, None) as second:
        with first.holding(150), pytest.raises(ResourceExhausted, match="bytes_in_flight"), second.holding(1):
            pass
        with first.holding(60), second.holding(40):
            pass


async def test_tokens_are_charged_after_a_call_by_all_the_tasks_that_it_started() -> None:
    quotas, refusals = quotas_of(Quota(tokens_per_second=10))

    async def stage() -> None:
        spend(60)

    async with quotas.admitted(A, MACHINE, None):
        await asyncio.gather(stage(), stage())
    assert await calls(quotas, 2) == 0
    assert await calls(quotas, 2, B) == 2
    assert refusals == {("tokens_per_second", "caller"): 2}


async def test_a_call_that_fails_is_charged_and_gives_its_place_back() -> None:
    quotas, _ = quotas_of(Quota(tokens_per_second=10, concurrent_calls=1))
    with pytest.raises(RuntimeError):
        async with quotas.admitted(A, MACHINE, None):
            spend(100)
            raise RuntimeError
    assert await calls(quotas, 1, B) == 1
    with pytest.raises(ResourceExhausted, match="tokens_per_second"):
        async with quotas.admitted(A, MACHINE, None):
            pass


async def test_the_callers_of_a_tenant_share_its_quota(tmp_path: Path) -> None:
    file = tmp_path / "quotas.yaml"
    file.write_text("tenants: {acme: {calls_per_second: 0.01, burst: 4}}", encoding="utf-8")
    quotas, refusals = quotas_of(Quota(calls_per_second=0.01, burst=3), file)
    assert await calls(quotas, 3) == 3
    assert await calls(quotas, 3, B) == 1
    assert refusals == {("calls_per_second", "tenant"): 2}


async def test_where_access_control_is_off_a_machine_is_a_caller(tmp_path: Path) -> None:
    file = tmp_path / "quotas.yaml"
    file.write_text("anonymous: {calls_per_second: 0.01, burst: 2}", encoding="utf-8")
    quotas, _ = quotas_of(Quota(), file)
    assert await calls(quotas, 5, NOBODY) == 2
    async with quotas.admitted(NOBODY, "ipv4:10.0.0.8", None):
        pass


async def test_each_of_several_replicas_has_its_share() -> None:
    quotas, _ = quotas_of(Quota(calls_per_second=0.02, burst=6, concurrent_calls=3), replicas=2)
    assert await calls(quotas, 20) == 3
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(quotas.admitted(B, MACHINE, None))
        with pytest.raises(ResourceExhausted, match="concurrent_calls, 2 here"):
            await stack.enter_async_context(quotas.admitted(B, MACHINE, None))


async def test_a_refusal_waits_for_a_part_of_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_HOLD_SECONDS", 10.0)
    slept: list[float] = []
    plain_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await plain_sleep(0)

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    quotas, _ = quotas_of(Quota(concurrent_calls=1))
    async with quotas.admitted(A, MACHINE, None):
        for left in (None, 0.25):
            with pytest.raises(ResourceExhausted):
                async with quotas.admitted(A, MACHINE, left):
                    pass
    assert slept[0] == 0.5
    assert 0.1 <= slept[1] <= 0.2


async def test_refusals_of_one_caller_are_told_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_HOLD_SECONDS", 10.0)
    slept: list[float] = []
    freed, plain_sleep = asyncio.Event(), asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await freed.wait()

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    quotas, _ = quotas_of(Quota(concurrent_calls=1))
    async with quotas.admitted(A, MACHINE, None):
        refused = asyncio.gather(*(calls(quotas, 1) for _ in range(600)))
        while len(slept) < 600:
            await plain_sleep(0)
        freed.set()
        assert sum(await refused) == 0
    assert slept[0] == slept[20] == 0.5
    assert slept[100] == 2.0
    late = slept[501:]
    assert 5.0 <= min(late) < max(late) <= 10.0
    assert len(set(late)) == len(late)


async def test_new_quotas_hold_for_callers_with_calls_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    file = tmp_path / "quotas.yaml"
    file.write_text("roles: {}", encoding="utf-8")
    quotas, _ = quotas_of(Quota(concurrent_calls=1), file)
    async with quotas.admitted(A, MACHINE, None):
        assert await calls(quotas, 1) == 0
        file.write_text('identities: {"key:a": {concurrent_calls: 2}}', encoding="utf-8")
        watching = asyncio.create_task(quotas.watch())
        async with asyncio.timeout(5):
            while not await calls(quotas, 1):
                await asyncio.sleep(0.01)
        watching.cancel()


async def test_a_clock_that_is_set_back_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = [7200.0]
    plain_time = time.time
    monkeypatch.setattr(time, "time", lambda: plain_time() + ahead[0])
    quotas, _ = quotas_of(Quota(calls_per_second=0.01, burst=3, tokens_per_second=10))
    async with quotas.admitted(A, MACHINE, None):
        spend(100)
    assert await calls(quotas, 1) == 0
    ahead[0] = 0.0
    assert await calls(quotas, 1) == 1
