"""Deadlines on the monotonic clock, times in protobuf, and tasks side by side and in the background."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from services.chassis.errors import DeadlineExceeded, InvalidArgument

OneT = TypeVar("OneT")
OtherT = TypeVar("OtherT")

LONGEST_CALL_SECONDS = 3600.0
"""Longest deadline that a call can have, and time that a call has on a connection that is to be closed."""
# Reserve for building and sending the reply, and for the way here, which counts for the caller's deadline as well.
# It grows with the time given: long deadlines are missed by a busy machine rather than by a busy stage.
REPLY_SHARE = 0.04
LEAST_REPLY_SECONDS = 0.01
MOST_REPLY_SECONDS = 0.25
_LAST_SECOND = 253_402_300_799  # of the year 9999


def deadline_of(context: grpc.aio.ServicerContext[Any, Any], default_seconds: float = LONGEST_CALL_SECONDS) -> float:
    """The monotonic deadline of a call; `default_seconds` from now if the caller set none. At most an hour."""
    given = context.time_remaining()
    return deadline_in(min(LONGEST_CALL_SECONDS, default_seconds if given is None else given))


def deadline_in(seconds: float) -> float:
    """The monotonic deadline that is `seconds` from now."""
    return time.monotonic() + seconds


def remaining(deadline: float) -> float:
    """Seconds until a deadline. Raise DeadlineExceeded if it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlineExceeded("the deadline passed before the work was done")
    return left


def answer_by(now: float, deadline: float) -> float:
    """The moment by which work has to be done, so that its answer still reaches a caller with this deadline."""
    return deadline - min(max((deadline - now) * REPLY_SHARE, LEAST_REPLY_SECONDS), MOST_REPLY_SECONDS)


def seconds_of(message: Duration, field: str) -> float:
    """Seconds of a duration. Raises InvalidArgument, naming the field, for a negative one."""
    seconds = message.seconds + message.nanos / 1e9
    if not (math.isfinite(seconds) and seconds >= 0):
        raise InvalidArgument(field, "must not be negative")
    return seconds


def since_1970(message: Timestamp, field: str) -> float:
    """Seconds since 1970 of a moment. Raises InvalidArgument, naming the field, for one that no calendar has."""
    if not (0 <= message.seconds <= _LAST_SECOND and 0 <= message.nanos < 10**9):
        raise InvalidArgument(field, "must be between the years 1970 and 9999")
    return message.seconds + message.nanos / 1e9


def timestamp(seconds: float) -> Timestamp:
    """A moment, from seconds since 1970, to the microsecond."""
    message = Timestamp()
    message.FromMicroseconds(round(seconds * 1e6))
    return message


def duration(seconds: float) -> Duration:
    """A protobuf duration of 0 seconds or more, exact to the nanosecond."""
    whole, nanos = divmod(round(seconds * 1e9), 10**9)
    return Duration(seconds=whole, nanos=nanos)


async def both(one: Coroutine[Any, Any, OneT], other: Coroutine[Any, Any, OtherT]) -> tuple[OneT, OtherT]:
    """Run two coroutines at once. Where one fails, the other is cancelled, and the first error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            first, second = group.create_task(one), group.create_task(other)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return first.result(), second.result()


@asynccontextmanager
async def in_background(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines while the block runs, and cancel them at its end. Raise what one of them has failed with."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                task.result()
