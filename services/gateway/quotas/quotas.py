"""Quotas of callers and of tenants: rate, concurrent calls, bytes in flight, tokens of models.

They are asked before a request is read, so that what is refused costs the least. Refusals wait: a caller that calls
again at once would otherwise keep the gateway busy with refusals alone.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

from services.chassis import logs
from services.chassis.access.identity import Caller
from services.chassis.errors import ResourceExhausted
from services.gateway.quotas import spending
from services.gateway.quotas.book import NO_QUOTA, Quota, QuotaBook

Limit = Literal["calls_per_second", "concurrent_calls", "bytes_in_flight", "tokens_per_second"]
Scope = Literal["caller", "tenant"]
OnRefusal = Callable[[Limit, Scope], None]

LEAST_RETRY_SECONDS = 0.1
BUSY_RETRY_SECONDS = 0.5
"""Pause before another try where only the end of other calls makes room."""
SHORT_HOLD_SECONDS = 1.0
"""Longest wait of a refusal that is alone."""
REFUSALS_PER_SECOND = 50
"""Refusals that are told to one caller; more wait longer, one after the other."""
LONGEST_HOLD_SECONDS = 10.0
HOLD_SHARE = 0.8
"""Part of the time that a call's deadline leaves which a refusal may wait."""
MOST_HELD = 1024
"""Refusals of one caller that wait; more are answered at once."""
MOST_KNOWN = 10_000
"""Callers and tenants whose limits are kept at hand."""
LOOK_SECONDS = 1.0
"""Interval at which the file of quotas is looked at."""

_log = logs.get_logger("quotas")


class Counting(Protocol):
    """Counts calls and tokens against rates."""

    async def call(self, name: str, quota: Quota) -> float | None:
        """Count a call; None if it is within the rate, else the seconds after which one may be."""

    async def tokens_left(self, name: str, quota: Quota) -> float | None:
        """None if tokens are left, else the seconds until there are."""

    async def charge(self, name: str, quota: Quota, tokens: int) -> None:
        """Count tokens that were read."""


@dataclass(slots=True)
class _Account:
    """The calls under way of a caller or a tenant."""

    scope: Scope
    name: str
    here: Quota
    """Limits of this replica."""
    rated: Quota
    """Limits of what `rates` counts: of all replicas, or of this one."""
    calls: int = 0
    bytes: int = 0
    held: int = 0


class Share:
    """The place of one call in the accounts of its caller and of its tenant."""

    def __init__(self, accounts: Sequence[_Account], on_refusal: OnRefusal) -> None:
        self._accounts = accounts
        self._on_refusal = on_refusal

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Count the bytes of the call's request while the block runs. Raise ResourceExhausted if they are too many.

        A request that finds no other is taken whatever its size.
        """
        for account in self._accounts:
            most = account.here.bytes_in_flight
            if most and account.bytes and account.bytes + size > most:
                raise _refused(account, "bytes_in_flight", BUSY_RETRY_SECONDS, self._on_refusal)
        for account in self._accounts:
            account.bytes += size
        try:
            yield
        finally:
            for account in self._accounts:
                account.bytes -= size


class Quotas:
    """The quotas of one gateway; for one event loop.

    `rates` counts calls and tokens: those of all replicas if `shared`, else those of this one, which has its part.
    """

    def __init__(
        self,
        book: QuotaBook,
        rates: Counting,
        *,
        replicas: int = 1,
        shared: bool = False,
        on_refusal: OnRefusal = lambda _limit, _scope: None,
    ) -> None:
        self._book = book
        self._rates = rates
        self._replicas = replicas
        self._shared = shared
        self._on_refusal = on_refusal
        self._limits: dict[Caller | str, tuple[Quota, Quota]] = {}
        self._accounts: dict[tuple[Scope, str], _Account] = {}

    @asynccontextmanager
    async def admitted(self, caller: Caller, machine: str, seconds_left: float | None) -> AsyncIterator[Share]:
        """Count one call while the block runs, or raise ResourceExhausted.

        `machine` is the address of the caller, which stands for it where access control is off.
        """
        accounts = self._accounts_of(caller, machine)
        for account in accounts:
            account.calls += 1
        try:
            refusal = await self._over(accounts)
            if refusal is None:
                spent = spending.begin()
                try:
                    yield Share(accounts, self._on_refusal)
                finally:
                    await self._charge(accounts, spent.tokens)
        finally:
            for account in accounts:
                account.calls -= 1
                self._forget(account)
        if refusal is not None:
            await self._hold(accounts[0], refusal, seconds_left)
            raise refusal

    async def watch(self) -> None:
        """Look at the file of quotas again and again."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if not await asyncio.to_thread(self._book.look):
                continue
            self._limits.clear()
            if self._book.problem:
                _log.error("the file of quotas is wrong; those before hold", problem=self._book.problem)
            else:
                _log.info("quotas were read again")

    def _accounts_of(self, caller: Caller, machine: str) -> list[_Account]:
        """The accounts that have a limit: that of the caller, then that of its tenant."""
        accounts = []
        limits = self._limits.get(caller) or self._look_up(caller, self._book.of_caller(caller))
        if limits[0] is not NO_QUOTA:
            accounts.append(self._account("caller", caller.identity or machine, limits))
        if caller.tenant:
            limits = self._limits.get(caller.tenant) or self._look_up(
                caller.tenant, self._book.of_tenant(caller.tenant)
            )
            if limits[0] is not NO_QUOTA:
                accounts.append(self._account("tenant", caller.tenant, limits))
        return accounts

    def _look_up(self, of: Caller | str, quota: Quota) -> tuple[Quota, Quota]:
        if len(self._limits) >= MOST_KNOWN:
            self._limits.clear()
        here = quota.shared_by(self._replicas)
        limits = self._limits[of] = here, quota if self._shared else here
        return limits

    def _account(self, scope: Scope, name: str, limits: tuple[Quota, Quota]) -> _Account:
        account = self._accounts.get((scope, name))
        if account is None:
            account = self._accounts[scope, name] = _Account(scope, name, *limits)
        else:
            account.here, account.rated = limits
        return account

    def _forget(self, account: _Account) -> None:
        if not (account.calls or account.held):
            self._accounts.pop((account.scope, account.name), None)

    async def _over(self, accounts: Sequence[_Account]) -> ResourceExhausted | None:
        """The refusal of a call, or None if it is within all limits."""
        for account in accounts:
            most = account.here.concurrent_calls
            if most and account.calls > most:
                return _refused(account, "concurrent_calls", BUSY_RETRY_SECONDS, self._on_refusal)
        for account in accounts:
            rated, name = account.rated, f"{account.scope}/{account.name}"
            if rated.tokens_per_second and (wait := await self._rates.tokens_left(name, rated)) is not None:
                return _refused(account, "tokens_per_second", wait, self._on_refusal)
            if rated.calls_per_second and (wait := await self._rates.call(name, rated)) is not None:
                return _refused(account, "calls_per_second", wait, self._on_refusal)
        return None

    async def _charge(self, accounts: Sequence[_Account], tokens: int) -> None:
        for account in accounts:
            if tokens and account.rated.tokens_per_second:
                await self._rates.charge(f"{account.scope}/{account.name}", account.rated, tokens)

    async def _hold(self, account: _Account, refusal: ResourceExhausted, seconds_left: float | None) -> None:
        """Wait before a refusal is told: a part of the time after which the caller may come back, or until its turn."""
        if account.held >= MOST_HELD:
            return
        after = refusal.retry_after or 0.0
        pause = max(min(after, SHORT_HOLD_SECONDS), account.held / REFUSALS_PER_SECOND)
        longest = min(LONGEST_HOLD_SECONDS, math.inf if seconds_left is None else seconds_left * HOLD_SHARE)
        if pause > longest:
            # Not all at the same moment: their callers would be back at the same moment, again and again.
            pause = random.uniform(longest / 2, longest)  # noqa: S311  spreads refusals, hides nothing
        account.held += 1
        self._accounts.setdefault((account.scope, account.name), account)
        try:
            await asyncio.sleep(pause)
        finally:
            account.held -= 1
            self._forget(account)
        refusal.retry_after = max(LEAST_RETRY_SECONDS, after - pause)


def _refused(account: _Account, limit: Limit, retry_seconds: float, on_refusal: OnRefusal) -> ResourceExhausted:
    on_refusal(limit, account.scope)
    of = "this caller" if account.scope == "caller" else f"the tenant {account.name!r}"
    most = getattr(account.here if limit in ("concurrent_calls", "bytes_in_flight") else account.rated, limit)
    return ResourceExhausted(
        f"{of} has used up its quota {limit}, {most:g} here; slow down, or ask the operator for a larger one",
        reason="QUOTA_EXCEEDED",
        retry_after=max(LEAST_RETRY_SECONDS, retry_seconds),
        quota=limit,
        scope=account.scope,
    )
