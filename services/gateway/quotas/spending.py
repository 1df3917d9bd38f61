"""Tokens that models read for the call under way. Clients of model stages add them, and the quotas charge them."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Spending:
    """The tokens of one call."""

    tokens: int = 0


_spending: ContextVar[Spending | None] = ContextVar("spending", default=None)


def begin() -> Spending:
    """Count the tokens of the call that begins. The tasks that it starts add to the same count."""
    spending = Spending()
    _spending.set(spending)
    return spending


def under_way() -> Spending:
    """The count of the call under way, begun now if nobody has."""
    return _spending.get() or begin()


def spend(tokens: int) -> None:
    """Add tokens that a model has read; those of work that no caller asked for are not counted."""
    if (spending := _spending.get()) is not None:
        spending.tokens += tokens
