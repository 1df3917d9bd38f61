"""Conversion of enums: a member MEMBER of an enum stands for the value PREFIX_MEMBER of a protobuf enum."""

from __future__ import annotations

import enum
from typing import Any, TypeVar

from services.chassis.errors import InvalidArgument

EnumT = TypeVar("EnumT", bound=enum.Enum)


def to_number(member: enum.Enum, proto_enum: Any) -> Any:
    """The protobuf value of a member."""
    return proto_enum.Value(f"{_prefix(proto_enum)}{member.name}")


def from_number(kind: type[EnumT], proto_enum: Any, number: int, field: str) -> EnumT:
    """The member of a protobuf value. Raises InvalidArgument, naming the field, where there is none."""
    names = {value: name for name, value in proto_enum.items()}
    name = names.get(number, "").removeprefix(_prefix(proto_enum))
    if name not in kind.__members__:
        raise InvalidArgument(field, f"must be one of {', '.join(kind.__members__)}")
    return kind[name]


def _prefix(proto_enum: Any) -> str:
    return str(proto_enum.Name(0)).removesuffix("UNSPECIFIED")
