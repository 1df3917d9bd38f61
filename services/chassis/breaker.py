"""A circuit breaker that is right for asyncio, over pybreaker's state machine.

pybreaker (1.4.1) counts failures and knows the states, but its ways in do not fit a coroutine: `call` holds a lock
while the operation runs, `calling` takes a cancellation for a failure, half-open lets every waiting caller through,
and an excluded exception counts as a success. So the operation is awaited outside, and only its outcome is
reported, synchronously, through `CircuitBreaker.call`. Three things are ours:

- admission: when the open time is over (a monotonic clock, where pybreaker reads the wall clock) and which one
  caller is the probe;
- outcomes that say nothing about the dependency (a cancellation, the caller's own mistake, an overload that we shed
  ourselves) are not reported at all;
- an outcome counts only in the state that admitted the call: a slow call from before the breaker opened can neither
  close nor reopen it.

Everything between two awaits happens on one event loop, so no lock is needed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import pybreaker

from services.chassis.errors import KINDS, DeadlineExceeded, SluiceError, Unavailable

FAILURES = tuple(kind.error for kind in KINDS if kind.trips_breaker)

Transition = Callable[[str, str, str], None]
"""Told of (breaker's name, old state, new state); the states are `closed`, `open` and `half-open`."""


class Breaker:
    """Opens after `failures` failures in a row, then fails fast for `reset_seconds`, then lets one probe through."""

    def __init__(
        self,
        name: str,
        *,
        failures: int = 5,
        reset_seconds: float = 60,
        fair_seconds: float = 1.0,
        on_transition: Transition | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`name` is the dependency's, as errors and metrics shall call it."""
        self.name = name
        self._reset_seconds = reset_seconds
        self._fair_seconds = fair_seconds
        self._clock = clock
        self._opened_at = 0.0
        self._probing = False
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=failures,
            reset_timeout=reset_seconds,
            throw_new_error_on_trip=False,
            listeners=[_Listener(on_transition)] if on_transition else [],
            name=name,
        )

    @property
    def state(self) -> str:
        """`closed`, `open` or `half-open`. An open breaker becomes half-open with the first call after its time."""
        return self._breaker.current_state

    def check(self) -> None:
        """Raises Unavailable if a call that began now would be refused.

        For callers who would first have to queue for something else; it takes no probe.
        """
        if self.state != pybreaker.STATE_CLOSED and (self._probing or self._remaining() > 0):
            self._refuse()

    @contextmanager
    def attempt(self, *, given_seconds: float = math.inf) -> Iterator[None]:
        """Guards one try, which is given so much time: `with breaker.attempt(given_seconds=timeout): await ...`.

        Raises Unavailable (reason BREAKER_OPEN) at once, without waiting, if the breaker is open or a probe is
        under way. The block must raise the errors of `services.chassis.errors`. A deadline missed in less than
        `fair_seconds` is neither failure nor success: callers in a hurry must not cut everybody off.
        """
        self.check()
        if probe := self.state != pybreaker.STATE_CLOSED:
            if self.state == pybreaker.STATE_OPEN:
                self._breaker.half_open()
            self._probing = True
        admitted_in = self._breaker.state
        try:
            yield
        except FAILURES as error:
            hurried = isinstance(error, DeadlineExceeded) and given_seconds < self._fair_seconds
            if self._breaker.state is admitted_in and not hurried:
                self._report(error)
            raise
        else:
            if self._breaker.state is admitted_in:
                self._report(None)
        finally:
            if probe:
                self._probing = False

    def _report(self, failure: SluiceError | None) -> None:
        """Drives pybreaker's state machine with an operation that is already over."""

        def outcome() -> None:
            if failure is not None:
                raise failure

        with suppress(*FAILURES):
            self._breaker.call(outcome)
        if self.state == pybreaker.STATE_OPEN:
            self._opened_at = self._clock()

    def _remaining(self) -> float:
        return self._opened_at + self._reset_seconds - self._clock()

    def _refuse(self) -> NoReturn:
        wait = max(0.0, self._remaining())
        raise Unavailable(
            f"{self.name} failed repeatedly and is not called for now; next try in {wait:.1f} s",
            reason="BREAKER_OPEN",
            retry_after=wait,
            dependency=self.name,
        )


class _Listener(pybreaker.CircuitBreakerListener):
    """Hands transitions on; pybreaker wants a class for it."""

    def __init__(self, on_transition: Transition) -> None:
        self._on_transition = on_transition

    def state_change(
        self,
        cb: pybreaker.CircuitBreaker,
        old_state: pybreaker.CircuitBreakerState | None,
        new_state: pybreaker.CircuitBreakerState,
    ) -> None:
        self._on_transition(cb.name or "", old_state.name if old_state else "", new_state.name)
