"""Typed metadata: what passages may carry, and how a filter asks about it.

The first value that is stored for a field declares its type for the whole collection. From then on a value or a
condition that does not fit is refused, where Qdrant would silently match nothing.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qdrant_client import models

from services.chassis.errors import InvalidArgument

Value = str | int | float | bool | Sequence[str]
"""A metadata value; a list holds strings only."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FIELDS_SHOWN = 20
_INT64 = range(-(2**63), 2**63)


class FieldType(enum.StrEnum):
    """The type of a field, spelled as Qdrant's payload index of that type."""

    KEYWORD = "keyword"
    INTEGER = "integer"
    FLOAT = "float"
    BOOL = "bool"


Schema = Mapping[str, FieldType]


@dataclass(frozen=True, slots=True)
class Equals:
    """The field has this value."""

    field: str
    value: str | int | float | bool


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The field has one of these values."""

    field: str
    values: Sequence[str | int | float | bool]


@dataclass(frozen=True, slots=True)
class Range:
    """The number lies within these bounds; at least one is set."""

    field: str
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


@dataclass(frozen=True, slots=True)
class Exists:
    """The field is there, or is not; an empty list counts as not there."""

    field: str
    exists: bool = True


Condition = Equals | AnyOf | Range | Exists


@dataclass(frozen=True, slots=True)
class Filter:
    """All of `must`, at least one of `should` (if there are any) and none of `must_not` hold."""

    must: Sequence[Condition] = ()
    should: Sequence[Condition] = ()
    must_not: Sequence[Condition] = ()


def payload_key(field: str) -> str:
    """Where a field lies in a point's payload, as a path of Qdrant's."""
    return f"metadata.{field}"


def type_of(value: Value, path: str) -> FieldType:
    """The type that a value has, or InvalidArgument if it can have none."""
    match value:
        case bool():
            return FieldType.BOOL
        case int() if value in _INT64:
            return FieldType.INTEGER
        case int():
            raise InvalidArgument(path, "does not fit into 64 bits")
        case float() if math.isfinite(value):
            return FieldType.FLOAT
        case float():
            raise InvalidArgument(path, "is not a finite number")
        case str():
            return FieldType.KEYWORD
        case [*items] if all(isinstance(item, str) for item in items):
            return FieldType.KEYWORD
    raise InvalidArgument(path, "must be a string, a whole number, a number, a boolean or a list of strings")


def declare(metadata: Mapping[str, Value], schema: Schema, path: str) -> dict[str, FieldType]:
    """The fields that `metadata` adds to `schema`; InvalidArgument if a value contradicts it or a name is unfit.

    `path` is where the metadata lies in the request, as in `passages[2].metadata`.
    """
    new: dict[str, FieldType] = {}
    for field, value in metadata.items():
        if not _NAME.fullmatch(field):
            raise InvalidArgument(path, 'has a field whose name is not 1 to 64 letters, digits, "_" or "-"')
        found, declared = type_of(value, f"{path}.{field}"), schema.get(field)
        if declared is None:
            new[field] = found
        elif not _fits(found, declared):
            raise InvalidArgument(
                f"{path}.{field}", f"is of type {found}, but this field is of type {declared}", reason="WRONG_TYPE"
            )
    return new


def stored(value: Value, declared: FieldType) -> Value:
    """The value as it is stored: whole numbers in a field of numbers become numbers."""
    if declared is FieldType.FLOAT and isinstance(value, int):
        return float(value)
    return value if isinstance(value, str | int | float) else list(value)


def to_qdrant(condition_filter: Filter, schema: Schema) -> models.Filter | None:
    """The same filter in Qdrant's words; None if it is empty. InvalidArgument if it does not fit `schema`."""
    groups = {
        name: [
            _condition(condition, schema, f"filter.{name}[{position}]")
            for position, condition in enumerate(getattr(condition_filter, name))
        ]
        for name in ("must", "should", "must_not")
    }
    return models.Filter(**groups) if any(groups.values()) else None


def _fits(found: FieldType, declared: FieldType) -> bool:
    return found is declared or (found is FieldType.INTEGER and declared is FieldType.FLOAT)


def _condition(condition: Condition, schema: Schema, path: str) -> models.Condition:
    declared = schema.get(condition.field)
    if declared is None:
        known = sorted(schema)[:_FIELDS_SHOWN] + ["..."] * (len(schema) > _FIELDS_SHOWN)
        name = repr(condition.field) if _NAME.fullmatch(condition.field) else "this"
        raise InvalidArgument(
            f"{path}.field",
            f"{name} is not a field of this collection; its fields are: {', '.join(known) or 'none yet'}",
            reason="UNKNOWN_FIELD",
        )
    key = payload_key(condition.field)
    match condition:
        case Equals(value=value):
            _check(value, declared, f"{path}.equals")
            return _equals(key, value, declared)
        case AnyOf(values=values):
            if not 1 <= len(values) <= 1000:
                raise InvalidArgument(f"{path}.any_of", f"has {len(values)} values; send 1 to 1000")
            for position, value in enumerate(values):
                _check(value, declared, f"{path}.any_of[{position}]")
            if declared in (FieldType.KEYWORD, FieldType.INTEGER):
                return models.FieldCondition(key=key, match=models.MatchAny.model_validate({"any": values}))
            return models.Filter(should=[_equals(key, value, declared) for value in values])
        case Range(gt=gt, gte=gte, lt=lt, lte=lte):
            if declared not in (FieldType.INTEGER, FieldType.FLOAT):
                raise InvalidArgument(
                    f"{path}.range", f"needs a field of numbers; {condition.field} is of type {declared}",
                    reason="WRONG_TYPE",
                )  # fmt: skip
            bounds = [bound for bound in (gt, gte, lt, lte) if bound is not None]
            if not bounds or not all(map(math.isfinite, bounds)):
                raise InvalidArgument(f"{path}.range", "needs at least one bound, and only finite ones")
            return models.FieldCondition(key=key, range=models.Range(gt=gt, gte=gte, lt=lt, lte=lte))
        case Exists(exists=exists):
            empty = models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
            return models.Filter(must_not=[empty]) if exists else empty


def _check(value: Value, declared: FieldType, path: str) -> None:
    found = type_of(value, path)
    if not isinstance(value, str | int | float):
        raise InvalidArgument(path, "is a list; ask for any_of its values")
    if not _fits(found, declared):
        raise InvalidArgument(path, f"is of type {found}, but this field is of type {declared}", reason="WRONG_TYPE")


def _equals(key: str, value: str | int | float | bool, declared: FieldType) -> models.FieldCondition:
    if declared is FieldType.FLOAT or isinstance(value, float):  # Qdrant matches no floats, but ranges of them
        return models.FieldCondition(key=key, range=models.Range(gte=value, lte=value))
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))
