"""Filters over metadata, written as comparisons.

Filter(
    must=[field("year") >= 2020, field("lang").any_of("en", "de")],
    must_not=[field("draft") == True],
)

Filters may hold filters, as in

all_of(field("year") >= 2020, any_of(field("lang") == "de", none_of(field("kind") == "news", field("kind") == "ad")))
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sluice.type.v1 import filter_pb2 as pb
from sluice_client.errors import invalid
from sluice_client.messages import Sent, fill, sendable, to_value

Scalar: TypeAlias = str | int | float | bool
Operator: TypeAlias = Literal["==", "any_of", ">", ">=", "<", "<=", "exists"]
Bound: TypeAlias = float | str | datetime.date
"""A number; or a date, as `datetime` has it or as RFC 3339 writes it, for a field of such keywords."""
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_INT64 = range(-(2**63), 2**63)
_BOUNDS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}


@dataclass(frozen=True, slots=True)
class Condition(Sent, proto=pb.Condition):
    """A test of a metadata field, made with `field`."""

    field: str
    operator: Operator
    value: Scalar | datetime.date | tuple[Scalar, ...]
    """Dates only after an operator of order."""

    def __bool__(self) -> bool:
        raise TypeError(
            "a condition is neither true nor false here: write `1 < x < 5` as two conditions, `and` as must, `or` as "
            "should, `not` as must_not"
        )

    def to_proto(self, path: str = "") -> pb.Condition:
        """Write the message. Raises SluiceError for a test that makes no sense."""
        message = pb.Condition(field=sendable(f"{path}.field", self.field))
        match self.operator, self.value:
            case "exists", bool(exists):
                message.exists = exists
            case "==", str() | int() | float() as value:
                message.equals.CopyFrom(to_value(value, f"{path}.equals"))
            case "any_of", tuple(values):
                members = [to_value(value, f"{path}.any_of[{place}]") for place, value in enumerate(values)]
                message.any_of.CopyFrom(pb.ValueList(values=members))
            case (">" | ">=" | "<" | "<=") as operator, int() as bound if bound in _INT64:
                setattr(message.integer_range, _BOUNDS[operator], bound)
            case (">" | ">=" | "<" | "<=") as operator, int() | float() as bound:
                setattr(message.range, _BOUNDS[operator], bound)
            case (">" | ">=" | "<" | "<=") as operator, str() as date if _DATE.match(date):
                setattr(message.date_range, _BOUNDS[operator], sendable(f"{path}.date_range", date))
            case (">" | ">=" | "<" | "<=") as operator, datetime.date() as moment:
                setattr(message.date_range, _BOUNDS[operator], moment.isoformat())
            case operator, value:
                raise invalid(path, f"cannot test whether {self.field} {operator} {value!r}", "WRONG_TYPE")
        return message


@dataclass(frozen=True, slots=True)
class Filter(Sent, proto=pb.Filter):
    """Conditions: all of `must`, any of `should`, none of `must_not`.

    A filter may be a condition of another, up to 4 levels deep.
    """

    must: Sequence[Condition | Filter] = ()
    should: Sequence[Condition | Filter] = ()
    must_not: Sequence[Condition | Filter] = ()

    def to_proto(self, path: str = "") -> pb.Filter:
        """Write the message. Raises SluiceError for a test that makes no sense."""
        return fill(pb.Filter(), path, must=_held(self.must), should=_held(self.should), must_not=_held(self.must_not))


@dataclass(frozen=True, slots=True)
class _Held(Sent, proto=pb.Condition):
    """A filter as a condition of another."""

    filter: Filter


def _held(conditions: Sequence[Condition | Filter]) -> Sequence[Sent]:
    return [_Held(one) if isinstance(one, Filter) else one for one in conditions]


class Field:
    """A metadata field; a comparison with it makes a condition."""

    __hash__ = None  # type: ignore[assignment]  # its == makes conditions, so it can be no key

    def __init__(self, name: str) -> None:
        self._name = name

    def __eq__(self, value: Scalar) -> Condition:  # type: ignore[override]  # makes a condition instead of comparing
        return Condition(self._name, "==", value)

    def __ne__(self, value: Scalar) -> Condition:  # type: ignore[override]  # as above
        raise TypeError(f'put field("{self._name}") == {value!r} into must_not instead of using !=')

    def __gt__(self, value: Bound) -> Condition:
        return Condition(self._name, ">", value)

    def __ge__(self, value: Bound) -> Condition:
        return Condition(self._name, ">=", value)

    def __lt__(self, value: Bound) -> Condition:
        return Condition(self._name, "<", value)

    def __le__(self, value: Bound) -> Condition:
        return Condition(self._name, "<=", value)

    def any_of(self, *values: Scalar) -> Condition:
        """True for a field with one of these values."""
        return Condition(self._name, "any_of", values)

    def exists(self) -> Condition:
        """True for a document that has the field, and no empty list."""
        return Condition(self._name, "exists", True)

    def missing(self) -> Condition:
        """True for a document without the field."""
        return Condition(self._name, "exists", False)


def field(name: str) -> Field:
    """Name a metadata field to compare: `field("year") >= 2020`."""
    return Field(name)


def all_of(*conditions: Condition | Filter) -> Filter:
    """Make a filter for what fulfils all of these."""
    return Filter(must=conditions)


def any_of(*conditions: Condition | Filter) -> Filter:
    """Make a filter for what fulfils at least one of these."""
    return Filter(should=conditions)


def none_of(*conditions: Condition | Filter) -> Filter:
    """Make a filter for what fulfils none of these."""
    return Filter(must_not=conditions)
