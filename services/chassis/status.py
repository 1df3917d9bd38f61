"""Errors on the wire: `SluiceError` to a canonical status with `google.rpc` details, and back.

Details: `ErrorInfo{reason, domain, metadata}` always, `BadRequest` with the field for INVALID_ARGUMENT, `RetryInfo`
and the `grpc-retry-pushback-ms` trailer for RESOURCE_EXHAUSTED that may be retried.
"""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from services.chassis import errors
from services.chassis.errors import InvalidArgument, ResourceExhausted, SluiceError, Unavailable

DOMAIN = "sluice"
DETAILS_TRAILER = "grpc-status-details-bin"
PUSHBACK_TRAILER = "grpc-retry-pushback-ms"

_CODES: dict[type[SluiceError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.Internal: grpc.StatusCode.INTERNAL,
}
_ERRORS: dict[grpc.StatusCode, type[SluiceError]] = {code: error for error, code in _CODES.items()}

# gRPC peers take 8 KiB of metadata a call, and a message goes twice; what names a field may quote the caller at length.
_LONGEST_MESSAGE, _LONGEST_METADATA = 1024, 256

Trailers = tuple[tuple[str, str | bytes], ...]


def code_of(error: SluiceError) -> grpc.StatusCode:
    """The canonical code of an error."""
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def trailers_of(error: SluiceError) -> Trailers:
    """The trailing metadata that carries an error's details."""
    message = message_of(error)
    metadata = {key: _cut(value, _LONGEST_METADATA) for key, value in error.metadata.items()}
    details: list[error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    ]
    pushback: Trailers = ()
    if isinstance(error, InvalidArgument):
        violation = error_details_pb2.BadRequest.FieldViolation(field=_cut(error.field, _LONGEST_METADATA))
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, ResourceExhausted | Unavailable) and error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after * 1e9))
        details.append(retry)
        # gRPC's own retries know one wait for this trailer: an outage of a minute is not waited for in there (-1).
        wait = str(max(1, round(error.retry_after * 1000))) if isinstance(error, ResourceExhausted) else "-1"
        pushback = ((PUSHBACK_TRAILER, wait),)
    status = status_pb2.Status(code=code_of(error).value[0], message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return ((DETAILS_TRAILER, status.SerializeToString()), *pushback)


def message_of(error: SluiceError) -> str:
    """What goes over the wire of an error's message."""
    return _cut(error.message, _LONGEST_MESSAGE)


def _cut(text: str, most: int) -> str:
    raw = text.encode()
    return text if len(raw) <= most else f"{raw[:most].decode(errors='ignore')}…"


def error_from(call_error: grpc.aio.AioRpcError) -> SluiceError:
    """The error that a failed call stands for; a status that is none of ours keeps its code and loses nothing."""
    code = call_error.code()
    kind = _ERRORS.get(code, errors.Internal)
    message = call_error.details() or code.name
    info, retry_after = _details(call_error)
    metadata = dict(info.metadata)
    if kind is InvalidArgument:
        field = metadata.get("field", "request")
        return InvalidArgument(field, message.removeprefix(f"{field}: "), reason=info.reason or None)
    if kind is ResourceExhausted:
        return ResourceExhausted(message, reason=info.reason or None, retry_after=retry_after, **metadata)
    if kind is Unavailable:
        return Unavailable(message, reason=info.reason or code.name, retry_after=retry_after, **metadata)
    return kind(message, reason=info.reason or code.name, **metadata)


def _details(call_error: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo, float | None]:
    info = error_details_pb2.ErrorInfo()
    retry_after: float | None = None
    for key, value in call_error.trailing_metadata() or ():
        if key != DETAILS_TRAILER or not isinstance(value, bytes):
            continue
        for packed in status_pb2.Status.FromString(value).details:
            retry = error_details_pb2.RetryInfo()
            if packed.Is(info.DESCRIPTOR):
                packed.Unpack(info)
            elif packed.Unpack(retry):
                retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    return info, retry_after
