"""Findings of `sluice doctor`."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Status(enum.StrEnum):
    """Result of a check."""

    OK = "OK"
    WARN = "WARN"
    """It works, but not as well as it could."""
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """A finding, and its remedy if it is not good."""

    status: Status
    subject: str
    finding: str
    remedy: str = ""


def ok(subject: str, finding: str) -> Check:
    """Make a good finding."""
    return Check(Status.OK, subject, finding)


def warn(subject: str, finding: str, remedy: str) -> Check:
    """Make a warning."""
    return Check(Status.WARN, subject, finding, remedy)


def fail(subject: str, finding: str, remedy: str) -> Check:
    """Make a failure."""
    return Check(Status.FAIL, subject, finding, remedy)
