"""Errors of a Qdrant server, over gRPC, as errors of `services.chassis.errors`.

Qdrant's messages stay out of them: they may quote what was stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import grpc

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
MAJORITY = "the majority of Qdrant's nodes"
"""The same, but for a breaker of Qdrant, which serves everything else."""
SHARD_DOWN = "SHARD_DOWN"
"""Reason of an error about a part of a collection that no node holds now, while Qdrant itself answers."""

# A cluster that has lost the majority of its nodes still searches, but changes no collection.
_NO_MAJORITY = re.compile(r"leader is not established|failed to propose|consensus", re.IGNORECASE)
# Limits of a collection, which Qdrant calls its strict mode.
_STRICT = re.compile(r"strict mode|max(imum)?( \w+)? points", re.IGNORECASE)
# Qdrant reports a full disk as an internal error ("No space left on device: WAL buffer size exceeds available disk
# space").
_STORAGE_FULL = re.compile(r"no space left|insufficient storage", re.IGNORECASE)


@contextmanager
def translated() -> Iterator[None]:
    """Raise the errors of a Qdrant server as ours."""
    try:
        yield
    except TimeoutError as error:
        raise DeadlineExceeded("Qdrant did not answer in time", dependency=QDRANT) from error
    except grpc.aio.AioRpcError as error:
        raise _error(error.code(), error.details() or "", _retry_after(error)) from error


def _retry_after(error: grpc.aio.AioRpcError) -> float | None:
    """Return the pause in seconds that Qdrant asks for, if it does."""
    asked = dict(error.trailing_metadata() or ()).get("retry-after")
    try:
        return None if asked is None else float(asked)
    except ValueError:
        return None


def _error(code: grpc.StatusCode, detail: str, retry_after: float | None = None) -> SluiceError:
    """Return the error for a canonical code; `detail` decides where a code means several things."""
    if _STORAGE_FULL.search(detail):
        return ResourceExhausted("Qdrant's storage is full; free some space or add some", reason="STORAGE_FULL")
    if code is not grpc.StatusCode.RESOURCE_EXHAUSTED and _STRICT.search(detail):
        return FailedPrecondition(
            "a limit of this collection refuses it; raise read_rate, write_rate or most_passages (`sluice tune`)",
            reason="COLLECTION_LIMIT",
        )
    if code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN) and _NO_MAJORITY.search(detail):
        return Unavailable(
            "most nodes of Qdrant's cluster do not answer, so no collection can be changed; start them again",
            reason="NO_MAJORITY",
            dependency=MAJORITY,
        )
    if "already exists" in detail:
        code = grpc.StatusCode.ALREADY_EXISTS
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return ResourceExhausted("Qdrant limits the rate of requests", reason="RATE_LIMITED", retry_after=retry_after)
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
}
