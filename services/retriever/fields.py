"""Typed metadata of passages, and filters on it.

The first value stored for a field declares its type for the whole collection. A field of whole numbers widens to one of
decimals when the first comes, and never back. Other values and conditions that do not fit the type are refused, where a
vector database would silently match nothing.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from services.chassis.errors import InvalidArgument
from sluice.type.v1 import filter_pb2 as pb

Scalar = str | int | float | bool
Value = Scalar | Sequence[str]
"""A metadata value; a list holds strings only."""

MAX_CONDITIONS = 64
"""Most conditions of a filter; a filter within it counts, and so do that one's conditions."""
MAX_VALUES = 1000
"""Most values in all conditions of a filter."""
MAX_LEVELS = 4
"""Most levels of filters within filters, the outermost included."""
MAX_FIELDS = 256

_PARTS = ("must", "should", "must_not")
_BOUNDS = ("gt", "gte", "lt", "lte")
_DATE = re.compile(r"\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d:\d\d)?)?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FIELDS_SHOWN = 20
_INT64 = range(-(2**63), 2**63)


class FieldType(enum.StrEnum):
    """Type of a metadata field."""

    KEYWORD = "keyword"
    INTEGER = "integer"
    FLOAT = "float"
    BOOL = "bool"

    def to_proto(self) -> pb.FieldType.ValueType:
        """Write the type."""
        return pb.FieldType.Value(f"FIELD_TYPE_{self.name}")


Schema = Mapping[str, FieldType]


@dataclass(frozen=True, slots=True)
class Equals:
    """The field has this value."""

    field: str
    value: Scalar


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The field has one of these values."""

    field: str
    values: Sequence[Scalar]


@dataclass(frozen=True, slots=True)
class Range:
    """The number lies within these bounds; at least one is set. Whole numbers are compared exactly."""

    field: str
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


@dataclass(frozen=True, slots=True)
class DateRange:
    """The keyword is a date within these bounds; at least one is set."""

    field: str
    gt: datetime | None = None
    gte: datetime | None = None
    lt: datetime | None = None
    lte: datetime | None = None


@dataclass(frozen=True, slots=True)
class Exists:
    """The field is present, or is absent; an empty list counts as absent."""

    field: str
    exists: bool = True


Test = Equals | AnyOf | Range | DateRange | Exists
Condition: TypeAlias = "Test | Filter"


@dataclass(frozen=True, slots=True)
class Filter:
    """All of `must`, at least one of `should` (if there are any) and none of `must_not` hold.

    A filter may be a condition of another; one that is empty keeps everything.
    """

    must: Sequence[Condition] = ()
    should: Sequence[Condition] = ()
    must_not: Sequence[Condition] = ()

    def __bool__(self) -> bool:
        return bool(self.must or self.should or self.must_not)

    @classmethod
    def from_proto(cls, message: pb.Filter) -> Filter:
        """Read a filter; InvalidArgument for a condition without a test or a value, and for too many of them."""
        if not message.ByteSize():
            return ALL
        conditions = list(_conditions(message, "filter", 1))
        if len(conditions) > MAX_CONDITIONS:
            problem = f"has {len(conditions)} conditions; send at most {MAX_CONDITIONS}"
            raise InvalidArgument("filter", problem, reason="TOO_MANY_CONDITIONS")
        values = sum(
            len(condition.any_of.values) for condition in conditions if condition.WhichOneof("test") == "any_of"
        )
        if values > MAX_VALUES:
            raise InvalidArgument(
                "filter", f"has {values} values in its conditions; send at most {MAX_VALUES}", reason="TOO_MANY_VALUES"
            )
        return _filter(message, "filter")

    def fit(self, schema: Schema) -> Filter:
        """Return the filter with its values in the fields' types; InvalidArgument where one does not fit."""
        return _fit_filter(self, schema, "filter")


ALL = Filter()
"""The filter that keeps everything."""


def value_from_proto(message: pb.Value, path: str) -> Value:
    """Read a metadata value; InvalidArgument if none is set."""
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidArgument(path, "has no value; set one of its kinds, or leave the field out")
    if kind == "string_list_value":
        return list(message.string_list_value.values)
    value: Value = getattr(message, kind)
    return value


def value_to_proto(value: Value) -> pb.Value:
    """Write a metadata value."""
    message = pb.Value()
    set_value(message, value)
    return message


def set_value(message: pb.Value, value: Value) -> None:
    """Write a metadata value into a message, which is empty yet."""
    match value:
        case str():
            message.string_value = value
        case bool():
            message.bool_value = value
        case int():
            message.integer_value = value
        case float():
            message.float_value = value
        case _:
            message.string_list_value.SetInParent()
            message.string_list_value.values.extend(value)


def type_of(value: Value, path: str) -> FieldType:
    """Return the type of a value, or raise InvalidArgument if it can have none."""
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
    """Return the fields that `metadata` adds to `schema`, or widens there from whole numbers to decimals.

    Raises InvalidArgument if a value contradicts the schema or a name is unfit. `path` is the place of the metadata in
    the request, as in `passages[2].metadata`.
    """
    new: dict[str, FieldType] = {}
    for field, value in metadata.items():
        if not _NAME.fullmatch(field):
            raise InvalidArgument(path, 'has a field whose name is not 1 to 64 letters, digits, "_" or "-"')
        found, declared = type_of(value, f"{path}.{field}"), schema.get(field)
        if declared is None or (found, declared) == (FieldType.FLOAT, FieldType.INTEGER):
            new[field] = found
            continue
        _check_type(found, declared, f"{path}.{field}")
        if declared is FieldType.FLOAT and int(value) == value != float(value):  # type: ignore[arg-type]  # a number
            problem = "is a whole number that no decimal number is exactly equal to; store it as text"
            raise InvalidArgument(f"{path}.{field}", problem, reason="WRONG_TYPE")
    return new


def declare_all(batch: Sequence[Mapping[str, Value]], schema: Schema) -> dict[str, FieldType]:
    """Do `declare` for the metadata of a batch of passages, of which each declares for those after it."""
    new: dict[str, FieldType] = {}
    for place, metadata in enumerate(batch):
        path = _path(place)
        new |= declare(metadata, {**schema, **new}, path)
        if len(schema.keys() | new.keys()) > MAX_FIELDS:
            raise InvalidArgument(path, f"brings the collection to more than {MAX_FIELDS} fields")
    return new


def types_of(batch: Sequence[Mapping[str, Value]]) -> set[tuple[str, FieldType]]:
    """Return the fields of a batch of passages, each with every type of its values."""
    return {
        (name, type_of(value, f"{_path(place)}.{name}"))
        for place, metadata in enumerate(batch)
        for name, value in metadata.items()
    }


def all_fit(used: Iterable[tuple[str, FieldType]], schema: Schema) -> bool:
    """True if no declared field contradicts these types."""
    return all(go_together(kind, schema.get(name, kind)) for name, kind in used)


def go_together(found: FieldType, declared: FieldType) -> bool:
    """True if values of the one type can be stored in a field of the other, which possibly widens."""
    return found is declared or {found, declared} == {FieldType.INTEGER, FieldType.FLOAT}


def declared_type(field: str, schema: Schema, path: str) -> FieldType:
    """Return the type of a field, or raise InvalidArgument (UNKNOWN_FIELD) if it has none."""
    if (declared := schema.get(field)) is not None:
        return declared
    known = sorted(schema)[:_FIELDS_SHOWN] + ["..."] * (len(schema) > _FIELDS_SHOWN)
    name = repr(field) if _NAME.fullmatch(field) else "this"
    problem = f"{name} is not a field of this collection; its fields are: {', '.join(known) or 'none yet'}"
    raise InvalidArgument(path, problem, reason="UNKNOWN_FIELD")


def stored(value: Value, declared: FieldType) -> Value:
    """Return a value as it is stored: whole numbers in a field of numbers become numbers."""
    if declared is FieldType.FLOAT and isinstance(value, int):
        return float(value)
    return value if isinstance(value, str | int | float) else list(value)


def _path(place: int) -> str:
    return f"passages[{place}].metadata"


def _conditions(message: pb.Filter, path: str, level: int) -> Iterator[pb.Condition]:
    """Iterate over all conditions of a filter, and of those within it."""
    if level > MAX_LEVELS:
        raise InvalidArgument(
            path, f"is more than {MAX_LEVELS} levels deep; write the filter flatter", reason="NESTED_TOO_DEEP"
        )
    for part in _PARTS:
        for place, condition in enumerate(getattr(message, part)):
            yield condition
            if condition.WhichOneof("test") == "filter":
                yield from _conditions(condition.filter, f"{path}.{part}[{place}].filter", level + 1)


def _filter(message: pb.Filter, path: str) -> Filter:
    return Filter(
        *(
            [_condition(condition, f"{path}.{part}[{place}]") for place, condition in enumerate(getattr(message, part))]
            for part in _PARTS
        )
    )


def _condition(message: pb.Condition, path: str) -> Condition:
    if message.WhichOneof("test") != "filter":
        return _test(message, path)
    if message.field:
        raise InvalidArgument(f"{path}.field", "stands beside a filter; leave it empty")
    if not (inner := _filter(message.filter, f"{path}.filter")):
        raise InvalidArgument(f"{path}.filter", "is empty; give it conditions, or leave it out")
    return inner


def _test(message: pb.Condition, path: str) -> Test:
    match message.WhichOneof("test"):
        case "equals":
            return Equals(message.field, _scalar(message.equals, f"{path}.equals"))
        case "any_of":
            values = enumerate(message.any_of.values)
            return AnyOf(message.field, [_scalar(value, f"{path}.any_of[{place}]") for place, value in values])
        case "range":
            return Range(message.field, **{bound.name: number for bound, number in message.range.ListFields()})
        case "integer_range":
            return Range(message.field, **{bound.name: number for bound, number in message.integer_range.ListFields()})
        case "date_range":
            bounds = {
                bound.name: _date(text, f"{path}.date_range.{bound.name}")
                for bound, text in message.date_range.ListFields()
            }
            return DateRange(message.field, **bounds)
        case "exists":
            return Exists(message.field, message.exists)
    raise InvalidArgument(path, "has no test; set equals, any_of, range, integer_range, date_range, exists or filter")


def _date(text: str, path: str) -> datetime:
    """Read a moment as RFC 3339 writes it; without an offset it is UTC, without a time it is midnight."""
    if not _DATE.fullmatch(text):
        raise InvalidArgument(path, "is no date of RFC 3339, as 2024-05-01T12:00:00Z or 2024-05-01")
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        raise InvalidArgument(path, "is no date of the calendar") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _decimal(name: str, bound: float) -> tuple[str, float]:
    """Return a bound for decimal numbers: where no decimal is equal to a whole number, the next one decides."""
    nearest = float(bound)
    if nearest == bound:
        return name, nearest
    below = nearest < bound
    return ("gt" if below else "gte") if name.startswith("g") else ("lte" if below else "lt"), nearest


def _scalar(message: pb.Value, path: str) -> Scalar:
    value = value_from_proto(message, path)
    if not isinstance(value, str | int | float):
        raise InvalidArgument(path, "is a list; ask for any_of its values")
    return value


def _fit_filter(unfit: Filter, schema: Schema, path: str) -> Filter:
    return Filter(
        *(
            [_fit(condition, schema, f"{path}.{part}[{place}]") for place, condition in enumerate(getattr(unfit, part))]
            for part in _PARTS
        )
    )


def _fit(condition: Condition, schema: Schema, path: str) -> Condition:
    if isinstance(condition, Filter):
        return _fit_filter(condition, schema, f"{path}.filter")
    field, declared = condition.field, declared_type(condition.field, schema, f"{path}.field")
    match condition:
        case Equals(value=value):
            return Equals(field, _fit_value(value, declared, f"{path}.equals"))
        case AnyOf(values=values):
            if not 1 <= len(values) <= MAX_VALUES:
                raise InvalidArgument(f"{path}.any_of", f"has {len(values)} values; send 1 to {MAX_VALUES}")
            path = f"{path}.any_of"
            return AnyOf(field, [_fit_value(value, declared, f"{path}[{place}]") for place, value in enumerate(values)])
        case Range():
            if declared not in (FieldType.INTEGER, FieldType.FLOAT):
                problem = f"needs a field of numbers; {field} is of type {declared}"
                raise InvalidArgument(f"{path}.range", problem, reason="WRONG_TYPE")
            bounds = {name: bound for name in _BOUNDS if (bound := getattr(condition, name)) is not None}
            if not bounds or not all(map(math.isfinite, bounds.values())):
                raise InvalidArgument(f"{path}.range", "needs at least one bound, and only finite ones")
            fit = _whole if declared is FieldType.INTEGER else _decimal
            return Range(field, **dict(fit(name, bound) for name, bound in bounds.items()))
        case DateRange(gt=gt, gte=gte, lt=lt, lte=lte):
            if declared is not FieldType.KEYWORD:
                problem = f"needs a field of keywords; {field} is of type {declared}"
                raise InvalidArgument(f"{path}.date_range", problem, reason="WRONG_TYPE")
            if gt is gte is lt is lte is None:
                raise InvalidArgument(f"{path}.date_range", "needs at least one bound")
    return condition


def _whole(name: str, bound: float) -> tuple[str, float]:
    """Return a bound for whole numbers: as one where it is one."""
    return name, int(bound) if bound == int(bound) else bound


def _fit_value(value: Scalar, declared: FieldType, path: str) -> Scalar:
    _check_type(type_of(value, path), declared, path)
    return float(value) if declared is FieldType.FLOAT else value


def _check_type(found: FieldType, declared: FieldType, path: str) -> None:
    if found is not declared and (found, declared) != (FieldType.INTEGER, FieldType.FLOAT):
        raise InvalidArgument(path, f"is of type {found}, but this field is of type {declared}", reason="WRONG_TYPE")
