"""Types of metadata fields: given, or decided by sampled values, by the same rules for every format.

A field holds numbers only where nothing of them is lost: each is how its number is written, or all have the same count
of decimals. Any other mixture is text.
"""

from __future__ import annotations

import enum
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sluice_cli.calls import WRONG_COMMAND_LINE, Problem
from sluice_cli.indexing.records import Rejected
from sluice_client import MetadataValue

_UNFIT = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST_NAME = 64
_WHOLE = re.compile(r"-?(0|[1-9]\d{0,18})", re.ASCII)
_FIXED = re.compile(r"-?(0|[1-9]\d{0,17})\.(\d{1,18})", re.ASCII)
_ANY_NUMBER = re.compile(r"[+-]?(\d{1,400}(\.\d{0,400})?|\.\d{1,400})([eE][+-]?\d{1,3})?", re.ASCII)
_ANY_WHOLE = re.compile(r"[+-]?\d{1,400}", re.ASCII)
_INT64 = range(-(2**63), 2**63)
_MOST_SHOWN = 40


class Kind(enum.StrEnum):
    """Type of a field, by the name that the command line gives it."""

    TEXT = "text"
    WHOLE = "integer"
    DECIMAL = "float"
    TRUTH = "bool"

    @property
    def noun(self) -> str:
        """A value of it, in words."""
        return _NOUNS[self]


_NOUNS = {
    Kind.TEXT: "text",
    Kind.WHOLE: "a whole number",
    Kind.DECIMAL: "a number",
    Kind.TRUTH: "true or false",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """Text of a table, which may stand for a number."""

    text: str


Raw: TypeAlias = Any
"""A value of a record: a `Cell`, or a value of JSON."""


@dataclass(slots=True)
class _Seen:
    """The values of a field that were sampled."""

    count: int = 0
    kinds: set[Kind] = field(default_factory=set)
    inexact: bool = False
    """True if there are whole numbers that no decimal number is equal to."""
    unlike: bool = False
    """True if there are cells that are numbers, but not as their number is written."""
    decimals: set[int] = field(default_factory=set)
    """Counts of decimals of cells; -1 where a cell has none or more than a number keeps."""
    odd: tuple[int, str] | None = None
    """Line and text of the first value that is no number, or not as its number is written."""
    typed: int = 0
    """Number of values that are no text."""

    def add(self, raw: Raw, line: int) -> None:
        """Note a value."""
        kind, written, text = _kind_of(raw)
        self.count += 1
        self.kinds.add(kind)
        number = kind in (Kind.WHOLE, Kind.DECIMAL)
        self.typed += kind is not Kind.TEXT
        if kind is Kind.WHOLE:
            self.inexact = self.inexact or float(int(text)) != int(text)
        if number and isinstance(raw, Cell):
            self.decimals.add(_decimals(text))
        elif number:
            self.decimals.add(-1)
        self.unlike = self.unlike or (number and not written)
        if self.odd is None and not (number and written):
            self.odd = line, text

    def decide(self) -> tuple[Kind, str]:
        """Return the type, and the reason if it is text though many values are not."""
        numbers = self.kinds <= {Kind.WHOLE, Kind.DECIMAL}
        kind = Kind.TEXT
        if self.kinds == {Kind.TRUTH}:
            kind = Kind.TRUTH
        elif self.kinds == {Kind.WHOLE} and not self.unlike:
            kind = Kind.WHOLE
        elif numbers and (not (self.unlike or self.inexact) or (len(self.decimals) == 1 and -1 not in self.decimals)):
            kind = Kind.DECIMAL
        return kind, self._reason(numbers) if kind is Kind.TEXT and self.typed * 2 >= self.count else ""

    def _reason(self, numbers: bool) -> str:
        if self.odd is None:
            return "it has decimals, and whole numbers that no decimal is equal to"
        line, text = self.odd
        if numbers:
            return f"{text[:_MOST_SHOWN]!r} in line {line} would not come back as it is written"
        return f"its values are not of one type ({text[:_MOST_SHOWN]!r} in line {line})"


class Types:
    """Types of fields: those given, and those that the sampled values decide."""

    def __init__(self, given: Mapping[str, Kind], noun: str) -> None:
        """`noun` is what the source calls a field."""
        self._kinds = dict(given)
        self._given = given
        self._noun = noun
        self._seen: dict[str, _Seen] = {}

    def sample(self, values: Mapping[str, Raw], line: int) -> None:
        """Note the values of a record."""
        for name, raw in values.items():
            if name not in self._given and _is_plain(raw):
                self._seen.setdefault(name, _Seen()).add(raw, line)

    def decide(self) -> list[str]:
        """Decide the types by the values so far; return what a reader should know of them."""
        said = []
        for name, seen in self._seen.items():
            self._kinds[name], reason = seen.decide()
            if reason:
                said.append(
                    f"{self._noun} {name!r} is text, as {reason}; --type {name}=float (or integer, bool) decides"
                )
        return said

    def values(self, values: Mapping[str, Raw]) -> dict[str, MetadataValue]:
        """Convert the values of a record to their fields' types. Raises Rejected."""
        return {name: self._value(name, raw) for name, raw in values.items()}

    def _value(self, name: str, raw: Raw) -> MetadataValue:
        kind = self._kinds.get(name, Kind.TEXT if isinstance(raw, Cell) else None)
        if kind is None or (kind is Kind.TEXT and isinstance(raw, str | list)) or not _is_plain(raw, kind is Kind.TEXT):
            value: MetadataValue = raw  # as it is; the client refuses what no field can hold
            return value
        if kind is Kind.TEXT:
            return raw.text if isinstance(raw, Cell) else json.dumps(raw)
        found, written, text = _kind_of(raw)
        if name in self._given:
            if not _LEGIBLE[kind].fullmatch(text) or (kind is Kind.WHOLE and int(text) not in _INT64):
                raise Rejected(f"is not {kind.noun} in {self._noun} {name!r}, as --type says: {text[:_MOST_SHOWN]!r}")
            return _READINGS[kind](name, text)
        fits = found in _FITS[kind] and (written or self._seen[name].decimals == {_decimals(text)})
        if not fits:
            raise Rejected(
                f"is not {kind.noun} in {self._noun} {name!r}, as those before it are: {text[:_MOST_SHOWN]!r}; "
                f"--type {name}=text stores them all"
            )
        return _READINGS[found if found is Kind.DECIMAL else kind](name, text)


def given_types(options: list[str]) -> dict[str, Kind]:
    """Read the `--type NAME=KIND` of the command line. Raises Problem."""
    given: dict[str, Kind] = {}
    for option in options:
        name, _, kind = option.rpartition("=")
        if not name or kind not in set(Kind):
            raise Problem(
                f"--type {option} is not NAME=TYPE",
                f"give it as --type price=float; the types are {', '.join(Kind)}",
                exit_code=WRONG_COMMAND_LINE,
            )
        given[field_name(name)] = Kind(kind)
    return given


def field_name(title: str) -> str:
    """Return the name of the field for a column or a key."""
    return _UNFIT.sub("_", title.strip())[:_LONGEST_NAME]


def _is_plain(raw: Raw, any_number: bool = False) -> bool:
    """True for what one field can hold: no objects, no lists of other than strings, no number out of range."""
    match raw:
        case bool() | str() | Cell():
            return True
        case int():
            return any_number or raw in _INT64
        case float():
            return math.isfinite(raw)
        case [*items]:
            return all(isinstance(item, str) for item in items)
    return False


def _kind_of(raw: Raw) -> tuple[Kind, bool, str]:
    """Return the type of a value alone, true if it is written as its number is, and its text."""
    match raw:
        case bool():
            return Kind.TRUTH, True, json.dumps(raw)
        case int():
            return Kind.WHOLE, True, str(raw)
        case float():
            return Kind.DECIMAL, True, repr(raw)
        case Cell(text=text):
            return _kind_of_text(text)
        case str():
            return Kind.TEXT, True, raw
    return Kind.TEXT, True, json.dumps(raw)


def _kind_of_text(text: str) -> tuple[Kind, bool, str]:
    if text.lower() in ("true", "false"):
        return Kind.TRUTH, True, text
    if _WHOLE.fullmatch(text) and int(text) in _INT64:
        return Kind.WHOLE, str(int(text)) == text, text
    if _ANY_NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return Kind.DECIMAL, repr(float(text)) == text, text
    return Kind.TEXT, True, text


def _decimals(text: str) -> int:
    """Count the decimals of a number that keeps them all; -1 for any other text."""
    found = _FIXED.fullmatch(text)
    if not found:
        return -1
    count = len(found[2])
    return count if f"{float(text):.{count}f}" == text else -1


def _decimal(name: str, text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise Rejected(f"has a number in {name!r} that is too large: {text[:_MOST_SHOWN]!r}")
    if _WHOLE.fullmatch(text) and int(value) != int(text):
        raise Rejected(
            f"has a whole number in {name!r} that no decimal number is equal to; --type {name}=text keeps it"
        )
    return value


_LEGIBLE = {
    Kind.WHOLE: _ANY_WHOLE,
    Kind.DECIMAL: _ANY_NUMBER,
    Kind.TRUTH: re.compile(r"true|false", re.IGNORECASE),
}
# A whole number's field takes decimals: the server widens it.
_FITS = {
    Kind.WHOLE: {Kind.WHOLE, Kind.DECIMAL},
    Kind.DECIMAL: {Kind.WHOLE, Kind.DECIMAL},
    Kind.TRUTH: {Kind.TRUTH},
}
_READINGS: Mapping[Kind, Callable[[str, str], MetadataValue]] = {
    Kind.WHOLE: lambda _, text: int(text),
    Kind.DECIMAL: _decimal,
    Kind.TRUTH: lambda _, text: text.lower() == "true",
}
