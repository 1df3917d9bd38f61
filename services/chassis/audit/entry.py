"""The audit entry of the call under way: its parts that only the code within knows."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Entry:
    """Facts on one call, besides those that every call has."""

    object: dict[str, Any] = field(default_factory=dict)
    """The things that the call is about, by kind."""
    facts: dict[str, Any] = field(default_factory=dict)
    """More, as the policy that decided."""
    asked: bool = False
    """True if the call is written whatever it was and however it ended."""
    written: bool = False


_entry: ContextVar[Entry | None] = ContextVar("audit_entry", default=None)


def begin() -> Entry:
    """Make the entry of the call that begins."""
    entry = Entry()
    _entry.set(entry)
    return entry


def note_object(object_: dict[str, Any]) -> None:
    """Say what the current call is about."""
    if (entry := _entry.get()) is not None:
        entry.object = object_


def note(**facts: Any) -> None:
    """Add facts to the entry of the current call, if there is one."""
    if (entry := _entry.get()) is not None:
        entry.facts.update(facts)


def note_read(object_: dict[str, Any], **facts: Any) -> None:
    """Add facts to the entry of a call that only reads, and have it written, if entries are made."""
    if (entry := _entry.get()) is not None:
        entry.asked = True
        entry.object = object_
        entry.facts.update(facts)
