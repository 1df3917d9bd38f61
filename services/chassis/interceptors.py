"""The interceptor around every call of every stage.

It reads, admits, decodes, traces, counts, logs, and turns errors into statuses. It is one, so that the order is plain
to see. Health and reflection pass through untouched: they must answer while everything else is refused, and would fill
the logs.
"""

from __future__ import annotations

import asyncio
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    aclosing,
    asynccontextmanager,
)
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from services.chassis import logs, status, tracing
from services.chassis.access.gate import Gate
from services.chassis.access.identity import NOBODY, Caller, caller_of, set_caller
from services.chassis.access.rpcs import rpc_of
from services.chassis.admission.callers import PLAIN, fair_name, machine_of
from services.chassis.admission.concurrency import ConcurrencyLimit
from services.chassis.admission.memory import MessageBudget
from services.chassis.audit.calls import Audit, AuditedCall, AuditedMethod
from services.chassis.errors import Blame, Cancelled, DeadlineExceeded, Internal, InvalidArgument, SluiceError, kind_of
from services.chassis.metrics import MethodMetrics, ServerMetrics
from services.chassis.validation import undecodable

REQUEST_ID = "x-request-id"
CALLER = "x-sluice-caller"
request_id: ContextVar[str] = ContextVar("request_id", default="")
caller: ContextVar[str] = ContextVar("caller", default="")
"""The name of the caller, for fairness; the stages that are called for it hear it, too."""

_log = logs.get_logger("rpc")
_OURS = "/sluice."
# gRPC itself adds this to a call that it sends again (gRFC A6).
_RETRIES = "grpc-previous-rpc-attempts"

Context = grpc.aio.ServicerContext[Any, Any]
Call = Callable[[Any, Context], Awaitable[Any]]
Stream = Callable[[Any, Context], AsyncIterator[Any]]
Around = Callable[[Context], AbstractAsyncContextManager[None]]
"""The context of one call."""
Requested = Callable[[Context], AbstractAsyncContextManager[Message]]
"""The request of one call, for the time of its work."""


class Share(Protocol):
    """The place of one call in the quotas."""

    def holding(self, size: int) -> AbstractContextManager[None]:
        """Count the bytes of the call's request while the block runs, or raise ResourceExhausted."""


class Quotas(Protocol):
    """Limits of each caller."""

    def admitted(self, caller: Caller, machine: str, seconds_left: float | None) -> AbstractAsyncContextManager[Share]:
        """Count one call while the block runs, or raise ResourceExhausted."""


@dataclass(frozen=True, slots=True)
class Admission:
    """All that a request passes before it is decoded.

    `budget` bounds the memory of messages, and `quotas`, if given, what one caller has. `limit`, if given, makes calls
    over it wait; `bulk_methods` wait longest. The callers of a stage at the `edge` are no stages. `collection` is meant
    where a request names none.
    """

    budget: MessageBudget
    limit: ConcurrencyLimit | None = None
    bulk_methods: frozenset[str] = frozenset()
    quotas: Quotas | None = None
    edge: bool = False
    collection: str = ""


class StageInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the calls of our own services.

    `gate` tells who calls, and refuses; `admission` bounds what calls take; `audit`, if given, writes it down.
    """

    def __init__(self, metrics: ServerMetrics, gate: Gate, admission: Admission, audit: Audit | None = None) -> None:
        self._audit = audit
        self._metrics = metrics
        self._gate = gate
        self._admission = admission
        # By method, because gRPC asks at every call.
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Replace a handler of ours by the wrapped one."""
        method = handler_call_details.method
        if (known := self._wrapped.get(method)) is not None:
            return known
        handler = await continuation(handler_call_details)
        if handler is None or not method.startswith(_OURS):
            return handler
        service, _, name = method.strip("/").partition("/")
        streams = handler.response_streaming
        admission = self._admission
        # The generated deserializer is `XRequest.FromString`: a method bound to the message type.
        request_type: type[Message] = cast(Any, handler.request_deserializer).__self__
        audited = self._audit.method(method.strip("/"), request_type) if self._audit else None
        counted = self._metrics.method(service, name)
        around = _around(method, counted, self._gate, audited, timed=not streams, edge=admission.edge)
        # The limit learns from the length of calls, and a stream has none that means anything.
        limit = None if streams else admission.limit
        admit = partial(self._gate.admit, rpc_of(method), admission.collection)
        requested = _requested(request_type, admit, admission, limit, audited, bulk=name in admission.bulk_methods)
        wrapped: grpc.RpcMethodHandler[Any, Any]
        # Of a call that takes a stream of requests, gRPC leaves the reading to us: before that we can refuse it.
        if streams:
            wrapped = grpc.stream_stream_rpc_method_handler(
                _wrap_stream(cast(Stream, handler.unary_stream), around, requested),
                response_serializer=handler.response_serializer,
            )
        else:
            wrapped = grpc.stream_unary_rpc_method_handler(
                _wrap(cast(Call, handler.unary_unary), around, requested),
                response_serializer=handler.response_serializer,
            )
        self._wrapped[method] = wrapped
        return wrapped


def _wrap(handle: Call, around: Around, requested: Requested) -> Call:
    async def call(_requests: object, context: Context) -> Message:
        async with around(context):
            async with requested(context) as request:
                answering = handle(request, context)
                del request  # so that an error cannot keep it
                reply: Message = await answering
            return reply

    return call


def _wrap_stream(handle: Stream, around: Around, requested: Requested) -> Call:
    async def stream(_requests: object, context: Context) -> None:
        # Written from here instead of being yielded: a caller that leaves then cancels this coroutine, where a
        # generator would only be dropped, between two of its steps, without clean-up.
        async with (
            around(context),
            requested(context) as request,
            aclosing(cast(Any, handle(request, context))) as replies,
        ):
            async for reply in replies:
                await context.write(reply)

    return stream


def _requested(
    request_type: type[Message],
    admit: Callable[[Message], None],
    admission: Admission,
    limit: ConcurrencyLimit | None,
    audited: AuditedMethod | None,
    *,
    bulk: bool,
) -> Requested:
    """Admit, read and decode the request of a call, in this order: what is refused costs the least."""
    budget, quotas = admission.budget, admission.quotas

    @asynccontextmanager
    async def requested(context: Context) -> AsyncIterator[Message]:
        async with AsyncExitStack() as stack:
            share = None
            if quotas is not None:
                share = await stack.enter_async_context(
                    quotas.admitted(caller_of(), machine_of(context.peer()), context.time_remaining())
                )
            raw = cast(bytes, await budget.receive(context.read, caller.get()))
            if not isinstance(raw, bytes):  # gRPC's mark for the end
                raise InvalidArgument("request", "is missing: the call ended without a message")
            held = [raw]
            del raw
            size = len(held[0])
            if share is not None:
                stack.enter_context(share.holding(size))
            stack.enter_context(budget.reserved(size))
            if limit is not None:
                await stack.enter_async_context(
                    limit.admitted(bulk=bulk, seconds_left=context.time_remaining(), caller=caller.get())
                )
            yield _decoded(request_type, held.pop(), admit, audited)

    return requested


def _decoded(
    request_type: type[Message], raw: bytes, admit: Callable[[Message], None], audited: AuditedMethod | None
) -> Message:
    try:
        request = request_type.FromString(raw)
    except DecodeError:
        raise undecodable(request_type, raw) from None
    if audited is not None:
        audited.see(request)
    admit(request)
    return request


def _around(
    method: str, counted: MethodMetrics, gate: Gate, audited: AuditedMethod | None, *, timed: bool, edge: bool
) -> Around:
    """The context of each call of a method. `timed` is False where the length of a call has no meaning."""
    path = method.strip("/")

    @asynccontextmanager
    async def around(context: Context) -> AsyncIterator[None]:
        started = time.perf_counter()
        metadata = tuple(context.invocation_metadata() or ())
        identity, peer = _plain(metadata, REQUEST_ID) or uuid.uuid4().hex, context.peer()
        request_id.set(identity)
        caller.set(machine_of(peer))
        structlog.contextvars.bind_contextvars(request_id=identity)
        counted.started(retried=any(key == _RETRIES for key, _ in metadata), time_left=context.time_remaining())
        code, reason, who = grpc.StatusCode.CANCELLED, "", NOBODY
        entry = audited.begin() if audited is not None else None
        with tracing.server_span(path, metadata, identity) as span:
            try:
                who = gate.identify(context.auth_context(), metadata)
                set_caller(who)
                caller.set(fair_name(who, _plain(metadata, CALLER), peer, edge=edge))
                if audited is not None:
                    audited.check()
                yield
                if audited is not None and entry is not None:
                    await audited.done(entry, AuditedCall(who, caller.get(), peer, identity))
                code = grpc.StatusCode.OK
            except (Exception, asyncio.CancelledError) as fault:
                if isinstance(fault, asyncio.CancelledError) and _cancelled_from_outside():
                    if _deadline_passed(context):
                        code = grpc.StatusCode.DEADLINE_EXCEEDED
                    raise
                error = _as_error(fault, method)
                code, reason = status.code_of(error), error.reason
                message, trailers = status.message_of(error), status.trailers_of(error)
                _let_go(error)
                del error
                await context.abort(code, message, trailers)
            finally:
                seconds = time.perf_counter() - started
                counted.ended(code.name, seconds if timed else None)
                tracing.end_with_code(span, code.name)
                if audited is not None and entry is not None:
                    audited.ended(entry, AuditedCall(who, caller.get(), peer, identity), code.name, reason)
                _log.info("call", method=method, code=code.name, reason=reason, ms=round(seconds * 1000, 2))

    return around


def _let_go(error: BaseException | None) -> None:
    """Free what the frames of an error hold, as a large request; else it stays until cycles are collected."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _cancelled_from_outside() -> bool:
    """True if the caller left, the deadline passed, or the server stops."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _as_error(fault: BaseException, method: str) -> SluiceError:
    """The error that the caller is told. The log has what the caller must not see of an unexpected exception."""
    match fault:
        case SluiceError():
            _log_cause(fault, method)
            return fault
        case TimeoutError():
            return DeadlineExceeded("the deadline passed before the work was done")
        case asyncio.CancelledError():
            # The work cancelled itself; if that escaped, the caller would wait until its deadline.
            return Cancelled("the work was given up")
    _log.error("unexpected error", method=method, exc_info=fault)
    return Internal(f"unexpected error; the log has it under request {request_id.get()}")


def _log_cause(error: SluiceError, method: str) -> None:
    """Log the cause of an error. An error from another stage has none: it is in the log of that stage."""
    cause, blame = error.__cause__, kind_of(error).blame
    if cause is None or blame is Blame.CALLER or isinstance(error, DeadlineExceeded | Cancelled):
        return
    log = _log.error if blame is Blame.OURSELVES else _log.warning
    log("call failed", method=method, problem=error.message, cause=_described(cause))


def _described(cause: BaseException) -> str:
    """One line on a foreign exception. The text of most is left out, because it may quote a query or a document."""
    if isinstance(cause, grpc.aio.AioRpcError):
        name, detail = cause.code().name, cause.details() if cause.code() is grpc.StatusCode.UNAVAILABLE else ""
    else:
        name, detail = type(cause).__name__, str(cause) if isinstance(cause, OSError) else ""
    return f"{name}: {detail}" if detail else name


def _plain(metadata: tuple[tuple[str, str | bytes], ...], name: str) -> str:
    given = next((value for key, value in metadata if key == name), "")
    return given if isinstance(given, str) and PLAIN.fullmatch(given) else ""


def _deadline_passed(context: Context) -> bool:
    remaining = context.time_remaining()
    return remaining is not None and remaining <= 0
