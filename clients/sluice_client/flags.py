"""The table of feature flags, read from `sluice.type.v1.Features`.

A flag is declared once, as a field of that message. Help texts, bounds and choices come from there, so a new flag
needs no change here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from google.protobuf.descriptor import FieldDescriptor

from sluice.type.v1 import stage_pb2
from sluice.type.v1.features_pb2 import Features, flag
from sluice_client.messages import enum_names

FlagValue: TypeAlias = bool | int | str
"""A switch, a number, or the name of a choice, as in "multi_query"."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A row of the table."""

    name: str
    kind: type[FlagValue]
    """bool, int or str."""
    choices: tuple[str, ...]
    """Names to choose from; empty for switches and numbers."""
    least: int
    most: int
    """Bounds of a number, both included."""
    refines: str
    """The flag without which this one has no effect; empty where there is none."""
    unless: str
    """The flag of which at least one must stay on; empty where there is none."""
    stage: str
    """The stage that acts on it, as in "rerank"."""
    help: str


def _flag(field: FieldDescriptor) -> Flag:
    declared = field.GetOptions().Extensions[flag]
    kind: type[FlagValue] = {FieldDescriptor.TYPE_BOOL: bool, FieldDescriptor.TYPE_INT32: int}.get(field.type, str)
    return Flag(
        name=field.name,
        kind=kind,
        choices=tuple(map(str.lower, enum_names(field.enum_type))) if field.enum_type else (),
        least=declared.least,
        most=declared.most,
        refines=declared.refines,
        unless=declared.unless,
        stage=stage_pb2.Stage.Name(declared.stage).removeprefix("STAGE_").lower(),
        help=declared.help,
    )


FLAGS: Mapping[str, Flag] = MappingProxyType({field.name: _flag(field) for field in Features.DESCRIPTOR.fields})
"""All flags by name, in the order of their declaration."""


def features(**values: FlagValue | None) -> Features:
    """Make `Features` of plain values: features(rerank=True, expansion_strategy="synonyms"). None leaves a flag unset.

    Raises TypeError for an unknown flag and ValueError for a value of another type or out of bounds.
    """
    message = Features()
    for name, value in values.items():
        if value is None:
            continue
        if name not in FLAGS:
            raise TypeError(f"{name} is no flag; there are {', '.join(FLAGS)}")
        row = FLAGS[name]
        if type(value) is not row.kind:
            raise ValueError(f"{name} must be of type {row.kind.__name__}, not {type(value).__name__}")
        if row.kind is int and not row.least <= int(value) <= row.most:
            raise ValueError(f"{name} must be between {row.least} and {row.most}, not {value}")
        if row.choices and value not in row.choices:
            raise ValueError(f"{name} must be one of {', '.join(row.choices)}, not {value!r}")
        field = Features.DESCRIPTOR.fields_by_name[name]
        setattr(message, name, enum_names(field.enum_type)[str(value).upper()] if field.enum_type else value)
    return message


def flag_values(message: Features) -> dict[str, FlagValue]:
    """List the flags that are set, by name, choices by their names."""
    return dict(_values(message))


def _values(message: Features) -> Iterator[tuple[str, FlagValue]]:
    for field, value in message.ListFields():
        if field.enum_type:
            names = {number: name.lower() for name, number in enum_names(field.enum_type).items()}
            yield field.name, names.get(value, "unknown")
        else:
            yield field.name, value
