"""Errors of calls: one exception, and one table of codes."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_DETAILS_TRAILER = "grpc-status-details-bin"
_PUSHBACK_TRAILER = "grpc-retry-pushback-ms"


class Blame(enum.Enum):
    """The party that caused an error."""

    CALLER = "caller"
    SERVICE = "service"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Kind:
    """The properties of one canonical code."""

    blame: Blame
    retryable: bool
    """True if the same call may succeed in a moment: the server was busy, out of time or away."""


_KINDS = {
    grpc.StatusCode.INVALID_ARGUMENT: Kind(Blame.CALLER, retryable=False),
    grpc.StatusCode.NOT_FOUND: Kind(Blame.CALLER, retryable=False),
    grpc.StatusCode.ALREADY_EXISTS: Kind(Blame.CALLER, retryable=False),
    grpc.StatusCode.UNAUTHENTICATED: Kind(Blame.CALLER, retryable=False),
    grpc.StatusCode.PERMISSION_DENIED: Kind(Blame.CALLER, retryable=False),
    grpc.StatusCode.OUT_OF_RANGE: Kind(Blame.CALLER, retryable=False),
    grpc.StatusCode.FAILED_PRECONDITION: Kind(Blame.NOBODY, retryable=False),
    grpc.StatusCode.CANCELLED: Kind(Blame.NOBODY, retryable=False),
    grpc.StatusCode.RESOURCE_EXHAUSTED: Kind(Blame.SERVICE, retryable=True),
    grpc.StatusCode.UNAVAILABLE: Kind(Blame.SERVICE, retryable=True),
    grpc.StatusCode.DEADLINE_EXCEEDED: Kind(Blame.SERVICE, retryable=True),
}
_FAULT = Kind(Blame.SERVICE, retryable=False)
"""All other codes: INTERNAL, UNIMPLEMENTED, UNKNOWN, ..."""


class SluiceError(Exception):
    """A call that failed, or that could not be sent."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        field: str = "",
        retry_after: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(f"{code.name} ({reason}): {message}")
        self.code = code
        """The canonical code: INVALID_ARGUMENT, NOT_FOUND, UNAVAILABLE, ..."""
        self.reason = reason
        """For machines: an UPPER_SNAKE_CASE word. UNREACHABLE where the server could not be reached; the name of the
        code where the server gave no reason."""
        self.message = message
        """The reason, and often the remedy, in words."""
        self.field = field
        """Path of the wrong field of the request, as in `documents[3].id`; empty where no field is wrong."""
        self.retry_after = retry_after
        """Pause in seconds that the server asks for before the next try; None where it did not say."""
        self.request_id = request_id
        """Finds the request in logs and traces; empty where none was sent."""

    @property
    def blame(self) -> Blame:
        """The party that caused the error."""
        return _KINDS.get(self.code, _FAULT).blame

    @property
    def retryable(self) -> bool:
        """True if the same call may succeed in a moment."""
        # A server that has no room left, instead of no time, does not say when to come back.
        full = self.code is grpc.StatusCode.RESOURCE_EXHAUSTED and self.retry_after is None
        return _KINDS.get(self.code, _FAULT).retryable and not full


def invalid(field: str, problem: str, reason: str = "INVALID_FIELD") -> SluiceError:
    """Make the error for a value that cannot be sent."""
    return SluiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, f"{field}: {problem}", field=field)


def error_from(call_error: grpc.aio.AioRpcError, server: str, request_id: str) -> SluiceError:
    """Read the error of a failed call, with the server's details.

    UNAVAILABLE without details comes from the transport: the server is UNREACHABLE.
    """
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    trailers = dict(call_error.trailing_metadata() or ())
    for packed in _details(trailers.get(_DETAILS_TRAILER)):
        _ = packed.Unpack(info) or packed.Unpack(bad) or packed.Unpack(retry)
    retry_after = None
    if retry.HasField("retry_delay"):
        retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    elif (pushback := str(trailers.get(_PUSHBACK_TRAILER, ""))).isdecimal():
        retry_after = int(pushback) / 1000
    code = call_error.code()
    reason, message = info.reason or code.name, call_error.details() or code.name
    if code is grpc.StatusCode.UNAVAILABLE and not info.reason:
        reason, message = "UNREACHABLE", f"{server} cannot be reached: {message}"
    return SluiceError(
        code,
        reason,
        message,
        field=bad.field_violations[0].field if bad.field_violations else info.metadata.get("field", ""),
        retry_after=retry_after,
        request_id=request_id,
    )


def _details(trailer: str | bytes | None) -> Sequence[any_pb2.Any]:
    if not isinstance(trailer, bytes):
        return ()
    try:
        details: Sequence[any_pb2.Any] = status_pb2.Status.FromString(trailer).details
    except DecodeError:
        return ()
    return details
