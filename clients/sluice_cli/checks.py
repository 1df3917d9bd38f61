"""What a check of the doctor's comes to."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Status(enum.StrEnum):
    """How a check ended."""

    OK = "OK"
    WARN = "WARN"
    """It works, or would, but not as well as it could."""
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding, and what to do where it is not good."""

    status: Status
    subject: str
    finding: str
    remedy: str = ""


def ok(subject: str, finding: str) -> Check:
    """All is well."""
    return Check(Status.OK, subject, finding)


def warn(subject: str, finding: str, remedy: str) -> Check:
    """Worth a look."""
    return Check(Status.WARN, subject, finding, remedy)


def fail(subject: str, finding: str, remedy: str) -> Check:
    """Broken."""
    return Check(Status.FAIL, subject, finding, remedy)
