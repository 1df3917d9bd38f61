"""Filters over metadata that read like what they mean.

Filter(
    must=[field("year") >= 2020, field("lang").any_of("en", "de")],
    must_not=[field("draft") == True],
)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Scalar: TypeAlias = str | int | float | bool
Operator: TypeAlias = Literal["==", "any_of", ">", ">=", "<", "<=", "exists"]


@dataclass(frozen=True, slots=True)
class Condition:
    """One test of one metadata field, made with `field`. It has no truth value of its own."""

    field: str
    operator: Operator
    value: Scalar | tuple[Scalar, ...]

    def __bool__(self) -> bool:
        raise TypeError(
            "a condition is neither true nor false here: write `1 < x < 5` as two conditions, `and` as must, `or` as "
            "should, `not` as must_not"
        )


@dataclass(frozen=True, slots=True)
class Filter:
    """Keeps documents for which all of `must`, at least one of `should` (if any), and none of `must_not` hold."""

    must: Sequence[Condition] = ()
    should: Sequence[Condition] = ()
    must_not: Sequence[Condition] = ()


class Field:
    """A metadata field; comparing it makes a condition."""

    __hash__ = None  # type: ignore[assignment]  # its == makes conditions, so it can be no key

    def __init__(self, name: str) -> None:
        self._name = name

    def __eq__(self, value: Scalar) -> Condition:  # type: ignore[override]  # makes a condition instead of comparing
        return Condition(self._name, "==", value)

    def __ne__(self, value: Scalar) -> Condition:  # type: ignore[override]  # as above
        raise TypeError(f'put field("{self._name}") == {value!r} into must_not instead of using !=')

    def __gt__(self, value: float) -> Condition:
        return Condition(self._name, ">", value)

    def __ge__(self, value: float) -> Condition:
        return Condition(self._name, ">=", value)

    def __lt__(self, value: float) -> Condition:
        return Condition(self._name, "<", value)

    def __le__(self, value: float) -> Condition:
        return Condition(self._name, "<=", value)

    def any_of(self, *values: Scalar) -> Condition:
        """The field has one of these values, 1 to 1000 of one type."""
        return Condition(self._name, "any_of", values)

    def exists(self) -> Condition:
        """The field is there; an empty list counts as not there."""
        return Condition(self._name, "exists", True)

    def missing(self) -> Condition:
        """The field is not there."""
        return Condition(self._name, "exists", False)


def field(name: str) -> Field:
    """The metadata field of that name, to be compared: `field("year") >= 2020`."""
    return Field(name)
