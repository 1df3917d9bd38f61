"""Rows of a drill: each provokes a fault, says what it expects, and returns what it saw."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

SettingT = TypeVar("SettingT")


@dataclass(frozen=True)
class Seen:
    """Observation of a row, and its verdict."""

    ok: bool
    words: str


@dataclass(frozen=True)
class Row:
    """One fault."""

    fault: str
    expected: str
    run: Callable[[Any], Awaitable[Seen]]
    quick: bool
    """True if it takes a second or two, and no clock decides: the test suite runs it, too."""
    longest_seconds: float
    """Time after which it has failed."""


@dataclass
class Group(Generic[SettingT]):
    """Rows that share what is expensive to set up."""

    name: str
    setting: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext
    rows: list[Row] = field(default_factory=list)

    def row(
        self, fault: str, expected: str, *, quick: bool = False, longest_seconds: float = 180.0
    ) -> Callable[[Callable[[Any], Awaitable[Seen]]], Callable[[Any], Awaitable[Seen]]]:
        """Add a coroutine function that gets the setting."""

        def add(run: Callable[[Any], Awaitable[Seen]]) -> Callable[[Any], Awaitable[Seen]]:
            self.rows.append(Row(fault, expected, run, quick, longest_seconds))
            return run

        return add


def ms(seconds: float) -> str:
    """Milliseconds with a sensible number of digits."""
    value = seconds * 1000
    return f"{value:.0f} ms" if value >= 10 else f"{value:.2g} ms"
