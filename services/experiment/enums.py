"""Reading of protobuf enums that come from other processes."""

from __future__ import annotations

import enum
from typing import Any, TypeVar

from services.chassis.errors import InvalidArgument

EnumT = TypeVar("EnumT", bound=enum.Enum)


def from_number(kind: type[EnumT], proto_enum: Any, number: int, field: str) -> EnumT:
    """The member MEMBER for the value PREFIX_MEMBER of a protobuf enum.

    Raises InvalidArgument, naming the field, where there is none: unset, or from a newer release.
    """
    prefix = str(proto_enum.Name(0)).removesuffix("UNSPECIFIED")
    name = {value: name for name, value in proto_enum.items()}.get(number, "").removeprefix(prefix)
    if name not in kind.__members__:
        raise InvalidArgument(field, f"must be one of {', '.join(kind.__members__)}")
    return kind[name]
