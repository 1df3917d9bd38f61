"""Conversion between Python's and protobuf's values: enums, durations, timestamps."""

from __future__ import annotations

import enum
import math
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from services.chassis.errors import InvalidArgument

EnumT = TypeVar("EnumT", bound=enum.Enum)


def to_number(member: enum.Enum, proto_enum: Any) -> Any:
    """The value PREFIX_MEMBER of a protobuf enum for the member MEMBER of an enum."""
    return proto_enum.Value(f"{_prefix(proto_enum)}{member.name}")


def from_number(kind: type[EnumT], proto_enum: Any, number: int, field: str) -> EnumT:
    """The member for a value of a protobuf enum. Raises InvalidArgument, naming the field, where there is none."""
    names = {value: name for name, value in proto_enum.items()}
    name = names.get(number, "").removeprefix(_prefix(proto_enum))
    if name not in kind.__members__:
        raise InvalidArgument(field, f"must be one of {', '.join(kind.__members__)}")
    return kind[name]


def _prefix(proto_enum: Any) -> str:
    return str(proto_enum.Name(0)).removesuffix("UNSPECIFIED")


def duration(seconds: float) -> Duration:
    """A duration in seconds, to the nanosecond."""
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def seconds_of(message: Duration, field: str) -> float:
    """Seconds of a duration. Raises InvalidArgument, naming the field, for a negative one."""
    seconds = message.seconds + message.nanos / 1e9
    if not (math.isfinite(seconds) and seconds >= 0):
        raise InvalidArgument(field, "must not be negative")
    return seconds


def timestamp(seconds: float) -> Timestamp:
    """A moment, from seconds since 1970, to the microsecond."""
    message = Timestamp()
    message.FromMicroseconds(round(seconds * 1e6))
    return message
