"""What can go wrong, in words that mean the same in every stage.

Domain code raises these; it never imports grpc. The server turns each into its canonical status code with a
`google.rpc.ErrorInfo{reason, domain}` (see `services.chassis.interceptors`), and the client turns it back.

    SluiceError
    ├── InvalidArgument      the caller's mistake; names the field and what to send instead
    ├── NotFound             a collection or passage that does not exist
    ├── AlreadyExists        a collection whose name is taken
    ├── FailedPrecondition   the world is not as the call needs it (an index built by another model)
    ├── ResourceExhausted    shed or full; carries when to come back
    ├── Unavailable          a dependency is down or its breaker is open; the only one worth retrying
    ├── DeadlineExceeded     the caller's time is over
    ├── Unimplemented        a call that this server does not know
    ├── Cancelled            the caller, or a hop before us, gave up
    └── Internal             our mistake; the details are in the log, not in the reply
    StartupError             a stage that cannot start: what was tried, and the remedy
"""

from __future__ import annotations


class SluiceError(Exception):
    """An error with a machine-readable reason (UPPER_SNAKE_CASE) and details safe to show to the caller."""

    default_reason = "INTERNAL"

    def __init__(self, message: str, *, reason: str | None = None, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = metadata


class InvalidArgument(SluiceError):
    """The request itself is wrong. `field` is the path of the offending field, as in `documents[3].id`."""

    default_reason = "INVALID_FIELD"

    def __init__(self, field: str, problem: str, *, reason: str | None = None) -> None:
        super().__init__(f"{field}: {problem}", reason=reason, field=field)
        self.field = field


class NotFound(SluiceError):
    """Something named in the request does not exist."""

    default_reason = "NOT_FOUND"


class AlreadyExists(SluiceError):
    """Something named in the request exists already."""

    default_reason = "ALREADY_EXISTS"


class FailedPrecondition(SluiceError):
    """The call is fine, but the state of the system forbids it until somebody changes that state."""

    default_reason = "FAILED_PRECONDITION"


class ResourceExhausted(SluiceError):
    """Shed or full. `retry_after` is the pushback in seconds; None means that retrying will not help."""

    default_reason = "OVERLOADED"

    def __init__(
        self, message: str, *, reason: str | None = None, retry_after: float | None = None, **metadata: str
    ) -> None:
        super().__init__(message, reason=reason, **metadata)
        self.retry_after = retry_after


class Unavailable(SluiceError):
    """A dependency is down, or its circuit breaker is open; `retry_after` says when it is tried again, if known."""

    default_reason = "DEPENDENCY_DOWN"

    def __init__(
        self, message: str, *, reason: str | None = None, retry_after: float | None = None, **metadata: str
    ) -> None:
        super().__init__(message, reason=reason, **metadata)
        self.retry_after = retry_after


class DeadlineExceeded(SluiceError):
    """The time that the caller gave is over."""

    default_reason = "DEADLINE_EXCEEDED"


class Unimplemented(SluiceError):
    """The server at the other end does not know this call: most often an older release."""

    default_reason = "UNIMPLEMENTED"


class Cancelled(SluiceError):
    """The work was given up before it ended; nobody waits for the answer."""

    default_reason = "CANCELLED"


class Internal(SluiceError):
    """A fault of ours."""


class StartupError(Exception):
    """A stage cannot start. The message says what was tried; `remedy` says what to do about it."""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
