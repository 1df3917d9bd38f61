"""Errors of qdrant-client, over gRPC, over HTTP and embedded, as errors of `services.chassis.errors`.

Qdrant's messages stay out of them: they may quote what was stored.
"""

from __future__ import annotations

import errno
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import grpc
import httpx
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from services.chassis.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    SluiceError,
    Unavailable,
)

QDRANT = "Qdrant"
"""The dependency that errors name, so that breakers for this stage do not count them."""

_HTTP_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.ALREADY_EXISTS,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
    507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}

# Qdrant reports a full disk as an internal error ("No space left on device: WAL buffer size exceeds available disk
# space"), SQLite as "database or disk is full".
_STORAGE_FULL = re.compile(r"no space left|disk is full|insufficient storage", re.IGNORECASE)


@contextmanager
def translated() -> Iterator[None]:
    """Raise the errors of a Qdrant server as ours."""
    try:
        yield
    except TimeoutError as error:
        raise DeadlineExceeded("Qdrant did not answer in time", dependency=QDRANT) from error
    except ResourceExhaustedResponse as error:
        raise ResourceExhausted(
            "Qdrant limits the rate of requests", reason="RATE_LIMITED", retry_after=float(error.retry_after_s)
        ) from error
    except grpc.aio.AioRpcError as error:
        raise _error(error.code(), error.details() or "") from error
    except UnexpectedResponse as error:
        code = _HTTP_CODES.get(error.status_code or 500, grpc.StatusCode.INTERNAL)
        raise _error(code, error.content.decode(errors="replace")) from error
    except ResponseHandlingException as error:
        if isinstance(error.source, httpx.TimeoutException):
            raise DeadlineExceeded("Qdrant did not answer in time", dependency=QDRANT) from error
        if isinstance(error.source, httpx.TransportError):
            raise _error(grpc.StatusCode.UNAVAILABLE, "") from error
        raise Internal("Qdrant's answer makes no sense to this client", dependency=QDRANT) from error


def embedded_error(error: ValueError | OSError | sqlite3.Error) -> SluiceError:
    """Return our error for one of the embedded engine, which raises ValueError, or those of its disk and SQLite."""
    if isinstance(error, ValueError) and "not found" in str(error):
        return _error(grpc.StatusCode.NOT_FOUND, "")
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    found = _error(grpc.StatusCode.INTERNAL, "no space left" if full else str(error))
    found.metadata.pop("dependency", None)  # the engine is part of this process
    return found


def _error(code: grpc.StatusCode, detail: str) -> SluiceError:
    """Return the error for a canonical code; `detail` decides where a code means several things."""
    if _STORAGE_FULL.search(detail):
        return ResourceExhausted("Qdrant's storage is full; free some space or add some", reason="STORAGE_FULL")
    if "already exists" in detail:
        code = grpc.StatusCode.ALREADY_EXISTS
    make = _ERRORS.get(code)
    return make() if make else Internal(f"Qdrant failed with {code.name}", dependency=QDRANT)


_unavailable = partial(Unavailable, "Qdrant cannot be reached", dependency=QDRANT)
_refused = partial(InvalidArgument, "request", "Qdrant refuses it; its log says why", reason="QDRANT_REFUSED")
_denied = partial(FailedPrecondition, "Qdrant denies access; check QDRANT_API_KEY", reason="QDRANT_DENIED")
_unable = partial(FailedPrecondition, "this Qdrant cannot do that now; its log says why", reason="QDRANT_REFUSED")

_ERRORS: dict[grpc.StatusCode, Callable[[], SluiceError]] = {
    grpc.StatusCode.UNAVAILABLE: _unavailable,
    grpc.StatusCode.CANCELLED: _unavailable,  # the server's doing: our own cancellations are CancelledError
    grpc.StatusCode.ABORTED: _unavailable,
    grpc.StatusCode.INVALID_ARGUMENT: _refused,
    grpc.StatusCode.OUT_OF_RANGE: _refused,
    grpc.StatusCode.UNAUTHENTICATED: _denied,
    grpc.StatusCode.PERMISSION_DENIED: _denied,
    grpc.StatusCode.FAILED_PRECONDITION: _unable,
    grpc.StatusCode.UNIMPLEMENTED: _unable,
    grpc.StatusCode.NOT_FOUND: partial(NotFound, "Qdrant does not have that"),
    grpc.StatusCode.ALREADY_EXISTS: partial(AlreadyExists, "Qdrant has that already"),
    grpc.StatusCode.DEADLINE_EXCEEDED: partial(DeadlineExceeded, "Qdrant did not answer in time", dependency=QDRANT),
    grpc.StatusCode.RESOURCE_EXHAUSTED: partial(
        ResourceExhausted, "Qdrant limits the rate of requests", reason="RATE_LIMITED"
    ),
}
