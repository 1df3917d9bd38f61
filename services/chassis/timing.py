"""Deadlines as moments on the monotonic clock, and durations as protobuf wants them."""

from __future__ import annotations

import math
import time
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from services.chassis.errors import DeadlineExceeded


def deadline_of(context: grpc.aio.ServicerContext[Any, Any], default_seconds: float = math.inf) -> float:
    """The moment at which the caller's time is over; so many seconds from now where the caller set no deadline."""
    given = context.time_remaining()
    return time.monotonic() + (default_seconds if given is None else given)


def deadline_in(seconds: float) -> float:
    """The moment so many seconds from now."""
    return time.monotonic() + seconds


def remaining(deadline: float) -> float:
    """Seconds left until a deadline; raises DeadlineExceeded when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlineExceeded("the deadline passed before the work was done")
    return left


def duration(seconds: float) -> Duration:
    """A duration in seconds, to the nanosecond."""
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message
