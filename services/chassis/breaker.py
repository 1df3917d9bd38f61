"""A circuit breaker for asyncio, over pybreaker's state machine.

pybreaker (1.4.1) counts failures and knows the states, but its entry points do not fit a coroutine: `call` holds a
lock while the operation runs, `calling` takes a cancellation for a failure, and half-open admits every caller. So the
operation is awaited outside, and its outcome is reported afterwards, through `CircuitBreaker.call`. An outcome that
says nothing about the dependency is not reported at all, and one from an earlier state neither: a slow call from
before the breaker opened can neither close nor reopen it.

Everything between two awaits happens on one event loop, so no lock is needed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pybreaker

from services.chassis.errors import KINDS, DeadlineExceeded, SluiceError, Unavailable

_FAILURES = tuple(kind.error for kind in KINDS if kind.trips_breaker)

Transition = Callable[[str, str, str], None]
"""Takes name, old and new state: `closed`, `open` or `half-open`."""


class Breaker(pybreaker.CircuitBreakerListener):
    """Breaker of one dependency, `name`.

    It opens after `failures` failures in a row, fails fast for `reset_seconds`, then admits one probe. A deadline
    missed in less than `fair_seconds` does not count: callers in a hurry must not cut off the others.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: int = 5,
        reset_seconds: float = 60,
        fair_seconds: float = 1.0,
        on_transition: Transition = lambda _name, _old, _new: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._reset_seconds = reset_seconds
        self._fair_seconds = fair_seconds
        self._on_transition = on_transition
        self._clock = clock
        self._opened_at = 0.0
        self._probing = False
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=failures, throw_new_error_on_trip=False, listeners=[self], name=name
        )

    @property
    def state(self) -> str:
        """`closed`, `open` or `half-open`. The first call after the open time makes it half-open."""
        return self._breaker.current_state

    def check(self) -> None:
        """Raise Unavailable if a call would be refused now. For callers that first have to queue."""
        wait = max(0.0, self._opened_at + self._reset_seconds - self._clock())
        if self.state != pybreaker.STATE_CLOSED and (self._probing or wait > 0):
            raise Unavailable(
                f"{self.name} failed repeatedly and is not called for now; next try in {wait:.1f} s",
                reason="BREAKER_OPEN",
                retry_after=wait,
                dependency=self.name,
            )

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
            self._opened_at = self._clock()
        self._on_transition(self.name, old_state.name if old_state else "", new_state.name)
