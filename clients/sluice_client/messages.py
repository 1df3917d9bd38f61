"""Conversion of frozen dataclasses from and to the messages that they mirror.

A dataclass names its message, as in `class Chunk(Received, proto=passage_pb2.Chunk)`, and has fields of the same
names. Its type hints tell the rest:

    Sequence[X]         a repeated field, as a tuple
    Mapping[str, X]     a map, as a dict
    X | None            None where the field is unset
    an enum.StrEnum     an enum, by the names of its values without their prefix; UNKNOWN for a value of a newer server
    timedelta, datetime Duration, and Timestamp in UTC; a datetime to send has a time zone
    MetadataValue       sluice.type.v1.Value

A field that a dataclass leaves out is not shown.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, Self, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from sluice.type.v1.filter_pb2 import StringList, Value
from sluice_client.errors import invalid

MessageT = TypeVar("MessageT", bound=Message)
MetadataValue: TypeAlias = str | int | float | bool | list[str]
"""A value of metadata. The first one of a field decides its type in its collection; whole numbers widen to decimals."""

_Field: TypeAlias = Any  # of the pure Python runtime or of the one in C: types without a common parent
_BITS = {FieldDescriptor.CPPTYPE_INT32: 32, FieldDescriptor.CPPTYPE_INT64: 64}


class Received:
    """A dataclass that can be read from its message."""

    __slots__ = ()
    PROTO: ClassVar[type[Message]]

    def __init_subclass__(cls, proto: type[Message] | None = None) -> None:
        if proto is not None:  # a dataclass with slots is made twice, the second time without
            cls.PROTO = proto

    @classmethod
    def from_proto(cls, message: Any) -> Self:
        """Read a message, or another one with the same fields."""
        kind: Any = cls
        return cls(**{name: read(message) for name, read in _readers(kind).items()})


class Sent(Received):
    """A dataclass that can also be written as its message."""

    __slots__ = ()

    def to_proto(self, path: str = "") -> Any:
        """Write the message. Raises SluiceError, with `path` before the field's name."""
        given = {field.name: getattr(self, field.name, None) for field in self.PROTO.DESCRIPTOR.fields}
        return fill(self.PROTO(), path, **given)


def fill(message: MessageT, path: str = "", /, **values: Any) -> MessageT:
    """Set the fields that are not None. Raises SluiceError."""
    for name, value in values.items():
        if value is None:
            continue
        field = message.DESCRIPTOR.fields_by_name[name]
        here = f"{path}.{name}" if path else name
        if _is_map(field):
            _fill_map(getattr(message, name), field, value, here)
        elif field.is_repeated:
            getattr(message, name).extend(_written(field, one, f"{here}[{place}]") for place, one in enumerate(value))
        elif field.message_type:
            getattr(message, name).CopyFrom(_written(field, value, here))
        else:
            setattr(message, name, _written(field, value, here))
    return message


def _fill_map(target: Any, field: _Field, values: Mapping[str, Any], path: str) -> None:
    for key, value in values.items():
        target[sendable(path, key)].CopyFrom(_written(field.message_type.fields[1], value, f"{path}.{key}"))


def sendable(path: str, text: str) -> str:
    """Return the text, if it is valid Unicode. Raises SluiceError."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise invalid(path, "is not valid Unicode; decode it properly first", "NOT_UTF8") from None
    return text


def to_value(value: MetadataValue, path: str) -> Value:
    """Write a value of metadata."""
    match value:
        case bool():
            return Value(bool_value=value)
        case int():
            if not -(2**63) <= value < 2**63:
                raise invalid(path, "does not fit into 64 bits", "WRONG_TYPE")
            return Value(integer_value=value)
        case float():
            return Value(float_value=value)
        case str():
            return Value(string_value=sendable(path, value))
        case [*items] if all(isinstance(item, str) for item in items):
            return Value(string_list_value=StringList(values=[sendable(path, item) for item in items]))
    raise invalid(path, f"is a {type(value).__name__}; send str, int, float, bool or a list of str", "WRONG_TYPE")


def from_value(value: Value) -> MetadataValue | None:
    """Read a value of metadata; None for an unknown kind."""
    kind = value.WhichOneof("kind")
    if kind == "string_list_value":
        return list(value.string_list_value.values)
    found: MetadataValue | None = getattr(value, kind) if kind else None
    return found


def enum_names(enumeration: Any) -> dict[str, int]:
    """Numbers of an enum by name without prefix: {"EXPAND": 1, ...}."""
    unset, *values = enumeration.values
    prefix = unset.name.removesuffix("UNSPECIFIED")
    return {value.name.removeprefix(prefix): value.number for value in values}


def _written(field: _Field, value: Any, path: str) -> Any:
    if field.message_type is Value.DESCRIPTOR:
        return value if isinstance(value, Value) else to_value(value, path)
    match value:
        case Sent():
            return value.to_proto(path)
        case enum.Enum() if field.enum_type:
            return enum_names(field.enum_type)[value.name]
        case timedelta() | datetime():
            return _duration(value, path) if isinstance(value, timedelta) else _timestamp(value, path)
        case str():
            return sendable(path, value)
        case int() if (bits := _BITS.get(field.cpp_type)) and not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
            raise invalid(path, f"{value} is out of range")
    return value


def _duration(value: timedelta, path: str) -> Duration:
    duration = Duration()
    try:
        duration.FromTimedelta(value)
        duration.ToJsonString()  # checks the range
    except ValueError:
        raise invalid(path, f"{value} is out of range") from None
    return duration


def _timestamp(value: datetime, path: str) -> Timestamp:
    if value.tzinfo is None:
        raise invalid(path, "has no time zone; give it one, as in datetime.now(UTC)")
    timestamp = Timestamp()
    timestamp.FromDatetime(value)
    return timestamp


@cache
def _readers(cls: type[Received]) -> Mapping[str, Callable[[Message], Any]]:
    hints = get_type_hints(cls)
    return {
        field.name: _reader(field, hints[field.name]) for field in cls.PROTO.DESCRIPTOR.fields if field.name in hints
    }


def _reader(field: _Field, hint: Any) -> Callable[[Message], Any]:
    name = field.name
    if _is_map(field):
        one = _converter(field.message_type.fields[1], get_args(hint)[1])
        return lambda message: {
            key: found for key, value in getattr(message, name).items() if (found := one(value)) is not None
        }
    if field.is_repeated:
        each = _converter(field, get_args(hint)[0])
        return lambda message: tuple(map(each, getattr(message, name)))
    optional = hint is not MetadataValue and get_origin(hint) is UnionType and NoneType in get_args(hint)
    convert = _converter(field, get_args(hint)[0] if optional else hint)
    if optional and field.has_presence:
        return lambda message: convert(getattr(message, name)) if message.HasField(name) else None
    if optional:
        return lambda message: convert(number) if (number := getattr(message, name)) else None
    return lambda message: convert(getattr(message, name))


def _converter(field: _Field, hint: Any) -> Callable[[Any], Any]:
    if field.enum_type:
        members = {
            number: hint[name] for name, number in enum_names(field.enum_type).items() if name in hint.__members__
        }
        return lambda number: members.get(number, hint.UNKNOWN)
    if field.message_type is Value.DESCRIPTOR:
        return from_value
    if field.message_type is Duration.DESCRIPTOR:
        return _to_timedelta
    if field.message_type is Timestamp.DESCRIPTOR:
        return _to_datetime
    if field.message_type and issubclass(hint, Received):
        read: Callable[[Any], Any] = hint.from_proto
        return read
    return lambda value: value


def _to_timedelta(duration: Duration) -> timedelta:
    return duration.ToTimedelta()


def _to_datetime(timestamp: Timestamp) -> datetime:
    return timestamp.ToDatetime(UTC)


def _is_map(field: _Field) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)
