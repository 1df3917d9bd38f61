"""A circuit breaker for asyncio, over pybreaker's state machine.

pybreaker (1.4.1) counts failures and knows the states, but its entry points do not fit a coroutine: `call` holds a
lock while the operation runs, `calling` takes a cancellation for a failure, and half-open admits every caller. So the
operation is awaited outside, and its outcome is reported afterwards, through `CircuitBreaker.call`. An outcome that
says nothing about the dependency is not reported at all, and one from an earlier state neither: a slow call from
before the breaker opened can neither close nor reopen it.

An open breaker asks the dependency for its health and becomes half-open as soon as that answers. If the probe then
fails although the health is good, the next question comes later and later. One outage opens one breaker, the nearest:
errors that a dependency has from further down do not count, and neither do those of a channel that the dependency
itself told that it is not serving.

Everything between two awaits happens on one event loop, so no lock is needed.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import pybreaker

from services.chassis import tracing
from services.chassis.errors import KINDS, DeadlineExceeded, SluiceError, Unavailable

_FAILURES = tuple(kind.error for kind in KINDS if kind.trips_breaker)

Transition = Callable[[str, str, str], None]
"""Takes name, old and new state: `closed`, `open` or `half-open`."""
Healthy = Callable[[], Awaitable[bool]]
"""Asks a dependency for its health. Does not raise, and has a limit of time of its own."""

STAGE_REFUSES = "STAGE_REFUSES"
"""Reason of the error of a stage that does not take the caller: it is well, and calling it less changes nothing."""
NOT_SERVING = "NOT_SERVING"
"""Reason of an error of a channel whose replicas say that they do not serve."""
# Pause that is asked of callers while health is polled.
_RETRY_SECONDS = 2.0
POLL_SECONDS = 0.25
"""Pause between two questions for the health of a dependency."""


class Breaker(pybreaker.CircuitBreakerListener):
    """Breaker of one dependency, `name`.

    It opens after `failures` failures in a row, fails fast until `healthy` says so or for `reset_seconds`, then admits
    one probe. A deadline missed in less than `fair_seconds` does not count: callers in a hurry must not cut off the
    others.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: int = 5,
        reset_seconds: float = 60,
        fair_seconds: float = 1.0,
        healthy: Healthy | None = None,
        on_transition: Transition = lambda _name, _old, _new: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.healthy = healthy
        """May be set until the first failure."""
        self._reset_seconds = reset_seconds
        self._fair_seconds = fair_seconds
        self._on_transition = on_transition
        self._clock = clock
        self._sleep = sleep
        self._next_try = 0.0
        self._probing = False
        self._polling: asyncio.Task[None] | None = None
        self._deceptions = 0
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=failures, throw_new_error_on_trip=False, listeners=[self], name=name
        )

    @property
    def state(self) -> str:
        """`closed`, `open` or `half-open`. Health makes it half-open, or the first call after the open time."""
        return self._breaker.current_state

    def check(self) -> None:
        """Raise Unavailable if a call would be refused now. For callers that first have to queue."""
        if self.state == pybreaker.STATE_CLOSED:
            return
        wait = max(0.0, self._next_try - self._clock())
        if self._probing or wait > 0:
            until = f"next try in {wait:.1f} s" if self.healthy is None else "next try when it is healthy"
            raise Unavailable(
                f"{self.name} failed repeatedly and is not called for now; {until}",
                reason="BREAKER_OPEN",
                retry_after=wait if self.healthy is None else min(wait, _RETRY_SECONDS),
                dependency=self.name,
            )

    def close(self) -> None:
        """Stop asking for health."""
        if self._polling is not None:
            self._polling.cancel()
            self._polling = None

    @contextmanager
    def attempt(self, *, given_seconds: float = math.inf) -> Iterator[None]:
        """Guard one try that may take `given_seconds`: `with breaker.attempt(given_seconds=timeout): await ...`.

        Raise Unavailable (reason BREAKER_OPEN) at once if the breaker is open or a probe is under way. The block must
        raise the errors of `services.chassis.errors`.
        """
        self.check()
        if probe := self.state != pybreaker.STATE_CLOSED:
            self._probing = True
            if self.state == pybreaker.STATE_OPEN:
                self._breaker.half_open()
        admitted_in = self._breaker.state
        try:
            yield
        except _FAILURES as error:
            hurried = isinstance(error, DeadlineExceeded) and given_seconds < self._fair_seconds
            if self._breaker.state is admitted_in and not hurried and self._is_its_own(error):
                self._report(error)
            raise
        else:
            # After a success, another one changes nothing.
            if self._breaker.state is admitted_in and (probe or self._breaker.fail_counter):
                self._report(None)
        finally:
            if probe:
                self._probing = False

    def _is_its_own(self, error: SluiceError) -> bool:
        """True if an error comes from the dependency itself, and not from further down."""
        elsewhere = error.metadata.get("dependency", self.name) != self.name
        return not elsewhere and error.reason not in (NOT_SERVING, STAGE_REFUSES)

    def _report(self, failure: SluiceError | None) -> None:
        def outcome() -> None:
            if failure is not None:
                raise failure

        with suppress(*_FAILURES):
            self._breaker.call(outcome)

    def state_change(
        self,
        cb: pybreaker.CircuitBreaker,
        old_state: pybreaker.CircuitBreakerState | None,
        new_state: pybreaker.CircuitBreakerState,
    ) -> None:
        """Note a transition; called by pybreaker."""
        if new_state.name == pybreaker.STATE_OPEN:
            self._next_try = self._clock() + self._reset_seconds
            if self.healthy is not None:
                self.close()
                self._polling = asyncio.get_running_loop().create_task(self._poll(self.healthy))
        elif new_state.name == pybreaker.STATE_CLOSED:
            self._deceptions = 0
        self._on_transition(self.name, old_state.name if old_state else "", new_state.name)

    async def _poll(self, healthy: Healthy) -> None:
        """Ask for health until it is good, and let a call probe then."""
        with tracing.untraced():
            pause = min(self._reset_seconds, POLL_SECONDS * 2**self._deceptions)
            while True:
                await self._sleep(pause)
                if await healthy():
                    break
                self._deceptions, pause = 0, POLL_SECONDS
        if self.state == pybreaker.STATE_OPEN:
            self._deceptions += 1
            self._next_try = self._clock()
            self._breaker.half_open()
