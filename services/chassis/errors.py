"""Errors that every stage raises, and one table that classifies them.

Domain code raises these and never imports grpc. The server turns each into its canonical status with
`google.rpc` details (`services.chassis.status`), and the client turns it back. All code that has to decide something
by an error (retry, breaker, metrics, evidence of a rollout) asks `kind_of`.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass


class SluiceError(Exception):
    """An error with a machine-readable reason (UPPER_SNAKE_CASE) and details that callers may see.

    `retry_after` is the pause in seconds before another try makes sense; None if it is unknown or if there is none.
    """

    def __init__(
        self, message: str, *, reason: str | None = None, retry_after: float | None = None, **metadata: str
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or kind_of(self).reason
        self.retry_after = retry_after
        self.metadata = metadata


class InvalidArgument(SluiceError):
    """A field of the request is wrong. `field` is its path, as in `documents[3].id`."""

    def __init__(self, field: str, problem: str, *, reason: str | None = None) -> None:
        super().__init__(f"{field}: {problem}", reason=reason)
        self.field = field
        self.problem = problem

    def moved(self, start: int) -> InvalidArgument:
        """Return the error with the place in the first list of its field counted from `start` on."""
        field = re.sub(r"^(\w+)\[(\d+)\]", lambda found: f"{found[1]}[{int(found[2]) + start}]", self.field)
        return InvalidArgument(field, self.problem, reason=self.reason)


class NotFound(SluiceError):
    """Something named in the request does not exist."""


class AlreadyExists(SluiceError):
    """Something named in the request exists already."""


class Unauthenticated(SluiceError):
    """The caller did not show who it is."""


class PermissionDenied(SluiceError):
    """The caller may not do this."""


class FailedPrecondition(SluiceError):
    """The state of the system forbids the call, until an operator changes it."""


class ResourceExhausted(SluiceError):
    """Too much load, or no room left. Without `retry_after`, another try does not help."""


class Unavailable(SluiceError):
    """A dependency is down, or its circuit breaker is open."""


class DeadlineExceeded(SluiceError):
    """The time that the caller gave is over."""


class Unimplemented(SluiceError):
    """The called server does not know this call. Most often its release is older."""


class Cancelled(SluiceError):
    """The work was given up before it ended."""


class Internal(SluiceError):
    """A fault of our own. Its details are in the log, not in the reply."""


class Blame(enum.Enum):
    """The party that caused an error."""

    CALLER = "caller"
    DEPENDENCY = "dependency"
    OURSELVES = "ourselves"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Kind:
    """The properties of one class of errors."""

    error: type[SluiceError]
    code: str
    """Name of the canonical status code."""
    reason: str
    """Reason of an error that names none itself."""
    blame: Blame
    retryable: bool
    """True if the same request may succeed later. Channels retry UNAVAILABLE alone by themselves."""
    trips_breaker: bool
    """True if the error counts as a failure of the called dependency."""
    outcome: str
    """Label of `sluice_searches_total`."""

    @property
    def evidence(self) -> bool:
        """True if the error counts against the feature that was on. Mistakes of callers do not."""
        return self.blame is not Blame.CALLER


KINDS = (
    #    error               code                   reason                 blame             retry  breaker outcome
    Kind(InvalidArgument,    "INVALID_ARGUMENT",    "INVALID_FIELD",       Blame.CALLER,     False, False, "invalid"),
    Kind(NotFound,           "NOT_FOUND",           "NOT_FOUND",           Blame.CALLER,     False, False, "invalid"),
    Kind(AlreadyExists,      "ALREADY_EXISTS",      "ALREADY_EXISTS",      Blame.CALLER,     False, False, "invalid"),
    Kind(Unauthenticated,    "UNAUTHENTICATED",     "UNAUTHENTICATED",     Blame.CALLER,     False, False, "invalid"),
    Kind(PermissionDenied,   "PERMISSION_DENIED",   "PERMISSION_DENIED",   Blame.CALLER,     False, False, "invalid"),
    Kind(FailedPrecondition, "FAILED_PRECONDITION", "FAILED_PRECONDITION", Blame.NOBODY,     False, False, "failed"),
    Kind(ResourceExhausted,  "RESOURCE_EXHAUSTED",  "OVERLOADED",          Blame.NOBODY,     True,  False, "refused"),
    Kind(Unavailable,        "UNAVAILABLE",         "DEPENDENCY_DOWN",     Blame.DEPENDENCY, True,  True,  "failed"),
    Kind(DeadlineExceeded,   "DEADLINE_EXCEEDED",   "DEADLINE_EXCEEDED",   Blame.DEPENDENCY, True,  True,  "late"),
    Kind(Unimplemented,      "UNIMPLEMENTED",       "UNIMPLEMENTED",       Blame.DEPENDENCY, True,  False, "failed"),
    Kind(Cancelled,          "CANCELLED",           "CANCELLED",           Blame.NOBODY,     True,  False, "failed"),
    Kind(Internal,           "INTERNAL",            "INTERNAL",            Blame.OURSELVES,  True,  True,  "failed"),
)  # fmt: skip

_BY_CODE = {kind.code: kind for kind in KINDS}
_BY_ERROR: dict[type[BaseException], Kind] = {TimeoutError: _BY_CODE["DEADLINE_EXCEEDED"]} | {
    kind.error: kind for kind in KINDS
}


def kind_of(error: BaseException) -> Kind:
    """The row of an error. A TimeoutError is a missed deadline, and an unexpected exception a fault of our own."""
    return next((_BY_ERROR[kind] for kind in type(error).__mro__ if kind in _BY_ERROR), _BY_CODE["INTERNAL"])


def kind_of_code(code: str) -> Kind:
    """The row of a canonical code, or that of INTERNAL for other codes."""
    return _BY_CODE.get(code) or _BY_CODE["INTERNAL"]


class StartupError(Exception):
    """A stage cannot start: the problem, and the remedy."""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
