"""Errors on the wire: `SluiceError` to a canonical status with `google.rpc` details, and back.

Details: `ErrorInfo{reason, domain, metadata}` always, `BadRequest` with the field for INVALID_ARGUMENT, `RetryInfo`
and the `grpc-retry-pushback-ms` trailer for an error that says when to come back.
"""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from services.chassis.errors import InvalidArgument, ResourceExhausted, SluiceError, kind_of, kind_of_code

DOMAIN = "sluice"
DETAILS_TRAILER = "grpc-status-details-bin"
PUSHBACK_TRAILER = "grpc-retry-pushback-ms"

# gRPC peers accept 8 KiB of metadata a call, and a message goes twice; the name of a field may quote the caller.
_LONGEST_MESSAGE, _LONGEST_METADATA = 1024, 256

Trailers = tuple[tuple[str, str | bytes], ...]


def code_of(error: SluiceError) -> grpc.StatusCode:
    """The canonical code of an error."""
    return grpc.StatusCode[kind_of(error).code]


def message_of(error: SluiceError) -> str:
    """The text of an error, cut to a length that fits into metadata."""
    return _cut(error.message, _LONGEST_MESSAGE)


def trailers_of(error: SluiceError) -> Trailers:
    """The trailing metadata that carries the details of an error."""
    status = status_pb2.Status(code=code_of(error).value[0], message=message_of(error))
    metadata = {key: _cut(value, _LONGEST_METADATA) for key, value in error.metadata.items()}
    _add(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    pushback: Trailers = ()
    if isinstance(error, InvalidArgument):
        field, problem = _cut(error.field, _LONGEST_METADATA), _cut(error.problem, _LONGEST_MESSAGE)
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=problem)
        _add(status, error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after * 1e9))
        _add(status, retry)
        # gRPC's own retries obey this trailer: they wait out a moment of overload, but not (-1) an outage of a minute.
        wait = str(max(1, round(error.retry_after * 1000))) if isinstance(error, ResourceExhausted) else "-1"
        pushback = ((PUSHBACK_TRAILER, wait),)
    return ((DETAILS_TRAILER, status.SerializeToString()), *pushback)


def error_from(call_error: grpc.aio.AioRpcError) -> SluiceError:
    """The error of a failed call. A code that is none of ours becomes INTERNAL, with that code as its reason.

    Its cause is the failed call, unless a server of ours has answered, and logged the cause.
    """
    code = call_error.code()
    kind = kind_of_code(code.name)
    message = call_error.details() or code.name
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for key, value in call_error.trailing_metadata() or ():
        if key == DETAILS_TRAILER and isinstance(value, bytes):
            for packed in status_pb2.Status.FromString(value).details:
                _ = packed.Unpack(info) or packed.Unpack(bad) or packed.Unpack(retry)
    retry_after = retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None
    error: SluiceError
    if kind.error is InvalidArgument:
        violation = next(iter(bad.field_violations), None)
        field, problem = (violation.field, violation.description) if violation else ("request", message)
        error = InvalidArgument(field, problem, reason=info.reason or None)
    else:
        error = kind.error(message, reason=info.reason or code.name, retry_after=retry_after, **info.metadata)
    error.__cause__ = None if info.domain == DOMAIN else call_error
    return error


def _add(status: status_pb2.Status, detail: Message) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


def _cut(text: str, most: int) -> str:
    raw = text.encode()
    return text if len(raw) <= most else f"{raw[:most].decode(errors='ignore')}…"
