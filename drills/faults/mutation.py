"""Malformed messages made from well-formed ones: on the wire, and in their fields."""

from __future__ import annotations

import math
import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

_STRINGS = ("", " \n\t", "\0", "x" * 70_000, "é" * 4_097, "\u202e💥", "../../etc", "a" * 129, "no such/name", "1")
_INTEGERS = (-(2**63), -(2**31), -1, 0, 1, 17, 99, 1001, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
_FLOATS = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e38)
_BYTES = (b"", b"\0", b"\0" * 3, b"\xff" * 1536, b"\0\0\xc0\x7f" * 384, b"\0" * 4 * 383)
_KIND = FieldDescriptor
_RANGES = {
    _KIND.CPPTYPE_INT32: range(-(2**31), 2**31),
    _KIND.CPPTYPE_ENUM: range(-(2**31), 2**31),
    _KIND.CPPTYPE_UINT32: range(2**32),
    _KIND.CPPTYPE_INT64: range(-(2**63), 2**63),
    _KIND.CPPTYPE_UINT64: range(2**64),
}


def mutated(message: Message, chance: random.Random) -> bytes:
    """One mutant: of its fields, of its bytes, or of both."""
    way = chance.random()
    if way < 0.45:
        mutant = type(message).FromString(message.SerializeToString())
        for _ in range(chance.randint(1, 2)):
            _distort(mutant, chance)
        raw = mutant.SerializeToString()
        return _garbled(raw, chance) if way < 0.1 else raw
    return _garbled(message.SerializeToString(), chance)


def decodable(request_type: type[Message], raw: bytes) -> Message | None:
    """The message that the bytes are, if they are one."""
    try:
        return request_type.FromString(raw)
    except DecodeError:
        return None


def _garbled(raw: bytes, chance: random.Random) -> bytes:
    data = bytearray(raw)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(8):
            case 0:  # cut off
                del data[at:]
            case 1:  # one bit
                if data:
                    data[at % len(data)] ^= 1 << chance.randrange(8)
            case 2:  # bytes between
                data[at:at] = chance.randbytes(chance.randint(1, 12))
            case 3:  # bytes lost
                del data[at : at + chance.randint(1, 8)]
            case 4:  # a number that never ends
                data[at:at] = b"\xff" * chance.randint(5, 11)
            case 5:  # text that is no UTF-8
                data[at : at + 2] = chance.choice((b"\xc3\x28", b"\xed\xa0\x80", b"\xff\xfe"))
            case 6:  # a length far beyond the end
                data[at:at] = b"\x0a\xff\xff\xff\xff\x07"
            case 7:  # an unknown field, and groups that never close
                data[at:at] = chance.choice((b"\xf8\xff\x01\x01", b"\x0b" * 120, b"\x1b\x1b"))
    return bytes(data)


def _distort(message: Message, chance: random.Random) -> None:
    """Change one field, here or further in."""
    fields: Any = list(message.DESCRIPTOR.fields)
    if not fields:
        return
    field = chance.choice(fields)
    if field.is_repeated:
        _distort_many(message, field, chance)
    elif field.type == _KIND.TYPE_MESSAGE:
        if chance.random() < 0.2:
            message.ClearField(field.name)
        else:
            getattr(message, field.name).SetInParent()
            _distort(getattr(message, field.name), chance)
    else:
        setattr(message, field.name, _value(field, chance))


def _distort_many(message: Message, field: FieldDescriptor, chance: random.Random) -> None:
    many: Any = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        if chance.random() < 0.5 and many:
            many[next(iter(many))].Clear()
        else:
            many[chance.choice(_STRINGS[1:])].Clear()
        return
    way = chance.random()
    if way < 0.2:
        message.ClearField(field.name)
    elif way < 0.3 and many:
        del many[1:]
        many.extend([many[0]] * 1100)
    elif way < 0.5 and many:
        many.append(many[0])
    elif field.type == _KIND.TYPE_MESSAGE:
        _distort(chance.choice(many) if many else many.add(), chance)
    else:
        many.append(_value(field, chance))


def _value(field: FieldDescriptor, chance: random.Random) -> Any:
    if field.type == _KIND.TYPE_STRING:
        return chance.choice(_STRINGS)
    if field.type == _KIND.TYPE_BYTES:
        return chance.choice(_BYTES)
    if field.type in {_KIND.TYPE_FLOAT, _KIND.TYPE_DOUBLE}:
        return chance.choice(_FLOATS)
    if field.type == _KIND.TYPE_BOOL:
        return chance.random() < 0.5
    return chance.choice([number for number in _INTEGERS if number in _RANGES[field.cpp_type]])
