"""The table of feature flags, from `sluice.type.v1.Features`, and layers of overrides.

A flag is declared once, as a field of that message with the option `flag`. Bounds, the flag that it refines, the stage
that acts on it and the names of its variables all come from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from services.chassis.errors import InvalidArgument
from sluice.type.v1 import features_pb2, stage_pb2

FlagValue = bool | int | str
"""A switch, a number, or the name of a choice, as in "multi_query"."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One row of the table."""

    name: str
    kind: type[FlagValue]
    """bool, int or str."""
    choices: tuple[str, ...]
    """Names to choose from, in the order of the enum; empty for other kinds."""
    least: int
    most: int
    """Bounds of a number, both included."""
    refines: str
    """The flag without which this one has no effect; empty where there is none."""
    unless: str
    """The alternative flag, or empty: at least one of both stays on."""
    stage: str
    """The stage that acts on it, as in "rerank"."""
    help: str
    variable: str
    """Environment variable of the gateway's default."""
    share_variable: str
    """Environment variable of the share of users, in percent; empty where there is none."""
    metric_label: bool

    def problem(self, value: FlagValue) -> str:
        """The reason for refusing a value; empty if it is legal."""
        if type(value) is not self.kind:
            return f"must be of type {self.kind.__name__}, not {type(value).__name__}"
        if self.kind is int and not self.least <= int(value) <= self.most:
            return f"must be between {self.least} and {self.most}, not {value}"
        if self.choices and value not in self.choices:
            return f"must be one of {', '.join(self.choices)}"
        return ""

    def nearest(self, value: FlagValue) -> FlagValue:
        """The legal value that is nearest to a value, possibly the value itself."""
        if self.kind is int:
            return min(max(int(value), self.least), self.most)
        return self.choices[0] if self.choices and value not in self.choices else value


def _read_table() -> Mapping[str, Flag]:
    return MappingProxyType({field.name: _flag(field) for field in features_pb2.Features.DESCRIPTOR.fields})


def _flag(field: FieldDescriptor) -> Flag:
    option = field.GetOptions().Extensions[features_pb2.flag]
    kind: type[FlagValue] = {FieldDescriptor.TYPE_BOOL: bool, FieldDescriptor.TYPE_INT32: int}.get(field.type, str)
    return Flag(
        name=field.name,
        kind=kind,
        choices=_choices(field.enum_type) if field.enum_type else (),
        least=option.least,
        most=option.most,
        refines=option.refines,
        unless=option.unless,
        stage=stage_pb2.Stage.Name(option.stage).removeprefix("STAGE_").lower(),
        help=option.help,
        variable=option.variable,
        share_variable=option.share_variable,
        metric_label=option.metric_label,
    )


def _choices(choices: EnumDescriptor) -> tuple[str, ...]:
    unset, *values = [value.name for value in choices.values]
    prefix = unset.removesuffix("UNSPECIFIED")
    return tuple(value.removeprefix(prefix).lower() for value in values)


FLAGS = _read_table()
"""All flags by name, in the order of their declaration."""


@dataclass(frozen=True, init=False)
class Overrides:
    """The flags that one layer sets. A flag that is left out is left to the next layer."""

    values: Mapping[str, FlagValue]

    def __init__(self, **values: FlagValue) -> None:
        """Raises InvalidArgument, naming `features.FLAG`, for an unknown flag or an illegal value."""
        for name, value in values.items():
            problem = FLAGS[name].problem(value) if name in FLAGS else f"is no flag; there are {', '.join(FLAGS)}"
            if problem:
                raise InvalidArgument(f"features.{name}", problem)
        object.__setattr__(self, "values", MappingProxyType(values))

    def __bool__(self) -> bool:
        return bool(self.values)

    @classmethod
    def from_proto(cls, message: features_pb2.Features) -> Self:
        """Read the flags that are set. Raises InvalidArgument for an illegal value."""
        return cls(**_values(message))

    @classmethod
    def nearest_to(cls, message: features_pb2.Features) -> Self:
        """Read the flags that are set, each as its nearest legal value."""
        return cls(**{name: FLAGS[name].nearest(value) for name, value in _values(message).items()})

    def to_proto(self) -> features_pb2.Features:
        """Write the flags that are set."""
        message = features_pb2.Features()
        for name, value in self.values.items():
            field = message.DESCRIPTOR.fields_by_name[name]
            # The names of an enum's values after the first, which means unset, are in the order of the choices.
            number = field.enum_type.values[1 + FLAGS[name].choices.index(str(value))].number if field.enum_type else 0
            setattr(message, name, number or value)
        return message

    def over(self, weaker: Overrides) -> Overrides:
        """Merge with a weaker layer: this one's flags win."""
        return Overrides(**{**weaker.values, **self.values})


def check_alternatives(values: Mapping[str, FlagValue], field: str = "features") -> None:
    """Raise InvalidArgument when two flags are off of which one must stay on. A flag that is left out counts as on."""
    for flag in FLAGS.values():
        if flag.unless and not values.get(flag.name, True) and not values.get(flag.unless, True):
            raise InvalidArgument(field, f"{flag.name} and {flag.unless} are both off; leave at least one on")


def _values(message: features_pb2.Features) -> dict[str, FlagValue]:
    return {field.name: _value(field, value) for field, value in message.ListFields()}


def _value(field: FieldDescriptor, value: FlagValue) -> FlagValue:
    if not field.enum_type:
        return value
    known = [choice.number for choice in field.enum_type.values[1:]]
    return FLAGS[field.name].choices[known.index(int(value))] if value in known else f"number {value}"
